-- Candles folded anew: what the auditor has read from the topic takes the place of what is stored.
--
-- Written as 0001_candles.sql is: the functions after the line "for the auditor" are its whole interface, with
-- the owner's rights and a fixed search path; those before it are parts that only the owner may call.

ALTER TABLE symbols ADD COLUMN repaired bigint NOT NULL DEFAULT 0;

COMMENT ON COLUMN symbols.repaired IS 'how often a candle of the symbol was put right by folding it anew';


-- Parts of replace_candles --------------------------------------------------------------------------------

CREATE FUNCTION to_microseconds(at timestamptz) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT (extract(epoch FROM at) * 1000000)::bigint $$;

-- Whether a candle is complete, as prove_completeness judges it.
CREATE FUNCTION is_proven(candle candles) RETURNS boolean
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN candle.trade_count = candle.last_trade_id - candle.first_trade_id + 1 AND coalesce((
        SELECT p.last_trade_id FROM candles p
        WHERE p.symbol = candle.symbol AND p.interval = candle.interval
            AND p.open_time <= candle.open_time - (candle.end_time - candle.open_time)
        ORDER BY p.open_time DESC LIMIT 1
    ) + 1 = candle.first_trade_id, false);
END
$$;

-- The ids of the symbol's finest candles that open in [since, until), of sliding ones those that tile time:
-- every trade once.
CREATE FUNCTION tiled_ids(symbol text, finest text, size interval, since timestamptz, until timestamptz)
RETURNS int8multirange
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN (
        SELECT coalesce(range_agg(c.trade_ids), '{}') FROM candles c
        WHERE c.symbol = tiled_ids.symbol AND c.interval = finest AND c.open_time >= since
            AND c.open_time < until
            AND date_bin(size, c.open_time, timestamptz '1970-01-01 00:00:00+00') = c.open_time
    );
END
$$;

