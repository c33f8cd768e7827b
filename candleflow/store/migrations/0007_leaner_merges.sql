-- What a merge costs no longer grows with what was lost before it, nor with the rows that others' snapshots keep.
--
-- Run once, by the owner, in a transaction of store/schema.py. Three things change; python -m bench.merge and
-- docs/explanation/performance.md have the figures:
-- 1. Partial candles come as an array of rows, in place of JSON that repeats every key. A row without a set of ids
--    has all ids from its first to its last.
-- 2. A roll-up longer than a minute has no set of ids of its own where the finest windows divide a minute. Such
--    a set grew with each gap of the day, and each merge wrote it again. held_ids derives it from shorter candles.
-- 3. Each symbol's row is read once for a batch, and no row is written that doesn't change: under an open snapshot
--    each look at a row passes all its versions since.

ALTER TABLE candles ALTER COLUMN trade_ids DROP NOT NULL;

COMMENT ON COLUMN candles.trade_ids IS
    'the ids of the trades that are in it; null in roll-ups longer than a minute: held_ids(candle) tells them';

-- By absolute numbers, as a share of years of candles is millions. candles_open has an entry for each candle that
-- was ever open; only a pass over the indexes drops it, which VACUUM leaves out where few pages have dead rows.
ALTER TABLE candles SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 50000,
    vacuum_index_cleanup = on);

-- A partial candle of the finest windows, times in microseconds; market/partial.py writes it. Without trade_ids it
-- has every id from the first to the last.
CREATE TYPE partial_candle AS (
    symbol                 text,
    open_time              bigint,
    last_trade_time        bigint,
    trade_count            bigint,
    first_trade_id         bigint,
    last_trade_id          bigint,
    trade_ids              int8multirange,
    open                   numeric,
    high                   numeric,
    low                    numeric,
    close                  numeric,
    volume                 numeric,
    quote_volume           numeric,
    taker_buy_volume       numeric,
    taker_buy_quote_volume numeric
);

DROP FUNCTION merge_batch(uuid, text, jsonb, jsonb, jsonb, jsonb, jsonb);
DROP FUNCTION load_history(jsonb, jsonb, text, bigint);
DROP FUNCTION replace_candles(text, bigint, bigint, jsonb, jsonb, jsonb, jsonb);
DROP FUNCTION refolded(text, bigint, bigint, jsonb, jsonb, timestamptz);
DROP FUNCTION expand_partials(jsonb, jsonb, timestamptz);
DROP FUNCTION advance_symbols(jsonb, timestamptz);  -- 0009_new_sequence.sql has its successor
DROP FUNCTION weigh_batch(candles[], text);
DROP FUNCTION merge_candles(candles[]);
DROP FUNCTION close_passed_candles(candles[]);
DROP FUNCTION prove_completeness(candles[], candles[]);


-- Sets of ids -----------------------------------------------------------------------------------------------

-- How many ids a set has.
CREATE FUNCTION id_count(ids int8multirange) RETURNS numeric
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN range_merge(ids)::int8multirange = ids THEN (upper(ids) - lower(ids))::numeric
        ELSE (SELECT coalesce(sum(upper(r) - lower(r)), 0) FROM unnest(ids) r) END
$$;

-- The ids of the trades that are in a stored candle. One that has no set has them all from first to last, or has
-- those of the next shorter roll-up's candles.
CREATE FUNCTION held_ids(candle candles) RETURNS int8multirange
LANGUAGE plpgsql STABLE PARALLEL SAFE AS $$
BEGIN
    IF candle.trade_ids IS NOT NULL OR candle.trade_count IS NULL THEN
        RETURN candle.trade_ids;
    ELSIF candle.trade_count = candle.last_trade_id - candle.first_trade_id + 1 THEN
        RETURN int8multirange(int8range(candle.first_trade_id, candle.last_trade_id + 1));
    END IF;
    RETURN (
        SELECT coalesce(range_agg(held_ids(c)), '{}') FROM candles c
        WHERE c.symbol = candle.symbol AND c.open_time >= candle.open_time AND c.open_time < candle.end_time
            AND c.interval = CASE candle.interval
                WHEN '1d' THEN '1h' WHEN '1h' THEN '15m' WHEN '15m' THEN '5m' ELSE '1m' END
    );
