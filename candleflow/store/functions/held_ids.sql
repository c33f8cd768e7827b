-- Returns the ids of the trades in a stored candle. A row without a set has all ids from first to last, or those of the
-- candles of the next shorter roll-up.
CREATE FUNCTION held_ids(candle candles) RETURNS int8multirange
LANGUAGE plpgsql STABLE PARALLEL SAFE AS $$
BEGIN
    IF candle.trade_ids IS NOT NULL OR candle.trade_count IS NULL THEN
        RETURN candle.trade_ids;
    ELSIF candle.trade_count = candle.last_trade_id - candle.first_trade_id + 1 THEN
        RETURN int8multirange(int8range(candle.first_trade_id, candle.last_trade_id + 1));
    END IF;
    RETURN (
        SELECT coalesce(range_agg(held_ids(c)), '{}') FROM candles c
        WHERE c.symbol = candle.symbol AND c.open_time >= candle.open_time AND c.open_time < candle.end_time
            AND c.interval = CASE candle.interval
                WHEN '1d' THEN '1h' WHEN '1h' THEN '15m' WHEN '15m' THEN '5m' ELSE '1m' END
    );
END
$$;
