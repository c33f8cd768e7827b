-- Alert rules, what they remember, and the outbox of what is to be sent; and the only functions to change them.
--
-- Run once, by the owner, in a transaction of store/schema.py. A decision is one transaction: the rule's new
-- state by compare-and-set, the alert, and a delivery for each of its channels. So an alert is decided once,
-- whichever process is killed, and when. It is sent at most once because it is marked as being sent, and that
-- committed, before the first byte leaves: what was being sent when its process died is unknown, and stays so.

CREATE TABLE alert_rules (
    rule_id    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    rule       jsonb NOT NULL CHECK (jsonb_typeof(rule) = 'object' AND length(rule::text) <= 2000),
    added_at   timestamptz NOT NULL,
    removed_at timestamptz
);

COMMENT ON COLUMN alert_rules.rule IS 'as alerts/rules.py has it; channels by their names, never addresses';

CREATE TABLE alert_states (
    rule_id bigint NOT NULL REFERENCES alert_rules,
    symbol  text COLLATE "C" NOT NULL CHECK (length(symbol) <= 20),
    version bigint NOT NULL,
    state   jsonb NOT NULL,
    PRIMARY KEY (rule_id, symbol)
) WITH (fillfactor = 50);

CREATE TABLE alerts (
    alert_id   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    rule_id    bigint NOT NULL REFERENCES alert_rules,
    symbol     text COLLATE "C" NOT NULL CHECK (length(symbol) <= 20),
    window_at  timestamptz NOT NULL,
    sampled_at timestamptz NOT NULL,
    text       text NOT NULL CHECK (length(text) <= 1000),
    brief      text NOT NULL CHECK (length(brief) <= 200),
    decided_at timestamptz NOT NULL,
    UNIQUE (rule_id, symbol, window_at)
);

CREATE INDEX alerts_latest ON alerts (decided_at);

COMMENT ON COLUMN alerts.window_at IS 'when the candle opened by which the rule fired: one alert for each';

CREATE TABLE alert_deliveries (
    alert_id   bigint NOT NULL REFERENCES alerts ON DELETE CASCADE,
    channel    text COLLATE "C" NOT NULL CHECK (channel ~ '^[a-z][a-z0-9_-]{0,30}$'),
    state      text NOT NULL DEFAULT 'pending'
        CHECK (state IN ('pending', 'sending', 'sent', 'refused', 'unknown', 'given up')),
    attempts   integer NOT NULL DEFAULT 0,
    due_at     timestamptz NOT NULL,
    detail     text NOT NULL DEFAULT '' CHECK (length(detail) <= 200),
    updated_at timestamptz NOT NULL,
    PRIMARY KEY (alert_id, channel)
) WITH (fillfactor = 50);

CREATE INDEX alert_deliveries_open ON alert_deliveries (channel, alert_id) WHERE state IN ('pending', 'sending');

COMMENT ON COLUMN alert_deliveries.state IS
    'sending: the request may be on its way; unknown: it was, and no answer is known, so it is not sent again';

CREATE TABLE alerter (
    only_one   boolean PRIMARY KEY DEFAULT true CHECK (only_one),
    run_id     uuid NOT NULL,
    held_by    text NOT NULL,
    claimed_at timestamptz NOT NULL
);

COMMENT ON TABLE alerter IS 'the process that may decide and send: the last to claim it';


-- Parts ---------------------------------------------------------------------------------------------------

-- Holds the right to decide until the transaction ends. CF003 unless run_id claimed it last.
CREATE FUNCTION hold_alerts(run_id uuid) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    holder alerter;
BEGIN
    SELECT a.* INTO holder FROM alerter a FOR NO KEY UPDATE;
    IF holder.run_id IS DISTINCT FROM hold_alerts.run_id OR hold_alerts.run_id IS NULL THEN
        RAISE EXCEPTION 'this process no longer holds the alerts: % does',
            coalesce(holder.held_by || ', since ' || date_trunc('second', holder.claimed_at), 'nobody')
            USING ERRCODE = 'CF003';
    END IF;