END
$$;

-- The same, or every id from first to last where shorter candles lack some: none that may be in it is left out.
CREATE FUNCTION possible_ids(candle candles) RETURNS int8multirange
LANGUAGE plpgsql STABLE AS $$
DECLARE
    held constant int8multirange := held_ids(candle);
BEGIN
    RETURN CASE WHEN candle.trade_ids IS NULL AND id_count(held) < candle.trade_count
        THEN int8multirange(int8range(candle.first_trade_id, candle.last_trade_id + 1)) ELSE held END;
END
$$;

-- Those that are still open lose their sets at once, where the minutes have all their ids.
UPDATE candles c SET trade_ids = NULL
WHERE NOT c.is_closed AND c.interval IN ('5m', '15m', '1h', '1d') AND c.trade_ids = (
    SELECT range_agg(m.trade_ids) FROM candles m
    WHERE m.symbol = c.symbol AND m.interval = '1m' AND m.open_time >= c.open_time AND m.open_time < c.end_time
);


-- Parts of merge_batch ----------------------------------------------------------------------------------------
-- The candles that a batch's partials add to: the finest as they are, then each roll-up, folded from the one
-- before it, as each length of those that the finest divides divides the next; all with their sets of ids. Of
-- sliding windows, those that tile time (open time a multiple of the size) make the roll-ups, so that no trade
-- counts twice. A roll-up as long as the finest window is kept as well.
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
    -- As many ids as trades: a trade twice in the batch, or a wrong count, would make wrong candles.
    IF NOT is_aligned OR EXISTS (
        SELECT FROM unnest(batch) b WHERE (b.trade_count = id_count(b.trade_ids)) IS NOT TRUE
    ) THEN
        RAISE EXCEPTION 'partial candles off their windows, or with other ids than trades'
            USING ERRCODE = '22023';
    END IF;
    RETURN coalesce(batch, '{}');
END
$$;

-- The symbols' newest open times before a batch: {"BTCUSDT": "2024-05-01T00:00:00+00:00"}.
CREATE FUNCTION newest_open_times(batch candles[]) RETURNS jsonb
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN (
        SELECT coalesce(jsonb_object_agg(s.symbol, s.newest_open_time), '{}')
        FROM (SELECT DISTINCT b.symbol FROM unnest(batch) b) touched JOIN symbols s USING (symbol)
    );
END
$$;

-- What a batch means for the candles that are there, by one look at each of them:
-- overlap: its ids that are in candles already, by symbol: NULL, as it should be, or {"BTCUSDT": "{[5,9)}"};
-- merged: how many trades it has; late: how many of them came after their finest candle had closed;
-- unsettled: by the place in the batch, whether the candle's completeness can change. It can't where a candle is
-- only continued by the ids that follow its last: neither its first id nor a gap in it changes. That is so for
-- nearly all;
-- keeps_ids: by the place, whether the set of ids is to be stored. Of roll-ups longer than the minutes that are
-- merged with them it is not, unless what is stored has one: it may have trades that no minute has, of a time
-- when the finest windows were others.
CREATE FUNCTION weigh_batch(
    batch candles[], finest text, known jsonb, OUT overlap jsonb, OUT merged bigint, OUT late bigint,
    OUT unsettled boolean[], OUT keeps_ids boolean[]
) LANGUAGE plpgsql STABLE AS $$
DECLARE
    has_minutes constant boolean := EXISTS (SELECT FROM unnest(batch) b WHERE b.interval = '1m');
