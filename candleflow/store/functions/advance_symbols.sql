-- Updates each symbol of the batch: its last trade, if the batch has a later one, and its newest open time. Returns the
-- newest open times of the changed symbols, in the format of newest_open_times.
CREATE FUNCTION advance_symbols(partials partial_candle[], merged_at timestamptz) RETURNS jsonb
LANGUAGE plpgsql AS $$
DECLARE
    moved jsonb;
BEGIN
    WITH moving AS (
        INSERT INTO symbols AS s
            (symbol, last_trade_id, last_price, last_trade_time, newest_open_time, updated_at)
        SELECT p.symbol,
            max(p.last_trade_id),
            (array_agg(p.close ORDER BY p.last_trade_id DESC))[1],
            from_microseconds((array_agg(p.last_trade_time ORDER BY p.last_trade_id DESC))[1]),
            from_microseconds(max(p.open_time)),
            merged_at
        FROM unnest(partials) p
        GROUP BY p.symbol
        ORDER BY p.symbol
        ON CONFLICT (symbol) DO UPDATE SET
            (last_trade_id, last_price, last_trade_time) = (
                SELECT t.last_trade_id, t.last_price, t.last_trade_time
                FROM (VALUES (s.last_trade_id, s.last_price, s.last_trade_time, false),
                    (excluded.last_trade_id, excluded.last_price, excluded.last_trade_time, true))
                    t(last_trade_id, last_price, last_trade_time, is_of_batch)
                WHERE t.is_of_batch = is_later(
                    excluded.last_trade_id, excluded.last_trade_time, s.last_trade_id, s.last_trade_time)),
            newest_open_time = greatest(s.newest_open_time, excluded.newest_open_time),
            updated_at = excluded.updated_at
        WHERE excluded.newest_open_time > s.newest_open_time OR is_later(
            excluded.last_trade_id, excluded.last_trade_time, s.last_trade_id, s.last_trade_time)
        RETURNING s.symbol, s.newest_open_time
    )
    SELECT coalesce(jsonb_object_agg(m.symbol, m.newest_open_time), '{}') INTO moved FROM moving m;
    RETURN moved;
END
$$;
