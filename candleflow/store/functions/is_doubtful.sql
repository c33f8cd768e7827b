-- Returns whether [begin_us, end_us) overlaps one of the stretches in doubtful, [[since, until], ...].
CREATE FUNCTION is_doubtful(begin_us bigint, end_us bigint, doubtful jsonb) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT EXISTS (
        SELECT FROM jsonb_array_elements(doubtful) d
        WHERE (d ->> 0)::bigint < end_us AND begin_us < (d ->> 1)::bigint
    )
$$;
