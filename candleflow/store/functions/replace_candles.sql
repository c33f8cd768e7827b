-- Replaces the symbol's finest candles that open in [since, until) (microseconds, multiples of the slide) by those of
-- the partial aggregates, and rebuilds every roll-up that contains since or overlaps the stretch, in one transaction.
-- An empty stretch changes only the roll-ups.
--
-- seen: the ids of each stored candle as the caller read them before it read the topic, {"1700006400000000": "{[5,9)}"}.
-- doubtful: other stretches that may still be wrong, [[since, until], ...]. A roll-up that overlaps one is not rebuilt,
-- because it may hold the only correct data there. Returns
--   {"status": "changed"}: the candles have changed since they were read, and nothing was done: read them again;
--   {"status": "overlap", "ids": "{[5,9)}"}: these ids of the partial aggregates are in candles within a day of the
--      stretch, and nothing was done;
--   {"status": "replaced", "candles": n, "kept": n}: how many finest candles and roll-ups were changed, and how many
--      were kept because they have ids that the new ones lack: klines, and roll-ups of lost candles.
-- Invalid input raises an error, and nothing is changed.
CREATE FUNCTION replace_candles(
    symbol text, since bigint, until bigint, seen jsonb, partials partial_candle[], doubtful jsonb, windows jsonb
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
AS $$
DECLARE
    finest constant text := windows ->> 'interval';
    size constant interval := ((windows ->> 'size_us')::bigint / 1000) * interval '1 millisecond';
    slide_us constant bigint := windows ->> 'slide_us';
    begins constant timestamptz := from_microseconds(since);
    ends constant timestamptz := from_microseconds(until);
    longest_us constant bigint := (SELECT max(r.size_us) FROM roll_ups() r);
    replaced_at timestamptz;
    stored candles[];
    fresh candles[];
    folded candles[];
    whole candles[];
    empty candles[];
    touched candles[];
    elsewhere int8multirange;
    dropped bigint;
    changed bigint;
    kept bigint;
BEGIN
    IF (since >= 0 AND until >= since AND since % slide_us = 0 AND until % slide_us = 0
            AND num_nulls(symbol, seen, partials, doubtful, finest, size) = 0) IS NOT TRUE THEN
        RAISE EXCEPTION 'not a stretch of windows of %: % to %', windows, since, until USING ERRCODE = '22023';
    END IF;
    PERFORM pg_advisory_xact_lock(hashtextextended('candleflow candles', 0));  -- as hold_topic does
    replaced_at := clock_timestamp();
    fresh := refolded(symbol, since, until, partials, windows, replaced_at);
    SELECT coalesce(array_agg(c ORDER BY c.open_time), '{}') INTO stored
    FROM candles c
    WHERE c.symbol = replace_candles.symbol AND c.interval = finest AND c.open_time >= begins
        AND c.open_time < ends;
    IF seen <> (SELECT coalesce(jsonb_object_agg(to_microseconds(c.open_time)::text, held_ids(c)::text), '{}')
                FROM unnest(stored) c) THEN
        RETURN jsonb_build_object('status', 'changed');
    END IF;
    SELECT range_agg(f.trade_ids) * (
            tiled_ids(replace_candles.symbol, finest, size, begins - interval '1 day', begins)
            + tiled_ids(replace_candles.symbol, finest, size, ends, ends + interval '1 day'))
    INTO elsewhere
    FROM unnest(fresh) f
    WHERE to_microseconds(f.open_time) % (windows ->> 'size_us')::bigint = 0;
    IF NOT isempty(elsewhere) THEN
        RETURN jsonb_build_object('status', 'overlap', 'ids', elsewhere::text);
    END IF;

    SELECT coalesce(array_agg(f ORDER BY f.open_time), '{}') INTO whole
    FROM unnest(fresh) f LEFT JOIN candles c USING (symbol, interval, open_time)
    WHERE (c.source <> 'trades' AND NOT held_ids(c) <@ f.trade_ids) IS NOT TRUE;
    SELECT coalesce(array_agg(c ORDER BY c.open_time), '{}') INTO empty
    FROM unnest(stored) c WHERE c.open_time NOT IN (SELECT f.open_time FROM unnest(fresh) f);
    kept := cardinality(fresh) - cardinality(whole) + cardinality(empty);
    touched := stored || fresh;
    dropped := drop_candles(empty, finest, size);
    changed := put_candles(whole) + dropped;
    kept := kept - dropped;

    folded := fold_roll_ups(symbol, since, until, longest_us, doubtful, windows, replaced_at);
    whole := without_losses(folded, finest, size);
    FOR number IN 1 .. cardinality(whole) LOOP
        IF 60000000 % (windows ->> 'size_us')::bigint = 0
            AND whole[number].end_time - whole[number].open_time > interval '1 minute'
        THEN
            whole[number].trade_ids := NULL;  -- held_ids derives them from the minutes
        END IF;
    END LOOP;
    empty := unfolded_roll_ups(symbol, since, until, longest_us, doubtful, folded);
    kept := kept + cardinality(folded) - cardinality(whole) + cardinality(empty);
    touched := touched || folded || empty;
    dropped := drop_candles(empty, finest, size);
    changed := changed + put_candles(whole) + dropped;
    kept := kept - dropped;

    PERFORM prove_completeness(touched, array_fill(true, ARRAY[cardinality(touched)]),
        newest_open_times(touched));
    UPDATE symbols s SET repaired = s.repaired + changed
    WHERE s.symbol = replace_candles.symbol AND changed > 0;
    RETURN jsonb_build_object('status', 'replaced', 'candles', changed, 'kept', kept);
END
$$;
