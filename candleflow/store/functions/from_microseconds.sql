-- A time in microseconds since the epoch as a timestamp. In two steps, as an interval times a number goes by
-- way of a double, which holds neither every microsecond of the year 9999 nor a fraction of one exactly.
CREATE FUNCTION from_microseconds(time_us bigint) RETURNS timestamptz
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT timestamptz '1970-01-01 00:00:00+00'
        + (time_us / 1000000) * interval '1 second' + (time_us % 1000000) * interval '1 microsecond'
$$;
