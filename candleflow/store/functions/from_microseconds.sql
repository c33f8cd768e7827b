-- Converts microseconds since the epoch to a timestamp. In two steps, because an interval times a number is computed in
-- double precision, which can't represent every microsecond up to the year 9999.
CREATE FUNCTION from_microseconds(time_us bigint) RETURNS timestamptz
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT timestamptz '1970-01-01 00:00:00+00'
        + (time_us / 1000000) * interval '1 second' + (time_us % 1000000) * interval '1 microsecond'
$$;
