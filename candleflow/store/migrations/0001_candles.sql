-- Candles, the offsets that move with them, and the only functions by which the processor may change either.
--
-- Run once, by the owner, in a transaction of store/schema.py, which then gives the roles their grants.
-- The functions for the processor run with the owner's rights and a fixed search path; those after the line
-- "for the processor" are its whole interface, those before it are parts that only the owner may call.

CREATE TABLE topics (
    topic        text PRIMARY KEY,
    topic_id     text NOT NULL,
    run_id       uuid,
    held_by      text,
    claimed_at   timestamptz,
    caught_up_at timestamptz
) WITH (fillfactor = 20, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

COMMENT ON COLUMN topics.topic_id IS 'Kafka''s id of the topic that the offsets belong to';
COMMENT ON COLUMN topics.run_id IS 'the processor''s run that may merge: the last to claim the topic';
COMMENT ON COLUMN topics.caught_up_at IS 'when the processor last said that it had read everything';

CREATE TABLE topic_offsets (
    topic       text NOT NULL REFERENCES topics,
    partition   integer NOT NULL CHECK (partition >= 0),
    next_offset bigint NOT NULL CHECK (next_offset >= 0),
    PRIMARY KEY (topic, partition)
) WITH (fillfactor = 20, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

COMMENT ON TABLE topic_offsets IS 'the first record of each partition that is not in the candles yet';

CREATE TABLE record_counts (
    topic   text NOT NULL REFERENCES topics,
    outcome text NOT NULL CHECK (length(outcome) <= 200),
    records bigint NOT NULL CHECK (records >= 0),
    PRIMARY KEY (topic, outcome)
) WITH (fillfactor = 20, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

COMMENT ON TABLE record_counts IS
    'received = merged + duplicate + the sum of "rejected: ..."; late are those of merged that came after their candle had closed';

CREATE TABLE symbols (
    symbol           text COLLATE "C" PRIMARY KEY,
    last_trade_id    bigint NOT NULL,
    last_price       numeric NOT NULL,
    last_trade_time  timestamptz NOT NULL,
    newest_open_time timestamptz NOT NULL,
    updated_at       timestamptz NOT NULL
) WITH (fillfactor = 20, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);

COMMENT ON TABLE symbols IS 'the trade with the greatest id, by symbol';
COMMENT ON COLUMN symbols.newest_open_time IS
    'the latest open time of a finest candle: a trade at or after this time exists, so candles that end by then are closed';

-- The contract's relation, and two columns more: trade_ids, the ledger that proves a candle complete, and
-- end_time, which with open_time tells an interval's length without reading its name.
--
-- A live candle is updated by each batch until it ends. No index holds a column that those updates change, so
-- they stay in the page (HOT) as long as it has room: hence the fill factor. Names compare by their bytes,
-- whatever the server's language.
CREATE TABLE candles (
    symbol                 text COLLATE "C" NOT NULL CHECK (length(symbol) BETWEEN 1 AND 20),
    interval               text COLLATE "C" NOT NULL CHECK (length(interval) BETWEEN 2 AND 20),
    open_time              timestamptz NOT NULL,
    end_time               timestamptz NOT NULL CHECK (end_time > open_time),
    open                   numeric NOT NULL,
    high                   numeric NOT NULL CHECK (high < 'Infinity' AND high >= greatest(open, low, close)),
    low                    numeric NOT NULL CHECK (low > 0 AND low <= least(open, close)),
    close                  numeric NOT NULL,
    volume                 numeric NOT NULL CHECK (volume > 0 AND volume < 'Infinity'),
    quote_volume           numeric NOT NULL CHECK (quote_volume > 0 AND quote_volume < 'Infinity'),
    taker_buy_volume       numeric NOT NULL CHECK (taker_buy_volume BETWEEN 0 AND volume),
    taker_buy_quote_volume numeric NOT NULL CHECK (taker_buy_quote_volume BETWEEN 0 AND quote_volume),
    trade_count            bigint NOT NULL
        CHECK (trade_count BETWEEN 1 AND last_trade_id - first_trade_id + 1),
    first_trade_id         bigint NOT NULL CHECK (first_trade_id >= 0),
    last_trade_id          bigint NOT NULL,
    trade_ids              int8multirange NOT NULL
        CHECK (lower(trade_ids) = first_trade_id AND upper(trade_ids) = last_trade_id + 1),
    is_closed              boolean NOT NULL DEFAULT false,
    is_complete            boolean NOT NULL DEFAULT false,
    revision               integer NOT NULL DEFAULT 0,
    source                 text NOT NULL DEFAULT 'trades',
    updated_at             timestamptz NOT NULL,
    PRIMARY KEY (symbol, interval, open_time)
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 5000,
        autovacuum_analyze_scale_factor = 0.05);

CREATE INDEX candles_open ON candles (symbol, end_time) WHERE NOT is_closed;

COMMENT ON COLUMN candles.end_time IS 'the first instant after the candle: open_time plus the interval';
COMMENT ON COLUMN candles.trade_ids IS 'the ids of the trades that are in it';
COMMENT ON COLUMN candles.is_closed IS 'the symbol has had a trade at end_time or later, or was quiet past it';
COMMENT ON COLUMN candles.is_complete IS
    'no id is missing inside it, nor between it and the last candle that ended before it began';
COMMENT ON COLUMN candles.revision IS 'how often it changed after it had closed';


-- Parts of merge_batch ------------------------------------------------------------------------------------

-- The stored roll-ups: market.window.ROLL_UPS, in microseconds.
CREATE FUNCTION roll_ups() RETURNS TABLE (name text, size_us bigint)
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    VALUES ('1m', 60000000::bigint), ('5m', 300000000), ('15m', 900000000), ('1h', 3600000000),
           ('1d', 86400000000)
$$;

-- A time in microseconds since the epoch as a timestamp. In two steps, as an interval times a number goes by
-- way of a double, which holds neither every microsecond of the year 9999 nor a fraction of one exactly.
CREATE FUNCTION from_microseconds(time_us bigint) RETURNS timestamptz
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT timestamptz '1970-01-01 00:00:00+00'
        + (time_us / 1000000) * interval '1 second' + (time_us % 1000000) * interval '1 microsecond'
$$;

CREATE FUNCTION topic_lock(topic text) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT hashtextextended('candleflow topic ' || topic, 0) $$;

CREATE FUNCTION stored_offsets(topic text) RETURNS jsonb
LANGUAGE sql STABLE AS $$
    SELECT coalesce(jsonb_object_agg(o.partition::text, o.next_offset), '{}')
    FROM topic_offsets o WHERE o.topic = stored_offsets.topic
$$;

-- Takes the candles and the topic's row until the transaction ends, so that batches come one after another,
-- should two topics even share the candles: no overlap goes unseen, and nobody can wait in a circle. CF003
-- unless run_id is the run that claimed the topic last.
CREATE FUNCTION hold_topic(run_id uuid, topic text) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    holder topics;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('candleflow candles', 0));
    SELECT t.* INTO holder FROM topics t WHERE t.topic = hold_topic.topic FOR NO KEY UPDATE;
    IF holder.run_id IS DISTINCT FROM hold_topic.run_id OR hold_topic.run_id IS NULL THEN
        RAISE EXCEPTION 'this processor no longer holds the topic %: % does', topic,
            coalesce(holder.held_by || ', since ' || date_trunc('second', holder.claimed_at), 'nobody')
            USING ERRCODE = 'CF003';
    END IF;
END
$$;

-- Compare-and-set of the offsets, first half. True: they stand at expected, the batch is to be merged. False:
-- they stand at reached, it has been. CF003: at neither. A partition with nothing stored may begin anywhere.
CREATE FUNCTION is_next_batch(topic text, expected jsonb, reached jsonb) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    stored jsonb := stored_offsets(topic);
BEGIN
    IF EXISTS (SELECT FROM jsonb_each_text(reached) r
               WHERE r.value::bigint < coalesce((expected ->> r.key)::bigint, 0)) THEN
        RAISE EXCEPTION 'the batch ends at % before it begins at %', reached, expected USING ERRCODE = '22023';
    END IF;
    IF stored <@ expected THEN
        RETURN true;
    ELSIF stored = reached THEN
        RETURN false;
    END IF;
    RAISE EXCEPTION 'the offsets of the topic % stand at %, neither at % nor at %: another processor has merged since',
        topic, stored, expected, reached USING ERRCODE = 'CF003';
END
$$;

-- The candles that a batch's partials add to: the finest as they are, and each roll-up folded from them, in
-- the order of their keys. Of sliding windows, those that tile time (open time a multiple of the size) make
-- the roll-ups, so that no trade counts twice. A roll-up as long as the finest window is kept as well.
CREATE FUNCTION expand_partials(partials jsonb, windows jsonb, merged_at timestamptz) RETURNS candles[]
LANGUAGE plpgsql AS $$
DECLARE
    finest constant text := windows ->> 'interval';
    finest_us constant bigint := windows ->> 'size_us';
    slide_us constant bigint := windows ->> 'slide_us';
    batch candles[];
    is_sound boolean;
BEGIN
    IF finest IS NULL OR (finest_us > 0 AND slide_us > 0 AND finest_us % slide_us = 0) IS NOT TRUE THEN
        RAISE EXCEPTION 'no windows: %', windows USING ERRCODE = '22023';
    END IF;
    WITH interval_windows AS (
        SELECT finest AS name, finest_us AS size_us, slide_us AS step_us, slide_us AS takes_us
        UNION ALL
        SELECT r.name, r.size_us, r.size_us, finest_us
        FROM roll_ups() r WHERE r.size_us % finest_us = 0 AND r.name <> finest
    ), folded AS (
        SELECT p.symbol, w.name, p.open_time - p.open_time % w.step_us AS open_us, w.size_us,
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
            range_agg(p.trade_ids) AS trade_ids,
            bool_and(p.open_time >= 0 AND p.open_time % slide_us = 0) AS is_aligned
        FROM jsonb_to_recordset(partials) AS p(
                symbol text, open_time bigint, open numeric, high numeric, low numeric, close numeric,
                volume numeric, quote_volume numeric, taker_buy_volume numeric,
                taker_buy_quote_volume numeric, trade_count bigint, first_trade_id bigint,
                last_trade_id bigint, trade_ids int8multirange)
            JOIN interval_windows w ON w.name = finest OR p.open_time % w.takes_us = 0
        GROUP BY 1, 2, 3, 4
    )
    SELECT
        array_agg(
            ROW(f.symbol, f.name, from_microseconds(f.open_us), from_microseconds(f.open_us + f.size_us),
                f.open, f.high, f.low, f.close, f.volume, f.quote_volume, f.taker_buy_volume,
                f.taker_buy_quote_volume, f.trade_count, f.first_trade_id, f.last_trade_id, f.trade_ids,
                false, false, 0, 'trades', merged_at)::candles
            ORDER BY f.symbol, f.name, f.open_us),
        -- As many ids as trades: a trade twice in the batch, or a wrong count, would make wrong candles.
        bool_and((f.is_aligned AND f.trade_count = CASE
            WHEN range_merge(f.trade_ids)::int8multirange = f.trade_ids
            THEN upper(f.trade_ids) - lower(f.trade_ids)
            ELSE (SELECT sum(upper(r) - lower(r)) FROM unnest(f.trade_ids) r) END) IS TRUE)
    INTO batch, is_sound FROM folded f;
    IF NOT is_sound THEN
        RAISE EXCEPTION 'partial candles off their windows, or with other ids than trades'
            USING ERRCODE = '22023';
    END IF;
    RETURN coalesce(batch, '{}');
END
$$;

-- What a batch means for the candles that are there, by one look at each of them:
-- overlap: its ids that are in candles already, by symbol: NULL, as it should be, or {"BTCUSDT": "{[5,9)}"};
-- merged: how many trades it has; late: how many of them came after their finest candle had closed;
-- unsettled: those of its candles whose completeness can change. It can't where a candle is only continued by
-- the ids that follow its last: neither its first id nor a hole in it changes. That is so for nearly all.
CREATE FUNCTION weigh_batch(
    batch candles[], finest text, OUT overlap jsonb, OUT merged bigint, OUT late bigint, OUT unsettled candles[]
) LANGUAGE plpgsql STABLE AS $$
BEGIN
    WITH met AS MATERIALIZED (
        SELECT b AS candle, b.symbol, b.trade_count, b.trade_ids, c.trade_ids AS stored_ids,
            -- Of sliding windows, those that tile time: every trade once.
            b.interval = finest AND date_bin(b.end_time - b.open_time, b.open_time,
                timestamptz '1970-01-01 00:00:00+00') = b.open_time AS is_counted,
            c.is_closed OR b.end_time <= s.newest_open_time AS is_late,
            (b.first_trade_id = c.last_trade_id + 1
                AND b.trade_count = b.last_trade_id - b.first_trade_id + 1) IS TRUE AS only_continues
        FROM unnest(batch) b
            LEFT JOIN candles c USING (symbol, interval, open_time)
            LEFT JOIN symbols s ON s.symbol = b.symbol
    ), shared AS (
        SELECT m.symbol, range_agg(m.stored_ids * m.trade_ids) AS ids
        FROM met m WHERE m.stored_ids && m.trade_ids
        GROUP BY m.symbol
    )
    SELECT (SELECT jsonb_object_agg(shared.symbol, shared.ids::text) FROM shared),
        coalesce(sum(m.trade_count) FILTER (WHERE m.is_counted), 0),
        coalesce(sum(m.trade_count) FILTER (WHERE m.is_counted AND m.is_late), 0),
        coalesce(array_agg(m.candle) FILTER (WHERE NOT m.only_continues), '{}')
    INTO overlap, merged, late, unsettled
    FROM met m;
END
$$;

-- Moves each symbol on to the batch's trade of greatest id, if that is greater, and to its latest candle.
CREATE FUNCTION advance_symbols(partials jsonb, merged_at timestamptz) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO symbols AS s (symbol, last_trade_id, last_price, last_trade_time, newest_open_time, updated_at)
    SELECT p.symbol,
        max(p.last_trade_id),
        (array_agg(p.close ORDER BY p.last_trade_id DESC))[1],
        from_microseconds((array_agg(p.last_trade_time ORDER BY p.last_trade_id DESC))[1]),
        from_microseconds(max(p.open_time)),
        merged_at
    FROM jsonb_to_recordset(partials) AS p(
        symbol text, open_time bigint, close numeric, last_trade_id bigint, last_trade_time bigint)
    GROUP BY p.symbol
    ORDER BY p.symbol
    ON CONFLICT (symbol) DO UPDATE SET
        last_trade_id = greatest(s.last_trade_id, excluded.last_trade_id),
        last_price = CASE WHEN excluded.last_trade_id > s.last_trade_id
            THEN excluded.last_price ELSE s.last_price END,
        last_trade_time = CASE WHEN excluded.last_trade_id > s.last_trade_id
            THEN excluded.last_trade_time ELSE s.last_trade_time END,
        newest_open_time = greatest(s.newest_open_time, excluded.newest_open_time),
        updated_at = excluded.updated_at;
END
$$;

-- The merge itself: open by least first id, close by greatest last id, extremes, sums, union of ids.
CREATE FUNCTION merge_candles(batch candles[]) RETURNS void
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
        revision = c.revision + c.is_closed::integer,
        updated_at = excluded.updated_at;
END
$$;

-- Closes the candles of the batch's symbols that end by the symbol's newest open time.
CREATE FUNCTION close_passed_candles(batch candles[]) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    UPDATE candles c SET is_closed = true
    FROM (
        SELECT o.symbol, o.interval, o.open_time
        FROM (SELECT DISTINCT b.symbol FROM unnest(batch) b) touched
            JOIN symbols s USING (symbol)
            JOIN candles o ON o.symbol = s.symbol AND NOT o.is_closed AND o.end_time <= s.newest_open_time
        ORDER BY 1, 2, 3
        FOR NO KEY UPDATE OF o
    ) due
    WHERE (c.symbol, c.interval, c.open_time) = (due.symbol, due.interval, due.open_time);
END
$$;

-- Judges anew whether the unsettled candles, and those right after the batch's, are complete. A candle follows the latest
-- one that ended by its open time; of tumbling windows that is its one neighbour, of sliding ones a single
-- candle can stand before as many as a window has slides: all those that open within a window's length.
CREATE FUNCTION prove_completeness(batch candles[], unsettled candles[]) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    WITH next AS MATERIALIZED (  -- or the planner would join every candle of the symbol to each of these
        SELECT b.symbol, b.interval, b.end_time - b.open_time AS size, n.open_time
        FROM unnest(batch) b
            JOIN symbols s ON s.symbol = b.symbol AND s.newest_open_time >= b.end_time  -- else there is none
            CROSS JOIN LATERAL (
                SELECT c.open_time FROM candles c
                WHERE c.symbol = b.symbol AND c.interval = b.interval AND c.open_time >= b.end_time
                ORDER BY c.open_time LIMIT 1
            ) n
    ), affected AS (
        SELECT u.symbol, u.interval, u.open_time FROM unnest(unsettled) u
        UNION
        SELECT c.symbol, c.interval, c.open_time
        FROM next n JOIN candles c ON c.symbol = n.symbol AND c.interval = n.interval
            AND c.open_time >= n.open_time AND c.open_time < n.open_time + n.size
    ), judged AS (
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
    UPDATE candles c SET is_complete = changed.is_proven
    FROM (SELECT * FROM judged WHERE is_complete <> is_proven) changed
    WHERE (c.symbol, c.interval, c.open_time) = (changed.symbol, changed.interval, changed.open_time);
END
$$;

CREATE FUNCTION move_offsets(topic text, reached jsonb) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO topic_offsets (topic, partition, next_offset)
    SELECT move_offsets.topic, r.key::integer, r.value::bigint
    FROM jsonb_each_text(reached) r ORDER BY 2
    ON CONFLICT ON CONSTRAINT topic_offsets_pkey DO UPDATE SET next_offset = excluded.next_offset;
END
$$;

CREATE FUNCTION count_records(topic text, counts jsonb, merged bigint, late bigint) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO record_counts AS r (topic, outcome, records)
    SELECT count_records.topic, o.outcome, sum(o.records)
    FROM (
        VALUES ('received', (counts ->> 'received')::bigint),
               ('duplicate', (counts ->> 'duplicate')::bigint),
               ('merged', merged),
               ('late', late)
        UNION ALL
        SELECT left('rejected: ' || e.key, 200), e.value::bigint
        FROM jsonb_each_text(coalesce(counts -> 'rejected', '{}')) e
    ) o(outcome, records)
    WHERE o.records <> 0
    GROUP BY o.outcome
    ORDER BY o.outcome
    ON CONFLICT ON CONSTRAINT record_counts_pkey DO UPDATE SET records = r.records + excluded.records;
END
$$;


-- For the processor ---------------------------------------------------------------------------------------

-- Makes the caller the topic's one processor for as long as its session lives. Returns
-- {"run_id": ..., "offsets": {"0": 123}}; CF001 while another holds it, CF002 if the topic was made anew.
CREATE FUNCTION claim_topic(topic text, topic_id text, held_by text) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
SET timezone = 'UTC'
AS $$
#variable_conflict use_column
DECLARE
    is_held_elsewhere constant boolean := NOT pg_try_advisory_lock(topic_lock(claim_topic.topic));
    new_run_id constant uuid := gen_random_uuid();
    known topics;
BEGIN
    SELECT t.* INTO known FROM topics t WHERE t.topic = claim_topic.topic;
    IF is_held_elsewhere THEN
        RAISE EXCEPTION 'the topic % is held by another processor: %', claim_topic.topic,
            coalesce(known.held_by || ', since ' || date_trunc('second', known.claimed_at), 'one just starting')
            USING ERRCODE = 'CF001';
    END IF;
    -- A lock taken for a session outlives a failed transaction, so it is given back before each raise.
    IF known.topic_id <> claim_topic.topic_id AND stored_offsets(claim_topic.topic) <> '{}' THEN
        PERFORM pg_advisory_unlock(topic_lock(claim_topic.topic));
        RAISE EXCEPTION
            'the topic % was made anew: its id is %, the stored offsets belong to %; to accept it: python -m candleflow adopt-topic',
            claim_topic.topic, claim_topic.topic_id, known.topic_id USING ERRCODE = 'CF002';
    END IF;
    INSERT INTO topics AS t (topic, topic_id, run_id, held_by, claimed_at)
    VALUES (claim_topic.topic, claim_topic.topic_id, new_run_id, left(claim_topic.held_by, 200), clock_timestamp())
    ON CONFLICT (topic) DO UPDATE SET topic_id = excluded.topic_id, run_id = excluded.run_id,
        held_by = excluded.held_by, claimed_at = excluded.claimed_at;
    -- Read behind the row's lock: a last batch of the run before may have been on its way to its commit.
    RETURN jsonb_build_object('run_id', new_run_id, 'offsets', stored_offsets(claim_topic.topic));
END
$$;

-- Merges one batch and moves the offsets, all or nothing. Returns {"status": "merged", "late": n},
-- {"status": "already_merged"} or {"status": "overlap", "ids": {...}}; CF003: this run was superseded.
--
-- The plan is always the same, a few steps down an index for each candle of the batch, whatever the
-- statistics say of a table that was empty a minute ago: hence the planner's settings. The parts are PL/pgSQL
-- as it keeps its plans from batch to batch; SQL functions plan anew at each call before PostgreSQL 18.
CREATE FUNCTION merge_batch(
    run_id uuid, topic text, expected jsonb, reached jsonb, partials jsonb, counts jsonb, windows jsonb
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
    reached_all constant jsonb := expected || reached;
    merged_at timestamptz;
    batch candles[];
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
    SELECT * INTO weighed FROM weigh_batch(batch, windows ->> 'interval');
    IF weighed.overlap IS NOT NULL THEN
        RETURN jsonb_build_object('status', 'overlap', 'ids', weighed.overlap);
    END IF;
    PERFORM advance_symbols(partials, merged_at);
    PERFORM merge_candles(batch);
    PERFORM close_passed_candles(batch);
    PERFORM prove_completeness(batch, weighed.unsettled);
    PERFORM count_records(topic, counts, weighed.merged, weighed.late);
    PERFORM move_offsets(topic, reached_all);
    RETURN jsonb_build_object('status', 'merged', 'late', weighed.late);
END
$$;

-- Closes every open candle that ends by closes_until (microseconds); how many. For a processor that has read
-- all there is: a symbol with no further trade would else stay open. CF003: this run was superseded.
CREATE FUNCTION close_quiet_candles(run_id uuid, topic text, closes_until bigint) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
SET timezone = 'UTC'
SET enable_seqscan = off
SET jit = off
AS $$
DECLARE
    closed bigint;
BEGIN
    PERFORM hold_topic(run_id, topic);
    UPDATE topics t SET caught_up_at = clock_timestamp() WHERE t.topic = close_quiet_candles.topic;
    UPDATE candles c SET is_closed = true
    FROM (
        SELECT o.symbol, o.interval, o.open_time FROM candles o
        WHERE NOT o.is_closed AND o.end_time <= from_microseconds(closes_until)
        ORDER BY 1, 2, 3
        FOR NO KEY UPDATE
    ) due
    WHERE (c.symbol, c.interval, c.open_time) = (due.symbol, due.interval, due.open_time);
    GET DIAGNOSTICS closed = ROW_COUNT;
    RETURN closed;
END
$$;

-- The version of the schema, for a process that may not ask as the owner.
CREATE FUNCTION current_schema_version() RETURNS integer
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
AS $$ SELECT coalesce(max(version), 0) FROM schema_version $$;


-- For the owner -------------------------------------------------------------------------------------------

-- Accepts a topic made anew: its offsets begin at its beginning. The candles stay; trades of the new topic
-- that are in them already will be met as overlaps, and not counted twice.
CREATE FUNCTION adopt_topic(topic text, topic_id text) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, public, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    IF NOT pg_try_advisory_xact_lock(topic_lock(adopt_topic.topic)) THEN
        RAISE EXCEPTION 'a processor is running on the topic %: %; stop it first', adopt_topic.topic,
            (SELECT t.held_by FROM topics t WHERE t.topic = adopt_topic.topic) USING ERRCODE = 'CF001';
    END IF;
    INSERT INTO topics AS t (topic, topic_id) VALUES (adopt_topic.topic, adopt_topic.topic_id)
    ON CONFLICT (topic) DO UPDATE SET topic_id = excluded.topic_id, run_id = NULL, held_by = NULL;
    DELETE FROM topic_offsets o WHERE o.topic = adopt_topic.topic;
END
$$;
