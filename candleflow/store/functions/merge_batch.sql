-- Merges one batch and moves the offsets in one transaction. Returns {"status": "merged", "late": n},
-- {"status": "already_merged"} or {"status": "overlap", "ids": {...}}. Raises CF003 if another run claimed the topic.
--
-- The planner settings force the same plan every time: a few index lookups per candle of the batch, even if statistics
-- still describe an empty table. The called functions are PL/pgSQL because it caches plans between batches; before
-- PostgreSQL 18, SQL functions are planned at each call.
CREATE FUNCTION merge_batch(
    run_id uuid, topic text, expected jsonb, reached jsonb, partials partial_candle[], counts jsonb, windows jsonb
) RETURNS jsonb
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
    reached_all constant jsonb := expected || reached;
    merged_at timestamptz;
    batch candles[];
    known jsonb;
    newest jsonb;
    weighed record;
BEGIN
    IF num_nulls(reached_all, partials, counts, windows) > 0 THEN
        RAISE EXCEPTION 'merge_batch: offsets, partials, counts and windows must not be null' USING ERRCODE = '22004';
    END IF;
    PERFORM hold_topic(run_id, topic);
    IF NOT is_next_batch(topic, expected, reached_all) THEN
        RETURN jsonb_build_object('status', 'already_merged');
    END IF;
    merged_at := clock_timestamp();
    batch := expand_partials(partials, windows, merged_at);
    IF cardinality(batch) > 0 AND reached_all = expected THEN
        RAISE EXCEPTION 'a batch with candles must have records: it ends at %, where it begins', reached
            USING ERRCODE = '22023';
    END IF;
    known := newest_open_times(batch);
    SELECT * INTO weighed FROM weigh_batch(batch, windows ->> 'interval', known);
    IF weighed.overlap IS NOT NULL THEN
        RETURN jsonb_build_object('status', 'overlap', 'ids', weighed.overlap);
    END IF;
    newest := known || advance_symbols(partials, merged_at);
    PERFORM merge_candles(batch, weighed.keeps_ids, newest);
    PERFORM close_passed_candles(known, newest);
    PERFORM prove_completeness(batch, weighed.unsettled, newest);
    PERFORM count_records(topic, counts, weighed.merged, weighed.late);
    PERFORM move_offsets(topic, reached_all);
    RETURN jsonb_build_object('status', 'merged', 'late', weighed.late);
END
$$;
