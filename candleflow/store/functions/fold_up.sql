-- Aggregates candles that don't overlap into those of a longer interval, ordered by symbol and time.
CREATE FUNCTION fold_up(tiles candles[], longer text, size_us bigint) RETURNS candles[]
LANGUAGE plpgsql STABLE AS $$
DECLARE
    epoch constant timestamptz := timestamptz '1970-01-01 00:00:00+00';
    size constant interval := from_microseconds(size_us) - epoch;
BEGIN
    RETURN (
        SELECT array_agg(
            ROW(f.symbol, longer, f.open_time, f.open_time + size, f.open, f.high, f.low, f.close, f.volume,
                f.quote_volume, f.taker_buy_volume, f.taker_buy_quote_volume, f.trade_count, f.first_trade_id,
                f.last_trade_id, f.trade_ids, false,
                (f.trade_count = f.last_trade_id - f.first_trade_id + 1
                    AND f.open_time = f.open_time_before + size AND f.first_trade_id = f.id_before + 1) IS TRUE,
                0, f.source, f.updated_at)::candles
            ORDER BY f.symbol, f.open_time)
        FROM (
            SELECT g.*, lag(g.open_time) OVER w AS open_time_before, lag(g.last_trade_id) OVER w AS id_before
            FROM (
                SELECT t.symbol, date_bin(size, t.open_time, epoch) AS open_time,
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
                    range_agg(t.trade_ids) AS trade_ids,
                    min(t.source) AS source,
                    min(t.updated_at) AS updated_at
                FROM unnest(tiles) t
                GROUP BY 1, 2
            ) g WINDOW w AS (PARTITION BY g.symbol ORDER BY g.open_time)
        ) f
    );
END
$$;
