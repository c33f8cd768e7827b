-- Merges a batch's candles into the stored ones: open by least first id, close by greatest last id, extremes, sums and
-- the union of ids. More history doesn't raise the revision of a candle that was made from history only.
CREATE FUNCTION merge_candles(batch candles[], keeps_ids boolean[], newest jsonb) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO candles AS c (symbol, interval, open_time, end_time, open, high, low, close, volume,
        quote_volume, taker_buy_volume, taker_buy_quote_volume, trade_count, first_trade_id, last_trade_id,
        trade_ids, is_closed, is_complete, source, updated_at)
    SELECT b.symbol, b.interval, b.open_time, b.end_time, b.open, b.high, b.low, b.close, b.volume,
        b.quote_volume, b.taker_buy_volume, b.taker_buy_quote_volume, b.trade_count, b.first_trade_id,
        b.last_trade_id, CASE WHEN keeps_ids[b.ordinality] THEN b.trade_ids END,
        coalesce(b.end_time <= (newest ->> b.symbol)::timestamptz, false),
        b.is_complete, b.source, b.updated_at
    FROM unnest(batch) WITH ORDINALITY b
    ORDER BY b.ordinality
    ON CONFLICT (symbol, interval, open_time) DO UPDATE SET
        open = CASE WHEN excluded.first_trade_id < c.first_trade_id THEN excluded.open ELSE c.open END,
        high = greatest(c.high, excluded.high),
        low = least(c.low, excluded.low),
        close = CASE WHEN excluded.last_trade_id > c.last_trade_id THEN excluded.close ELSE c.close END,
        volume = c.volume + excluded.volume,
        quote_volume = c.quote_volume + excluded.quote_volume,
        taker_buy_volume = c.taker_buy_volume + excluded.taker_buy_volume,
        taker_buy_quote_volume = c.taker_buy_quote_volume + excluded.taker_buy_quote_volume,
        trade_count = c.trade_count + excluded.trade_count,
        first_trade_id = least(c.first_trade_id, excluded.first_trade_id),
        last_trade_id = greatest(c.last_trade_id, excluded.last_trade_id),
        trade_ids = CASE WHEN excluded.trade_ids IS NOT NULL
            THEN coalesce(c.trade_ids, held_ids(c)) + excluded.trade_ids END,
        is_closed = c.is_closed OR excluded.is_closed,
        revision = c.revision
            + (c.is_closed AND (excluded.source = 'trades' OR c.source <> excluded.source))::integer,
        source = CASE WHEN c.source = excluded.source THEN c.source ELSE 'mixed' END,
        updated_at = excluded.updated_at;
END
$$;
