-- The parts of merge_batch that cost the most where a batch has thousands of candles, made anew: what they do is
-- as before.
--
-- Run once, by the owner, in a transaction of store/schema.py. Before, each partial was folded into all six
-- intervals, and nearly each new row was written twice. A batch of 2,000 windows took PostgreSQL 171 ms of
-- processor time, and takes 99; one of 200 symbols and one window 31, and takes 33 (python -m bench.merge).

-- Candles that tile time, folded into those of a longer interval, in the order of symbol and time.
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

-- The candles that a batch's partials add to: the finest as they are, then each roll-up, folded from the one
-- before it, as each length of those that the finest divides divides the next. Of sliding windows, those that
-- tile time (open time a multiple of the size) make the roll-ups, so that no trade counts twice. A roll-up as
-- long as the finest window is kept as well.
CREATE OR REPLACE FUNCTION expand_partials(partials jsonb, windows jsonb, merged_at timestamptz) RETURNS candles[]
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
        RAISE EXCEPTION 'no windows: %', windows USING ERRCODE = '22023';
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
            range_agg(p.trade_ids) AS trade_ids
        FROM jsonb_to_recordset(partials) AS p(
            symbol text, open_time bigint, open numeric, high numeric, low numeric, close numeric,
            volume numeric, quote_volume numeric, taker_buy_volume numeric, taker_buy_quote_volume numeric,
            trade_count bigint, first_trade_id bigint, last_trade_id bigint, trade_ids int8multirange)
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
    -- As many ids as trades: a trade twice in the batch, or a wrong count, would make wrong candles.
    IF NOT is_aligned OR EXISTS (
        SELECT FROM unnest(batch) b
        WHERE (b.trade_count = CASE
            WHEN range_merge(b.trade_ids)::int8multirange = b.trade_ids
            THEN upper(b.trade_ids) - lower(b.trade_ids)
            ELSE (SELECT sum(upper(r) - lower(r)) FROM unnest(b.trade_ids) r) END) IS NOT TRUE
    ) THEN
        RAISE EXCEPTION 'partial candles off their windows, or with other ids than trades'
            USING ERRCODE = '22023';
    END IF;
    RETURN coalesce(batch, '{}');
END
$$;

-- The merge itself, as before, but that a new candle is complete at once where the batch says so:
-- prove_completeness, which judges every new one, then seldom has to write it a second time.
CREATE OR REPLACE FUNCTION merge_candles(batch candles[]) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO candles AS c (symbol, interval, open_time, end_time, open, high, low, close, volume,
        quote_volume, taker_buy_volume, taker_buy_quote_volume, trade_count, first_trade_id, last_trade_id,
        trade_ids, is_closed, is_complete, source, updated_at)
    SELECT b.symbol, b.interval, b.open_time, b.end_time, b.open, b.high, b.low, b.close, b.volume,
        b.quote_volume, b.taker_buy_volume, b.taker_buy_quote_volume, b.trade_count, b.first_trade_id,
        b.last_trade_id, b.trade_ids, b.end_time <= s.newest_open_time,
        b.is_complete, b.source, b.updated_at
    FROM unnest(batch) WITH ORDINALITY b JOIN symbols s ON s.symbol = b.symbol
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
        trade_ids = c.trade_ids + excluded.trade_ids,
        is_closed = c.is_closed OR excluded.is_closed,
        revision = c.revision
            + (c.is_closed AND (excluded.source = 'trades' OR c.source <> excluded.source))::integer,
        source = CASE WHEN c.source = excluded.source THEN c.source ELSE 'mixed' END,
        updated_at = excluded.updated_at;
END
$$;

-- Judges anew whether the unsettled candles, and those right after the batch's, are complete; as before, but
-- that what comes right after is looked for only where it is not in the batch itself. A candle follows the
-- latest one that ended by its open time; of tumbling windows that is its one neighbour, of sliding ones a
-- single candle can stand before as many as a window has slides: all those that open within a window's length.
CREATE OR REPLACE FUNCTION prove_completeness(batch candles[], unsettled candles[]) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    WITH passed AS MATERIALIZED (  -- no other one has a candle after it
        SELECT b.symbol, b.interval, b.open_time, b.end_time,
            ((lead(b.symbol) OVER w, lead(b.interval) OVER w, lead(b.open_time) OVER w)
                = (b.symbol, b.interval, b.end_time)) IS TRUE AS is_followed
        FROM unnest(batch) WITH ORDINALITY b
            JOIN symbols s ON s.symbol = b.symbol AND s.newest_open_time >= b.end_time
        WINDOW w AS (ORDER BY b.ordinality)
    ), next AS MATERIALIZED (  -- or the planner would join every candle of the symbol to each of these
        SELECT p.symbol, p.interval, p.end_time - p.open_time AS size, n.open_time
        FROM passed p CROSS JOIN LATERAL (
            SELECT c.open_time FROM candles c
            WHERE c.symbol = p.symbol AND c.interval = p.interval AND c.open_time >= p.end_time
            ORDER BY c.open_time LIMIT 1
        ) n
        WHERE NOT p.is_followed
    ), affected AS (
        SELECT u.symbol, u.interval, u.open_time FROM unnest(unsettled) u
        UNION
        SELECT p.symbol, p.interval, p.end_time FROM passed p WHERE p.is_followed
        UNION
        SELECT c.symbol, c.interval, c.open_time
        FROM next n JOIN candles c ON c.symbol = n.symbol AND c.interval = n.interval
            AND c.open_time >= n.open_time AND c.open_time < n.open_time + n.size
    ), judged AS MATERIALIZED (
        SELECT c.symbol, c.interval, c.open_time, c.is_complete,
            c.trade_count = c.last_trade_id - c.first_trade_id + 1
                AND coalesce(c.first_trade_id = before.last_trade_id + 1, false) AS is_proven
        FROM affected
            JOIN candles c USING (symbol, interval, open_time)
            LEFT JOIN LATERAL (
                SELECT p.last_trade_id FROM candles p
                WHERE p.symbol = c.symbol AND p.interval = c.interval
                    AND p.open_time <= c.open_time - (c.end_time - c.open_time)
                ORDER BY p.open_time DESC LIMIT 1
            ) before ON true
    )
    UPDATE candles c SET is_complete = j.is_proven
    FROM judged j
    WHERE j.is_complete <> j.is_proven
        AND (c.symbol, c.interval, c.open_time) = (j.symbol, j.interval, j.open_time);
END
$$;

-- The sorts of such a batch, in memory in place of files.
ALTER FUNCTION merge_batch(uuid, text, jsonb, jsonb, jsonb, jsonb, jsonb) SET work_mem = '32MB';
ALTER FUNCTION load_history(jsonb, jsonb, text, bigint) SET work_mem = '32MB';
