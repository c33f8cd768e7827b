-- Merges partial aggregates from the exchange's klines or archive (source 'kline' or 'archive') as merge_batch does.
-- Then closes the symbols' candles that end by closes_until (microseconds). Returns {"status": "merged"}, or {"status":
-- "overlap", "ids": {...}} with the ids that are in candles already; then nothing was changed.
CREATE FUNCTION load_history(partials partial_candle[], windows jsonb, source text, closes_until bigint) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
SET timezone = 'UTC'
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_bitmapscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
SET jit = off
SET work_mem = '32MB'
AS $$
DECLARE
    batch candles[];
    known jsonb;
    newest jsonb;
    weighed record;
    loaded_at timestamptz;
BEGIN
    IF num_nulls(partials, windows, closes_until) > 0 OR (source IN ('kline', 'archive')) IS NOT TRUE THEN
        RAISE EXCEPTION 'can''t load history of the source %: it must be kline or archive, and no argument may be null', source
            USING ERRCODE = '22023';
    END IF;
    PERFORM pg_advisory_xact_lock(hashtextextended('candleflow candles', 0));
    loaded_at := clock_timestamp();
    batch := expand_partials(partials, windows, loaded_at);
    FOR number IN 1 .. cardinality(batch) LOOP
        batch[number].source := load_history.source;
    END LOOP;
    known := newest_open_times(batch);
    SELECT * INTO weighed FROM weigh_batch(batch, windows ->> 'interval', known);
    IF weighed.overlap IS NOT NULL THEN
        RETURN jsonb_build_object('status', 'overlap', 'ids', weighed.overlap);
    END IF;
    newest := known || advance_symbols(partials, loaded_at);
    PERFORM merge_candles(batch, weighed.keeps_ids, newest);
    PERFORM close_passed_candles(known, newest);
    PERFORM close_ended_candles(batch, closes_until);
    PERFORM prove_completeness(batch, weighed.unsettled, newest);
    RETURN jsonb_build_object('status', 'merged');
END
$$;
