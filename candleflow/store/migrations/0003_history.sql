-- Candles that don't come from the topic: those of the exchange's klines, and those of its archives.
--
-- Run once, by the owner, in a transaction of store/schema.py. They are merged as a processor's batches are,
-- behind the same lock and by the same parts; only no offsets move with them, and no records are counted.

COMMENT ON COLUMN candles.source IS
    'trades: the topic''s; kline: the exchange''s own klines; archive: its archives of trades; mixed: several';

-- The merge itself, as before, and now for candles of several sources. What comes from one that is no stream
-- comes in parts, of a day say, long after the day is over: so long as a closed candle has only been made from
-- that source, it is still in the making, and its revision stays.
CREATE OR REPLACE FUNCTION merge_candles(batch candles[]) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO candles AS c (symbol, interval, open_time, end_time, open, high, low, close, volume,
        quote_volume, taker_buy_volume, taker_buy_quote_volume, trade_count, first_trade_id, last_trade_id,
        trade_ids, is_closed, source, updated_at)
    SELECT b.symbol, b.interval, b.open_time, b.end_time, b.open, b.high, b.low, b.close, b.volume,
        b.quote_volume, b.taker_buy_volume, b.taker_buy_quote_volume, b.trade_count, b.first_trade_id,
        b.last_trade_id, b.trade_ids, b.end_time <= s.newest_open_time, b.source, b.updated_at
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

-- Closes the candles of the batch's symbols that end by closes_until (microseconds).
CREATE FUNCTION close_ended_candles(batch candles[], closes_until bigint) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    UPDATE candles c SET is_closed = true
    FROM (
        SELECT o.symbol, o.interval, o.open_time
        FROM (SELECT DISTINCT b.symbol FROM unnest(batch) b) touched
            JOIN candles o ON o.symbol = touched.symbol AND NOT o.is_closed
                AND o.end_time <= from_microseconds(closes_until)
        ORDER BY 1, 2, 3
        FOR NO KEY UPDATE OF o
    ) due
    WHERE (c.symbol, c.interval, c.open_time) = (due.symbol, due.interval, due.open_time);
END
$$;


-- For the auditor -----------------------------------------------------------------------------------------

-- Merges partial candles as merge_batch does, but of no topic: of source 'kline' or 'archive'. Then closes the
-- symbols' candles that end by closes_until (microseconds): up to there the time is over, and nothing more is
-- to come by itself.
-- Returns {"status": "merged"}, or {"status": "overlap", "ids": {...}}: ids that are in candles already, and
-- nothing was changed.
CREATE FUNCTION load_history(partials jsonb, windows jsonb, source text, closes_until bigint) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
SET timezone = 'UTC'
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_bitmapscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
SET jit = off
AS $$
DECLARE
    batch candles[];
    weighed record;
    loaded_at timestamptz;
BEGIN
    IF num_nulls(partials, windows, closes_until) > 0 OR (source IN ('kline', 'archive')) IS NOT TRUE THEN
        RAISE EXCEPTION 'no history of the source %: partials, windows and closes_until must not be null', source
            USING ERRCODE = '22023';
    END IF;
    PERFORM pg_advisory_xact_lock(hashtextextended('candleflow candles', 0));
    loaded_at := clock_timestamp();
    batch := expand_partials(partials, windows, loaded_at);
    FOR number IN 1 .. cardinality(batch) LOOP
        batch[number].source := load_history.source;
    END LOOP;
    SELECT * INTO weighed FROM weigh_batch(batch, windows ->> 'interval');
    IF weighed.overlap IS NOT NULL THEN
        RETURN jsonb_build_object('status', 'overlap', 'ids', weighed.overlap);
    END IF;
    PERFORM advance_symbols(partials, loaded_at);
    PERFORM merge_candles(batch);
    PERFORM close_passed_candles(batch);
    PERFORM close_ended_candles(batch, closes_until);
    PERFORM prove_completeness(batch, weighed.unsettled);
    RETURN jsonb_build_object('status', 'merged');
END
$$;