END
$$;


-- For the alerter -----------------------------------------------------------------------------------------

-- Makes the caller the one that decides and sends, for as long as its session lives; its run's id. CF001 while
-- another does. What was being sent by the one before is unknown from here on; alerts of 90 days ago go.
CREATE FUNCTION claim_alerts(held_by text) RETURNS uuid
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
SET timezone = 'UTC'
AS $$
DECLARE
    new_run_id constant uuid := gen_random_uuid();
BEGIN
    IF NOT pg_try_advisory_lock(hashtextextended('candleflow alerts', 0)) THEN
        RAISE EXCEPTION 'alerts are sent by another process: %',
            coalesce((SELECT a.held_by || ', since ' || date_trunc('second', a.claimed_at) FROM alerter a),
                'one just starting')
            USING ERRCODE = 'CF001';
    END IF;
    INSERT INTO alerter AS a (run_id, held_by, claimed_at)
    VALUES (new_run_id, left(claim_alerts.held_by, 200), clock_timestamp())
    ON CONFLICT (only_one) DO UPDATE SET run_id = excluded.run_id, held_by = excluded.held_by,
        claimed_at = excluded.claimed_at;
    UPDATE alert_deliveries d SET state = 'unknown', updated_at = clock_timestamp(),
        detail = 'its process ended while it was being sent'
    WHERE d.state = 'sending';
    DELETE FROM alerts a WHERE a.decided_at < clock_timestamp() - interval '90 days';
    RETURN new_run_id;
END
$$;

-- Decides, all or nothing: [{"rule_id": 1, "symbol": "BTCUSDT", "version": 3, "state": {...}, "alert": null or
-- {"window_us": ..., "sampled_us": ..., "text": ..., "brief": ..., "channels": [...]}}, ...]; how many alerts.
-- version: of the state that was read, 0 where there was none; CF003 where it is another by now. A rule that
-- was removed meanwhile decides nothing, and a window has one alert of a rule and a symbol, ever.
CREATE FUNCTION decide_alerts(run_id uuid, decisions jsonb) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
SET timezone = 'UTC'
AS $$
DECLARE
    one record;
    new_alert_id bigint;
    decided bigint := 0;
BEGIN
    PERFORM hold_alerts(run_id);
    FOR one IN SELECT * FROM jsonb_to_recordset(decisions)
        AS d(rule_id bigint, symbol text, version bigint, state jsonb, alert jsonb)
    LOOP
        PERFORM FROM alert_rules r WHERE r.rule_id = one.rule_id AND r.removed_at IS NULL FOR SHARE;
        CONTINUE WHEN NOT FOUND;
        IF one.version = 0 THEN
            INSERT INTO alert_states (rule_id, symbol, version, state)
            VALUES (one.rule_id, one.symbol, 1, one.state) ON CONFLICT DO NOTHING;
        ELSE
            UPDATE alert_states s SET version = s.version + 1, state = one.state
            WHERE (s.rule_id, s.symbol, s.version) = (one.rule_id, one.symbol, one.version);
        END IF;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'rule % was decided on by another process since', one.rule_id
                USING ERRCODE = 'CF003';
        END IF;
        CONTINUE WHEN one.alert IS NULL OR jsonb_typeof(one.alert) = 'null';
        INSERT INTO alerts (rule_id, symbol, window_at, sampled_at, text, brief, decided_at)
        VALUES (one.rule_id, one.symbol, from_microseconds((one.alert ->> 'window_us')::bigint),
            from_microseconds((one.alert ->> 'sampled_us')::bigint), one.alert ->> 'text',
            one.alert ->> 'brief', clock_timestamp())
        ON CONFLICT (rule_id, symbol, window_at) DO NOTHING
        RETURNING alert_id INTO new_alert_id;
        CONTINUE WHEN NOT FOUND;
        INSERT INTO alert_deliveries (alert_id, channel, due_at, updated_at)
        SELECT new_alert_id, c, clock_timestamp(), clock_timestamp()
        FROM jsonb_array_elements_text(one.alert -> 'channels') c;
        decided := decided + 1;
    END LOOP;
    RETURN decided;
