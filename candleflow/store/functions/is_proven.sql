-- Returns whether a candle is complete, by the rule of prove_completeness.
CREATE FUNCTION is_proven(candle candles) RETURNS boolean
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN candle.trade_count = candle.last_trade_id - candle.first_trade_id + 1 AND coalesce((
        SELECT p.last_trade_id FROM candles p
        WHERE p.symbol = candle.symbol AND p.interval = candle.interval
            AND p.open_time <= candle.open_time - (candle.end_time - candle.open_time)
        ORDER BY p.open_time DESC LIMIT 1
    ) + 1 = candle.first_trade_id, false);
END
$$;