-- The candles that partials are, which must all be the symbol's and open in [since, until). 22023 else.
CREATE FUNCTION refolded(
    symbol text, since bigint, until bigint, partials jsonb, windows jsonb, replaced_at timestamptz
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

-- Whether [begin_us, end_us) overlaps one of doubtful, [[since, until], ...].
CREATE FUNCTION is_doubtful(begin_us bigint, end_us bigint, doubtful jsonb) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT EXISTS (
        SELECT FROM jsonb_array_elements(doubtful) d
        WHERE (d ->> 0)::bigint < end_us AND begin_us < (d ->> 1)::bigint
    )
$$;

-- The roll-ups, up to a length, that hold since or overlap [since, until), folded from the finest candles as
-- they are stored; none that overlaps a doubtful stretch.
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
        WITH tiles AS MATERIALIZED (  -- one look down the index, whatever the planner knows of the table
            SELECT c.*, to_microseconds(c.open_time) AS open_us
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
                range_agg(t.trade_ids) AS trade_ids,
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
-- candle may be lost, and its trades must not be lost to its roll-ups too. Of what did not come by
-- the topic the ids are all there is, so nothing explains that they became fewer.
CREATE FUNCTION without_losses(folded candles[], finest text, size interval) RETURNS candles[]
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN (
        SELECT coalesce(array_agg(f ORDER BY f.interval, f.open_time), '{}')
        FROM unnest(folded) f LEFT JOIN candles c USING (symbol, interval, open_time)
        WHERE CASE
            WHEN c.trade_ids IS NULL OR c.trade_ids <@ f.trade_ids THEN true
            WHEN c.source <> 'trades' THEN false
            ELSE c.trade_ids - f.trade_ids <@ tiled_ids(f.symbol, finest, size,
                f.open_time - interval '1 day', f.end_time + interval '1 day') END
    );
END
$$;

-- Whether two candles are the same but for what is not of their trades.
CREATE FUNCTION same_amounts(one candles, other candles) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT (one.end_time, one.open, one.high, one.low, one.close, one.volume, one.quote_volume,
            one.taker_buy_volume, one.taker_buy_quote_volume, one.trade_count, one.first_trade_id,
            one.last_trade_id, one.trade_ids)
        IS NOT DISTINCT FROM (other.end_time, other.open, other.high, other.low, other.close, other.volume,
            other.quote_volume, other.taker_buy_volume, other.taker_buy_quote_volume, other.trade_count,
            other.first_trade_id, other.last_trade_id, other.trade_ids)
$$;

-- Puts candles in the place of those of their keys; how many of them were not the same. What was closed stays
-- so; the revision is raised where anything changed, and only there.
CREATE FUNCTION put_candles(fresh candles[]) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    changed bigint;
BEGIN
    INSERT INTO candles AS c (symbol, interval, open_time, end_time, open, high, low, close, volume,
        quote_volume, taker_buy_volume, taker_buy_quote_volume, trade_count, first_trade_id, last_trade_id,
        trade_ids, is_closed, revision, source, updated_at)
    SELECT f.symbol, f.interval, f.open_time, f.end_time, f.open, f.high, f.low, f.close, f.volume,
        f.quote_volume, f.taker_buy_volume, f.taker_buy_quote_volume, f.trade_count, f.first_trade_id,
        f.last_trade_id, f.trade_ids, f.end_time <= s.newest_open_time, 1, f.source, f.updated_at
    FROM unnest(fresh) WITH ORDINALITY f JOIN symbols s ON s.symbol = f.symbol
    ORDER BY f.ordinality
    ON CONFLICT (symbol, interval, open_time) DO UPDATE SET
        end_time = excluded.end_time,
        open = excluded.open,
        high = excluded.high,
        low = excluded.low,
        close = excluded.close,
        volume = excluded.volume,
        quote_volume = excluded.quote_volume,
        taker_buy_volume = excluded.taker_buy_volume,
        taker_buy_quote_volume = excluded.taker_buy_quote_volume,
        trade_count = excluded.trade_count,
        first_trade_id = excluded.first_trade_id,
        last_trade_id = excluded.last_trade_id,
        trade_ids = excluded.trade_ids,
        revision = c.revision + 1,
        source = excluded.source,
        updated_at = excluded.updated_at
    WHERE NOT same_amounts(c, excluded);
    GET DIAGNOSTICS changed = ROW_COUNT;
    RETURN changed;
END
$$;

-- The stored roll-ups, up to a length, that hold since or overlap [since, until), and of which no finest
-- candle is left: none of folded has their key. None that overlaps a doubtful stretch.
CREATE FUNCTION unfolded_roll_ups(
    symbol text, since bigint, until bigint, longest_us bigint, doubtful jsonb, folded candles[]
) RETURNS candles[]
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN (
        SELECT coalesce(array_agg(c ORDER BY c.interval, c.open_time), '{}')
        FROM roll_ups() r
            JOIN candles c ON c.symbol = unfolded_roll_ups.symbol AND c.interval = r.name
                AND c.open_time >= from_microseconds(since - since % r.size_us)
                AND c.open_time < from_microseconds(greatest(until, since + 1))
        WHERE r.size_us <= longest_us
            AND NOT is_doubtful(to_microseconds(c.open_time), to_microseconds(c.open_time) + r.size_us, doubtful)
            AND (c.interval, c.open_time) NOT IN (SELECT f.interval, f.open_time FROM unnest(folded) f)
    );
END
$$;

-- Deletes candles that have no trade any more; how many. None with trades that did not come by the
-- topic, as their ids are all there is; and no roll-up with ids that are in no finest candle, as in
-- without_losses.
CREATE FUNCTION drop_candles(empty candles[], finest text, size interval) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    dropped bigint;
BEGIN
    DELETE FROM candles c USING unnest(empty) e
    WHERE (c.symbol, c.interval, c.open_time) = (e.symbol, e.interval, e.open_time)
        AND CASE
            WHEN c.source <> 'trades' THEN false
            WHEN c.interval = finest THEN true
            ELSE c.trade_ids <@ tiled_ids(c.symbol, finest, size,
                c.open_time - interval '1 day', c.end_time + interval '1 day') END;
    GET DIAGNOSTICS dropped = ROW_COUNT;
    RETURN dropped;
END
$$;


-- For the auditor -----------------------------------------------------------------------------------------

-- What each of the symbol's finest candles that open in [since, until) (microseconds) says of its own trades,
-- oldest first; is_judged: its is_complete is what the ids say; state differs where anything of it does.
CREATE FUNCTION finest_books(symbol text, since bigint, until bigint, windows jsonb)
RETURNS TABLE (open_us bigint, end_us bigint, trades bigint, first_id bigint, last_id bigint, ids text,
    is_judged boolean, state text)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
SET timezone = 'UTC'
AS $$
BEGIN
    RETURN QUERY
    SELECT to_microseconds(c.open_time), to_microseconds(c.end_time), c.trade_count, c.first_trade_id,
        c.last_trade_id, c.trade_ids::text, c.is_complete = is_proven(c), md5(c::text)
    FROM candles c
    WHERE c.symbol = finest_books.symbol AND c.interval = windows ->> 'interval'
        AND c.open_time >= from_microseconds(since) AND c.open_time < from_microseconds(until)
    ORDER BY c.open_time;
END
$$;

-- The symbol's roll-ups of up to longest_us that hold since or overlap [since, until) and are not the fold of
-- their finest candles, the shortest first: the ids as stored and as folded, null where there is no such row,
-- and whether both have the same prices.
CREATE FUNCTION stray_roll_ups(symbol text, since bigint, until bigint, longest_us bigint, windows jsonb)
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
        SELECT f.interval AS name, f.open_time AS opens, c.trade_ids::text AS stored, f.trade_ids::text AS folded,
            coalesce((c.open, c.high, c.low, c.close) = (f.open, f.high, f.low, f.close), false) AS agree,
            md5(concat(c, f)) AS state
        FROM unnest(folded) f LEFT JOIN candles c USING (symbol, interval, open_time)
        WHERE (c IS NOT NULL AND c.is_complete = is_proven(c) AND same_amounts(c, f)) IS NOT TRUE
        UNION ALL
        SELECT u.interval, u.open_time, u.trade_ids::text, NULL, false, md5(u::text)
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
    symbol text, since bigint, until bigint, seen jsonb, partials jsonb, doubtful jsonb, windows jsonb
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
    IF seen <> (SELECT coalesce(jsonb_object_agg(to_microseconds(c.open_time)::text, c.trade_ids::text), '{}')
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
    WHERE (c.source <> 'trades' AND NOT c.trade_ids <@ f.trade_ids) IS NOT TRUE;
    SELECT coalesce(array_agg(c ORDER BY c.open_time), '{}') INTO empty
    FROM unnest(stored) c WHERE c.open_time NOT IN (SELECT f.open_time FROM unnest(fresh) f);
    kept := cardinality(fresh) - cardinality(whole) + cardinality(empty);
    touched := stored || fresh;
    dropped := drop_candles(empty, finest, size);
    changed := put_candles(whole) + dropped;
    kept := kept - dropped;

    folded := fold_roll_ups(symbol, since, until, longest_us, doubtful, windows, replaced_at);
    whole := without_losses(folded, finest, size);
    empty := unfolded_roll_ups(symbol, since, until, longest_us, doubtful, folded);
    kept := kept + cardinality(folded) - cardinality(whole) + cardinality(empty);
    touched := touched || folded || empty;
    dropped := drop_candles(empty, finest, size);
    changed := changed + put_candles(whole) + dropped;
    kept := kept - dropped;

    PERFORM prove_completeness(touched, touched);
    UPDATE symbols s SET repaired = s.repaired + changed
    WHERE s.symbol = replace_candles.symbol AND changed > 0;
    RETURN jsonb_build_object('status', 'replaced', 'candles', changed, 'kept', kept);
END
$$;

-- How far the topic is in the candles: {"topic_id": ..., "offsets": {"0": 123}}, null where it was never read.
CREATE FUNCTION merged_offsets(topic text) RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
AS $$
    SELECT jsonb_build_object('topic_id', t.topic_id, 'offsets', stored_offsets(t.topic))
    FROM topics t WHERE t.topic = merged_offsets.topic
$$;
