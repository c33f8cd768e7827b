-- Converts a timestamp to microseconds since the epoch.
CREATE FUNCTION to_microseconds(at timestamptz) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT (extract(epoch FROM at) * 1000000)::bigint $$;
