-- Inserts or replaces candles, and returns how many differed from the stored ones. Closed candles stay closed. Only
-- changed ones get a higher revision.
CREATE FUNCTION put_candles(fresh candles[]) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    changed bigint;
BEGIN
    INSERT INTO candles AS c (symbol, interval, open_time, end_time, open, high, low, close, volume,
        quote_volume, taker_buy_volume, taker_buy_quote_volume, trade_count, first_trade_id, last_trade_id,
        trade_ids, is_closed, revision, source, updated_at)
    SELECT f.symbol, f.interval, f.open_time, f.end_time, f.open, f.high, f.low, f.close, f.volume,
        f.quote_volume, f.taker_buy_volume, f.taker_buy_quote_volume, f.trade_count, f.first_trade_id,
        f.last_trade_id, f.trade_ids, f.end_time <= s.newest_open_time, 1, f.source, f.updated_at
    FROM unnest(fresh) WITH ORDINALITY f JOIN symbols s ON s.symbol = f.symbol
    ORDER BY f.ordinality
    ON CONFLICT (symbol, interval, open_time) DO UPDATE SET
        end_time = excluded.end_time,
        open = excluded.open,
        high = excluded.high,
        low = excluded.low,
        close = excluded.close,
        volume = excluded.volume,
        quote_volume = excluded.quote_volume,
        taker_buy_volume = excluded.taker_buy_volume,
        taker_buy_quote_volume = excluded.taker_buy_quote_volume,
        trade_count = excluded.trade_count,
        first_trade_id = excluded.first_trade_id,
        last_trade_id = excluded.last_trade_id,
        trade_ids = excluded.trade_ids,
        revision = c.revision + 1,
        source = excluded.source,
        updated_at = excluded.updated_at
    WHERE NOT same_amounts(c, excluded);
    GET DIAGNOSTICS changed = ROW_COUNT;
    RETURN changed;
END
$$;
