-- Returns held_ids(candle), or all ids from first to last if the shorter candles lack some: a superset of the ids that
-- may be in the candle.
CREATE FUNCTION possible_ids(candle candles) RETURNS int8multirange
LANGUAGE plpgsql STABLE AS $$
DECLARE
    held constant int8multirange := held_ids(candle);
BEGIN
    RETURN CASE WHEN candle.trade_ids IS NULL AND id_count(held) < candle.trade_count
        THEN int8multirange(int8range(candle.first_trade_id, candle.last_trade_id + 1)) ELSE held END;
END
$$;