BEGIN
    WITH met AS MATERIALIZED (
        SELECT b.ordinality, b.symbol, b.trade_count, b.trade_ids,
            CASE WHEN has_minutes THEN c.trade_ids ELSE held_ids(c) END AS stored_ids,
            NOT has_minutes OR b.interval NOT IN ('5m', '15m', '1h', '1d') OR c.trade_ids IS NOT NULL AS keeps_ids,
            -- Of sliding windows, those that tile time: every trade once.
            b.interval = finest AND date_bin(b.end_time - b.open_time, b.open_time,
                timestamptz '1970-01-01 00:00:00+00') = b.open_time AS is_counted,
            c.is_closed OR b.end_time <= (known ->> b.symbol)::timestamptz AS is_late,
            (b.first_trade_id = c.last_trade_id + 1
                AND b.trade_count = b.last_trade_id - b.first_trade_id + 1) IS TRUE AS only_continues
        FROM unnest(batch) WITH ORDINALITY b
            LEFT JOIN candles c USING (symbol, interval, open_time)
    ), shared AS (
        SELECT m.symbol, range_agg(m.stored_ids * m.trade_ids) AS ids
        FROM met m WHERE m.stored_ids && m.trade_ids
        GROUP BY m.symbol
    )
    SELECT (SELECT jsonb_object_agg(shared.symbol, shared.ids::text) FROM shared),
        coalesce(sum(m.trade_count) FILTER (WHERE m.is_counted), 0),
        coalesce(sum(m.trade_count) FILTER (WHERE m.is_counted AND m.is_late), 0),
        array_agg(NOT m.only_continues ORDER BY m.ordinality),
        array_agg(m.keeps_ids ORDER BY m.ordinality)
    INTO overlap, merged, late, unsettled, keeps_ids
    FROM met m;
END
$$;

-- The merge itself: open by least first id, close by greatest last id, extremes, sums, union of ids. A candle made
-- only from history is still in the making, and its revision stays; so is it in 0003_history.sql.
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

-- Closes the candles that the symbols' newest open times have passed: each symbol's that end after the one known
-- before, as all that end earlier are closed, and by the one of now.
CREATE FUNCTION close_passed_candles(known jsonb, newest jsonb) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    UPDATE candles c SET is_closed = true
    FROM (
        SELECT o.symbol, o.interval, o.open_time
        FROM jsonb_each_text(newest) n
            JOIN candles o ON o.symbol = n.key AND NOT o.is_closed AND o.end_time <= n.value::timestamptz
                AND o.end_time > coalesce((known ->> n.key)::timestamptz, '-infinity')
        ORDER BY 1, 2, 3
        FOR NO KEY UPDATE OF o
    ) due
    WHERE (c.symbol, c.interval, c.open_time) = (due.symbol, due.interval, due.open_time);
END
$$;

