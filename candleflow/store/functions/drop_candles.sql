-- Deletes the candles that have no trades any more, and returns how many. Keeps those whose trades didn't come from
-- Kafka, because the row is the only record of them, and roll-ups with ids that are in no finest candle (see
-- without_losses).
CREATE FUNCTION drop_candles(empty candles[], finest text, size interval) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    dropped bigint;
BEGIN
    DELETE FROM candles c USING unnest(empty) e
    WHERE (c.symbol, c.interval, c.open_time) = (e.symbol, e.interval, e.open_time)
        AND CASE
            WHEN c.source <> 'trades' THEN false
            WHEN c.interval = finest THEN true
            ELSE possible_ids(c) <@ tiled_ids(c.symbol, finest, size,
                c.open_time - interval '1 day', c.end_time + interval '1 day') END;
    GET DIAGNOSTICS dropped = ROW_COUNT;
    RETURN dropped;
END
$$;
