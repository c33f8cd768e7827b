-- Alerts that stayed in 'sending'; old alerts and forecasts, deleted in batches of the caller's size.
--
-- Run once, by the owner, in a transaction of store/schema.py. claim_alerts and take_deliveries are those of
-- 0004_alerts.sql and drop_forecasts is that of 0005_forecast.sql but for that; drop_alerts is new.

-- Makes the caller the one that decides and sends, for as long as its session lives; its run's id. CF001 while
-- another does. What was being sent by the one before is unknown from here on.
CREATE OR REPLACE FUNCTION claim_alerts(held_by text) RETURNS uuid
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
    RETURN new_run_id;
END
$$;

-- The channel's next alerts, the oldest first, marked as being sent: once this is committed they are sent, or
-- never again without being known not to have been. One caller takes and notes for a channel, in turns: what is
-- still being sent when it takes again was taken by a call whose reply was lost, and is unknown.
CREATE OR REPLACE FUNCTION take_deliveries(run_id uuid, channel text, most integer)
RETURNS TABLE (alert_id bigint, attempt integer, decided_us bigint, text text, brief text)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
SET timezone = 'UTC'
AS $$
#variable_conflict use_column
BEGIN
    PERFORM hold_alerts(take_deliveries.run_id);
    UPDATE alert_deliveries d SET state = 'unknown', updated_at = clock_timestamp(),
        detail = 'PostgreSQL''s reply was lost while it was being sent'
    WHERE d.channel = take_deliveries.channel AND d.state = 'sending';
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

-- Deletes up to so many alerts of over 90 days ago, the oldest first, with their deliveries; how many. Waits for
-- no lock: what another transaction holds is left to the next call.
CREATE FUNCTION drop_alerts(most integer) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
SET timezone = 'UTC'
AS $$
DECLARE
    dropped bigint;
BEGIN
    DELETE FROM alerts WHERE ctid = ANY (ARRAY(
        SELECT a.ctid FROM alerts a WHERE a.decided_at < clock_timestamp() - interval '90 days'
        ORDER BY a.decided_at LIMIT most FOR UPDATE SKIP LOCKED
    ));
    GET DIAGNOSTICS dropped = ROW_COUNT;
    RETURN dropped;
END
$$;

-- Deletes up to so many forecasts of windows that began before a time (microseconds); how many.
DROP FUNCTION drop_forecasts(bigint);
CREATE FUNCTION drop_forecasts(before bigint, most integer) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
SET timezone = 'UTC'
AS $$
DECLARE
    dropped bigint;
BEGIN
    DELETE FROM forecasts WHERE ctid = ANY (ARRAY(
        SELECT f.ctid FROM forecasts f
        WHERE f.open_time < least(from_microseconds(before), clock_timestamp())
        ORDER BY f.open_time LIMIT most FOR UPDATE SKIP LOCKED
    ));
    GET DIAGNOSTICS dropped = ROW_COUNT;
    RETURN dropped;
END
$$;
