-- Aggregates the stored finest candles into the symbol's roll-ups that contain since or overlap [since, until), up to
-- the length longest_us, with their sets of ids. Leaves out roll-ups that overlap a doubtful stretch.
CREATE FUNCTION fold_roll_ups(
    symbol text, since bigint, until bigint, longest_us bigint, doubtful jsonb, windows jsonb,
    replaced_at timestamptz
) RETURNS candles[]
LANGUAGE plpgsql STABLE AS $$
DECLARE
    finest constant text := windows ->> 'interval';
    finest_us constant bigint := windows ->> 'size_us';
    last_us constant bigint := greatest(until - 1, since);
BEGIN
    RETURN (
        WITH tiles AS MATERIALIZED (  -- a single index scan, whatever the statistics say
            SELECT c.*, to_microseconds(c.open_time) AS open_us, held_ids(c) AS ids
            FROM candles c
            WHERE c.symbol = fold_roll_ups.symbol AND c.interval = finest
                AND c.open_time >= from_microseconds(since - since % longest_us)
                AND c.open_time < from_microseconds(last_us - last_us % longest_us + longest_us)
                AND to_microseconds(c.open_time) % finest_us = 0
        ), folded AS (
            SELECT r.name, t.open_us - t.open_us % r.size_us AS open_us, r.size_us,
                (array_agg(t.open ORDER BY t.first_trade_id))[1] AS open,
                max(t.high) AS high,
                min(t.low) AS low,
                (array_agg(t.close ORDER BY t.last_trade_id DESC))[1] AS close,
                sum(t.volume) AS volume,
                sum(t.quote_volume) AS quote_volume,
                sum(t.taker_buy_volume) AS taker_buy_volume,
                sum(t.taker_buy_quote_volume) AS taker_buy_quote_volume,
                sum(t.trade_count)::bigint AS trade_count,
                min(t.first_trade_id) AS first_trade_id,
                max(t.last_trade_id) AS last_trade_id,
                range_agg(t.ids) AS trade_ids,
                CASE WHEN min(t.source) = max(t.source) THEN min(t.source) ELSE 'mixed' END AS source,
                sum(t.revision)::integer AS revision  -- not the roll-up's own revision: it makes different states distinguishable
            FROM tiles t
                JOIN roll_ups() r ON r.size_us % finest_us = 0 AND r.name <> finest AND r.size_us <= longest_us
                    AND t.open_us >= since - since % r.size_us
                    AND t.open_us < last_us - last_us % r.size_us + r.size_us
            GROUP BY 1, 2, 3
        )
        SELECT coalesce(array_agg(
            ROW(fold_roll_ups.symbol, f.name, from_microseconds(f.open_us),
                from_microseconds(f.open_us + f.size_us), f.open,
                f.high, f.low, f.close, f.volume, f.quote_volume, f.taker_buy_volume, f.taker_buy_quote_volume,
                f.trade_count, f.first_trade_id, f.last_trade_id, f.trade_ids, false, false, f.revision, f.source,
                replaced_at)::candles
            ORDER BY f.name, f.open_us), '{}')
        FROM folded f WHERE NOT is_doubtful(f.open_us, f.open_us + f.size_us, doubtful)
    );
END
$$;
