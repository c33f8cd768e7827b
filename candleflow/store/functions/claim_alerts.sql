-- Takes the lease on alerts for as long as the caller's session lives, and returns the id of this run. Raises CF001 if
-- another process holds it. Deliveries that the previous holder was sending become unknown.
CREATE FUNCTION claim_alerts(held_by text) RETURNS uuid
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
SET timezone = 'UTC'
AS $$
DECLARE
    new_run_id constant uuid := gen_random_uuid();
BEGIN
    IF NOT pg_try_advisory_lock(hashtextextended('candleflow alerts', 0)) THEN
        RAISE EXCEPTION 'alerts are sent by another process: %; stop it first',
            coalesce((SELECT a.held_by || ', since ' || date_trunc('second', a.claimed_at) FROM alerter a),
                'a process that is just starting')
            USING ERRCODE = 'CF001';
    END IF;
    INSERT INTO alerter AS a (run_id, held_by, claimed_at)
    VALUES (new_run_id, left(claim_alerts.held_by, 200), clock_timestamp())
    ON CONFLICT (only_one) DO UPDATE SET run_id = excluded.run_id, held_by = excluded.held_by,
        claimed_at = excluded.claimed_at;
    UPDATE alert_deliveries d SET state = 'unknown', updated_at = clock_timestamp(),
        detail = 'the process ended while it was sending'
    WHERE d.state = 'sending';
    RETURN new_run_id;
END
$$;
