-- Returns the ids of the symbol's finest candles that open in [since, until). Of sliding windows, only those that don't
-- overlap, so that every trade appears once.
CREATE FUNCTION tiled_ids(symbol text, finest text, size interval, since timestamptz, until timestamptz)
RETURNS int8multirange
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN (
        SELECT coalesce(range_agg(held_ids(c)), '{}') FROM candles c
        WHERE c.symbol = tiled_ids.symbol AND c.interval = finest AND c.open_time >= since
            AND c.open_time < until
            AND date_bin(size, c.open_time, timestamptz '1970-01-01 00:00:00+00') = c.open_time
    );
END
$$;