-- Judges anew whether the unsettled candles, and those right after the batch's, are complete; what comes right after
-- is looked for only where it is not in the batch itself. A candle follows the latest one that ended by its open
-- time; of tumbling windows that is its one neighbour, of sliding ones a single candle can stand before as many
-- as a window has slides: all those that open within a window's length.
CREATE FUNCTION prove_completeness(batch candles[], unsettled boolean[], newest jsonb) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    WITH passed AS MATERIALIZED (  -- no other one has a candle after it
        SELECT b.symbol, b.interval, b.open_time, b.end_time,
            ((lead(b.symbol) OVER w, lead(b.interval) OVER w, lead(b.open_time) OVER w)
                = (b.symbol, b.interval, b.end_time)) IS TRUE AS is_followed
        FROM unnest(batch) WITH ORDINALITY b
        WHERE (newest ->> b.symbol)::timestamptz >= b.end_time
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
        SELECT u.symbol, u.interval, u.open_time
        FROM unnest(batch) WITH ORDINALITY u WHERE unsettled[u.ordinality]
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


-- For the processor -------------------------------------------------------------------------------------------

-- Merges one batch and moves the offsets, all or nothing. Returns {"status": "merged", "late": n},
-- {"status": "already_merged"} or {"status": "overlap", "ids": {...}}; CF003: this run was superseded.
--
-- The plan is always the same, a few steps down an index for each candle of the batch, whatever the
-- statistics say of a table that was empty a minute ago: hence the planner's settings. The parts are PL/pgSQL
-- as it keeps its plans from batch to batch; SQL functions plan anew at each call before PostgreSQL 18.
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
        RAISE EXCEPTION 'offsets, partials, counts and windows must not be null' USING ERRCODE = '22004';
    END IF;
    PERFORM hold_topic(run_id, topic);
    IF NOT is_next_batch(topic, expected, reached_all) THEN
        RETURN jsonb_build_object('status', 'already_merged');
    END IF;
    merged_at := clock_timestamp();
    batch := expand_partials(partials, windows, merged_at);
    IF cardinality(batch) > 0 AND reached_all = expected THEN
        RAISE EXCEPTION 'candles of no records: the batch ends at % where it begins', reached
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

-- What keeps the versions of rows that were replaced since, so that VACUUM may not drop them: sessions with a
-- snapshot, prepared transactions and replication slots, as [{"holder", "xmin", "remedy"}, ...]. For how long is the
-- caller's to find out: PostgreSQL shows a transaction's time only to pg_read_all_stats, and the rest to everybody.
CREATE FUNCTION snapshot_holders() RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
AS $$
    SELECT coalesce(jsonb_agg(
        jsonb_build_object('holder', h.holder, 'xmin', h.xmin::text, 'remedy', h.remedy)), '[]')
    FROM (
        SELECT format('session %s of %s (%s)', a.pid, coalesce(a.usename, 'a replica'),
                coalesce(nullif(a.application_name, ''), 'no application_name')) AS holder,
            coalesce(a.backend_xmin, a.backend_xid) AS xmin,
            format('SELECT pg_terminate_backend(%s)', a.pid) AS remedy
        FROM pg_stat_activity a
        WHERE num_nonnulls(a.backend_xmin, a.backend_xid) > 0 AND a.pid <> pg_backend_pid()
            AND (a.datid IS NULL OR a.datname = current_database())
            AND a.pid NOT IN (SELECT v.pid FROM pg_stat_progress_vacuum v)
        UNION ALL
        SELECT format('prepared transaction %s of %s', p.gid, p.owner), p.transaction,
            format('ROLLBACK PREPARED %L', p.gid)
        FROM pg_prepared_xacts p WHERE p.database = current_database()
        UNION ALL
        SELECT format('replication slot %s', s.slot_name), s.xmin,
            format('SELECT pg_drop_replication_slot(%L)', s.slot_name)
        FROM pg_replication_slots s WHERE s.xmin IS NOT NULL
    ) h
$$;


-- Parts of replace_candles --------------------------------------------------------------------------------------

-- The ids of the symbol's finest candles that open in [since, until), of sliding ones those that tile time:
-- every trade once.
CREATE OR REPLACE FUNCTION tiled_ids(symbol text, finest text, size interval, since timestamptz, until timestamptz)
RETURNS int8multirange
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN (
        SELECT coalesce(range_agg(held_ids(c)), '{}') FROM candles c
        WHERE c.symbol = tiled_ids.symbol AND c.interval = finest AND c.open_time >= since
            AND c.open_time < until
            AND date_bin(size, c.open_time, timestamptz '1970-01-01 00:00:00+00') = c.open_time
    );
END
$$;

-- The candles that partials are, which must all be the symbol's and open in [since, until). 22023 else.
CREATE FUNCTION refolded(
    symbol text, since bigint, until bigint, partials partial_candle[], windows jsonb, replaced_at timestamptz
) RETURNS candles[]
LANGUAGE plpgsql STABLE AS $$
DECLARE
    fresh candles[];
    is_sound boolean;
BEGIN
    SELECT array_agg(f ORDER BY f.open_time),
        bool_and(f.symbol = refolded.symbol AND f.open_time >= from_microseconds(since)
            AND f.open_time < from_microseconds(until))
    INTO fresh, is_sound
    FROM unnest(expand_partials(partials, windows, replaced_at)) f
    WHERE f.interval = windows ->> 'interval';
    IF NOT is_sound THEN
        RAISE EXCEPTION 'candles of another symbol, or outside the stretch that is replaced'
            USING ERRCODE = '22023';
    END IF;
    RETURN coalesce(fresh, '{}');
END
$$;

-- The roll-ups, up to a length, that hold since or overlap [since, until), folded from the finest candles as
-- they are stored, with their sets of ids; none that overlaps a doubtful stretch.
CREATE OR REPLACE FUNCTION fold_roll_ups(
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
        WITH tiles AS MATERIALIZED (  -- one look down the index, whatever the planner knows of the table
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
                sum(t.revision)::integer AS revision  -- no roll-up's own: it tells one state from another
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

-- The folded roll-ups without those that lack ids which are in no finest candle within a day either: a finest
-- candle may be lost, and its trades must not be lost to its roll-ups too. A roll-up without a set that has more
-- trades than its shorter candles know, and than its fold has, may have any. Of what did not come by the topic the
-- ids are all there is, so nothing explains that they became fewer.
CREATE OR REPLACE FUNCTION without_losses(folded candles[], finest text, size interval) RETURNS candles[]
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN (
        SELECT coalesce(array_agg(f ORDER BY f.interval, f.open_time), '{}')
        FROM unnest(folded) f LEFT JOIN candles c USING (symbol, interval, open_time)
            CROSS JOIN LATERAL (SELECT held_ids(c) AS ids OFFSET 0) held
        WHERE CASE
            WHEN held.ids IS NULL THEN true
            WHEN c.trade_ids IS NULL AND greatest(id_count(held.ids), f.trade_count) < c.trade_count THEN false
            WHEN held.ids <@ f.trade_ids THEN true
            WHEN c.source <> 'trades' THEN false
            ELSE held.ids - f.trade_ids <@ tiled_ids(f.symbol, finest, size,
                f.open_time - interval '1 day', f.end_time + interval '1 day') END
    );
END
$$;

-- Whether two candles are the same but for what is not of their trades, and for a set of ids that one hasn't.
CREATE OR REPLACE FUNCTION same_amounts(one candles, other candles) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT (one.end_time, one.open, one.high, one.low, one.close, one.volume, one.quote_volume,
            one.taker_buy_volume, one.taker_buy_quote_volume, one.trade_count, one.first_trade_id,
            one.last_trade_id)
        IS NOT DISTINCT FROM (other.end_time, other.open, other.high, other.low, other.close, other.volume,
            other.quote_volume, other.taker_buy_volume, other.taker_buy_quote_volume, other.trade_count,
            other.first_trade_id, other.last_trade_id)
        AND coalesce(one.trade_ids = other.trade_ids, true)
$$;

-- Deletes candles that have no trade any more; how many. None with trades that did not come by the
-- topic, as their ids are all there is; and no roll-up with ids that are in no finest candle, as in
-- without_losses.
CREATE OR REPLACE FUNCTION drop_candles(empty candles[], finest text, size interval) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    dropped bigint;
BEGIN
    DELETE FROM candles c USING unnest(empty) e
    WHERE (c.symbol, c.interval, c.open_time) = (e.symbol, e.interval, e.open_time)
        AND CASE
            WHEN c.source <> 'trades' THEN false
            WHEN c.interval = finest THEN true
            ELSE possible_ids(c) <@ tiled_ids(c.symbol, finest, size,
                c.open_time - interval '1 day', c.end_time + interval '1 day') END;
    GET DIAGNOSTICS dropped = ROW_COUNT;
    RETURN dropped;
END
$$;


-- For the auditor -----------------------------------------------------------------------------------------------

-- What each of the symbol's finest candles that open in [since, until) (microseconds) says of its own trades,
-- oldest first; is_judged: its is_complete is what the ids say; state differs where anything of it does.
CREATE OR REPLACE FUNCTION finest_books(symbol text, since bigint, until bigint, windows jsonb)
RETURNS TABLE (open_us bigint, end_us bigint, trades bigint, first_id bigint, last_id bigint, ids text,
    is_judged boolean, state text)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
SET timezone = 'UTC'
AS $$
BEGIN
    RETURN QUERY
    SELECT to_microseconds(c.open_time), to_microseconds(c.end_time), c.trade_count, c.first_trade_id,
        c.last_trade_id, held_ids(c)::text, c.is_complete = is_proven(c), md5(c::text)
    FROM candles c
    WHERE c.symbol = finest_books.symbol AND c.interval = windows ->> 'interval'
        AND c.open_time >= from_microseconds(since) AND c.open_time < from_microseconds(until)
    ORDER BY c.open_time;
END
$$;

-- The symbol's roll-ups of up to longest_us that hold since or overlap [since, until) and are not the fold of
-- their finest candles, the shortest first: the ids as stored and as folded, null where there is no such row,
-- and whether both have the same prices.
CREATE OR REPLACE FUNCTION stray_roll_ups(symbol text, since bigint, until bigint, longest_us bigint, windows jsonb)
RETURNS TABLE (name text, open_us bigint, end_us bigint, stored_ids text, folded_ids text,
    prices_agree boolean, state text)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
SET timezone = 'UTC'
SET enable_seqscan = off
SET enable_bitmapscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
SET jit = off
AS $$
DECLARE
    folded constant candles[] := fold_roll_ups(symbol, since, until, longest_us, '[]', windows, NULL);
BEGIN
    RETURN QUERY
    SELECT s.name, to_microseconds(s.opens), to_microseconds(s.opens) + r.size_us, s.stored, s.folded, s.agree, s.state
    FROM (
        SELECT f.interval AS name, f.open_time AS opens, possible_ids(c)::text AS stored,
            f.trade_ids::text AS folded,
            coalesce((c.open, c.high, c.low, c.close) = (f.open, f.high, f.low, f.close), false) AS agree,
            md5(concat(c, f)) AS state
        FROM unnest(folded) f LEFT JOIN candles c USING (symbol, interval, open_time)
        WHERE (c.symbol IS NOT NULL AND c.is_complete = is_proven(c) AND same_amounts(c, f)) IS NOT TRUE
        UNION ALL
        SELECT u.interval, u.open_time, possible_ids(u)::text, NULL, false, md5(u::text)
        FROM unnest(unfolded_roll_ups(stray_roll_ups.symbol, since, until, longest_us, '[]', folded)) u
    ) s JOIN roll_ups() r ON r.name = s.name
    ORDER BY r.size_us, s.opens;
END
$$;

-- Puts the fold of partials, and nothing else, in the place of the symbol's finest candles that open in
-- [since, until) (microseconds, multiples of the slide), and folds every roll-up anew that holds since or
-- overlaps the stretch: all in one transaction. An empty stretch changes the roll-ups alone.
--
-- seen: the ids of each stored candle as the caller read them, {"1700006400000000": "{[5,9)}"}, before it
-- read the topic; a merge always adds ids. doubtful: other stretches, [[since, until], ...], that may be wrong
-- still; no roll-up that overlaps one is folded, as it may be all that shows what is right. Returns
--   {"status": "changed"}: they are others by now, nothing was done: read again;
--   {"status": "overlap", "ids": "{[5,9)}"}: these ids of the partials are in candles outside the stretch,
--      as far as a day off, and nothing was done;
--   {"status": "replaced", "candles": n, "kept": n}: so many finest candles and roll-ups were put right; so
--      many have ids that their fold lacks, and were left: klines, and roll-ups of lost candles.
-- Anything garbled raises, and nothing is changed.
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
        RAISE EXCEPTION 'no stretch of windows of %: % to %', windows, since, until USING ERRCODE = '22023';
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
            whole[number].trade_ids := NULL;  -- the minutes have them
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

-- Merges partial candles as merge_batch does, but of no topic: of source 'kline' or 'archive'. Then closes the
-- symbols' candles that end by closes_until (microseconds): up to there the time is over, and nothing more is
-- to come by itself.
-- Returns {"status": "merged"}, or {"status": "overlap", "ids": {...}}: ids that are in candles already, and
-- nothing was changed.
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
        RAISE EXCEPTION 'no history of the source %: partials, windows and closes_until must not be null', source
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
