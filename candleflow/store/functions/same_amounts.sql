-- Returns whether two candles have the same trades' values: everything but flags, revision, source and update time. A
-- missing set of ids counts as equal.
CREATE FUNCTION same_amounts(one candles, other candles) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT (one.end_time, one.open, one.high, one.low, one.close, one.volume, one.quote_volume,
            one.taker_buy_volume, one.taker_buy_quote_volume, one.trade_count, one.first_trade_id,
            one.last_trade_id)
        IS NOT DISTINCT FROM (other.end_time, other.open, other.high, other.low, other.close, other.volume,
            other.quote_volume, other.taker_buy_volume, other.taker_buy_quote_volume, other.trade_count,
            other.first_trade_id, other.last_trade_id)
        AND coalesce(one.trade_ids = other.trade_ids, true)
$$;
