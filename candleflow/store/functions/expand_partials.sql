-- Returns the candles that a batch's partial aggregates add to, with their sets of ids: the finest ones, then each
-- roll-up, aggregated from the next shorter one. That works because each roll-up's length divides the next one's. Of
-- sliding windows, only those that don't overlap (open time a multiple of the size) go into roll-ups, so that no trade
-- counts twice. A roll-up as long as the finest window is kept too.
CREATE FUNCTION expand_partials(partials partial_candle[], windows jsonb, merged_at timestamptz) RETURNS candles[]
LANGUAGE plpgsql AS $$
DECLARE
    finest constant text := windows ->> 'interval';
    finest_us constant bigint := windows ->> 'size_us';
    slide_us constant bigint := windows ->> 'slide_us';
    batch candles[];
    tiles candles[];
    roll_up record;
    is_aligned boolean;
BEGIN
    IF finest IS NULL OR (finest_us > 0 AND slide_us > 0 AND finest_us % slide_us = 0) IS NOT TRUE THEN
        RAISE EXCEPTION 'invalid windows: %', windows USING ERRCODE = '22023';
    END IF;
    WITH folded AS (
        SELECT p.symbol, p.open_time AS open_us,
            (array_agg(p.open ORDER BY p.first_trade_id))[1] AS open,
            max(p.high) AS high,
            min(p.low) AS low,
            (array_agg(p.close ORDER BY p.last_trade_id DESC))[1] AS close,
            sum(p.volume) AS volume,
            sum(p.quote_volume) AS quote_volume,
            sum(p.taker_buy_volume) AS taker_buy_volume,
            sum(p.taker_buy_quote_volume) AS taker_buy_quote_volume,
            sum(p.trade_count)::bigint AS trade_count,
            min(p.first_trade_id) AS first_trade_id,
            max(p.last_trade_id) AS last_trade_id,
            range_agg(coalesce(p.trade_ids, int8multirange(int8range(p.first_trade_id, p.last_trade_id + 1))))
                AS trade_ids
        FROM unnest(partials) p
        GROUP BY 1, 2
    ), made AS (
        SELECT f.open_us >= 0 AND f.open_us % slide_us = 0 AS is_aligned, f.open_us % finest_us = 0 AS tiles_time,
            ROW(f.symbol, finest, from_microseconds(f.open_us), from_microseconds(f.open_us + finest_us),
                f.open, f.high, f.low, f.close, f.volume, f.quote_volume, f.taker_buy_volume,
                f.taker_buy_quote_volume, f.trade_count, f.first_trade_id, f.last_trade_id, f.trade_ids, false,
                (f.trade_count = f.last_trade_id - f.first_trade_id + 1
                    AND f.open_us = lag(f.open_us) OVER w + finest_us
                    AND f.first_trade_id = lag(f.last_trade_id) OVER w + 1) IS TRUE,
                0, 'trades', merged_at)::candles AS candle
        FROM folded f
        WINDOW w AS (PARTITION BY f.symbol ORDER BY f.open_us)
        ORDER BY f.symbol, f.open_us
    )
    SELECT array_agg(m.candle), array_agg(m.candle) FILTER (WHERE m.tiles_time), bool_and(m.is_aligned IS TRUE)
    INTO batch, tiles, is_aligned FROM made m;
    FOR roll_up IN
        SELECT r.name, r.size_us FROM roll_ups() r
        WHERE r.size_us % finest_us = 0 AND r.name <> finest ORDER BY r.size_us
    LOOP
        tiles := fold_up(tiles, roll_up.name, roll_up.size_us);
        batch := batch || tiles;
    END LOOP;
    -- There must be as many ids as trades: a repeated trade or a wrong count would make wrong candles.
    IF NOT is_aligned OR EXISTS (
        SELECT FROM unnest(batch) b WHERE (b.trade_count = id_count(b.trade_ids)) IS NOT TRUE
    ) THEN
        RAISE EXCEPTION 'partial candles don''t start at windows of %, or their ids don''t match their trade counts', finest
            USING ERRCODE = '22023';
    END IF;
    RETURN coalesce(batch, '{}');
END
$$;