END
$$;

-- The channel's next alerts, the oldest first, marked as being sent: once this is committed they are sent, or
-- never again without being known not to have been.
CREATE FUNCTION take_deliveries(run_id uuid, channel text, most integer)
RETURNS TABLE (alert_id bigint, attempt integer, decided_us bigint, text text, brief text)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
SET timezone = 'UTC'
AS $$
#variable_conflict use_column
BEGIN
    PERFORM hold_alerts(take_deliveries.run_id);
    RETURN QUERY
    WITH due AS (
        SELECT d.alert_id FROM alert_deliveries d
        WHERE d.channel = take_deliveries.channel AND d.state = 'pending' AND d.due_at <= clock_timestamp()
        ORDER BY d.alert_id LIMIT most
    ), taken AS (
        UPDATE alert_deliveries d
        SET state = 'sending', attempts = d.attempts + 1, updated_at = clock_timestamp()
        FROM due WHERE d.alert_id = due.alert_id AND d.channel = take_deliveries.channel
        RETURNING d.alert_id, d.attempts
    )
    SELECT t.alert_id, t.attempts, to_microseconds(a.decided_at), a.text, a.brief
    FROM taken t JOIN alerts a USING (alert_id) ORDER BY 1;
END
$$;

-- What became of an attempt: {"12": 1} are alerts and attempts. Back to 'pending' only what is known not to
-- have been taken, due in so many seconds. Whoever attempted it may tell, even after another has claimed.
CREATE FUNCTION note_deliveries(channel text, attempted jsonb, state text, detail text, due_in_seconds double precision)
RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
SET timezone = 'UTC'
AS $$
DECLARE
    noted bigint;
BEGIN
    UPDATE alert_deliveries d
    SET state = note_deliveries.state, detail = left(note_deliveries.detail, 200),
        due_at = clock_timestamp() + make_interval(secs => due_in_seconds), updated_at = clock_timestamp()
    FROM jsonb_each_text(attempted) a
    WHERE d.alert_id = a.key::bigint AND d.channel = note_deliveries.channel
        AND d.attempts = a.value::integer AND d.state IN ('sending', 'unknown');
    GET DIAGNOSTICS noted = ROW_COUNT;
    RETURN noted;
END
$$;


-- For whoever edits rules ---------------------------------------------------------------------------------

-- Adds a rule; its number. 22023 for more than 500, or one that isn't of the form.
CREATE FUNCTION add_alert_rule(rule jsonb) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
AS $$
DECLARE
    added bigint;
BEGIN
    LOCK TABLE alert_rules IN SHARE ROW EXCLUSIVE MODE;
    IF (SELECT count(*) FROM alert_rules r WHERE r.removed_at IS NULL) >= 500 THEN
        RAISE EXCEPTION 'there are 500 rules already: remove one first' USING ERRCODE = '22023';
    END IF;
    IF (jsonb_typeof(rule -> 'kind') = 'string' AND jsonb_typeof(rule -> 'channels') = 'array') IS NOT TRUE THEN
        RAISE EXCEPTION 'no alert rule' USING ERRCODE = '22023';
    END IF;
    INSERT INTO alert_rules (rule, added_at) VALUES (rule, clock_timestamp()) RETURNING rule_id INTO added;
    RETURN added;
END
$$;

-- Removes a rule; whether there was one. Its alerts stay, those that wait are still sent.
CREATE FUNCTION remove_alert_rule(rule_id bigint) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
AS $$
BEGIN
    UPDATE alert_rules r SET removed_at = clock_timestamp()
    WHERE r.rule_id = remove_alert_rule.rule_id AND r.removed_at IS NULL;
    RETURN FOUND;
END
$$;
