-- Stores the outcome of attempts, and returns how many rows changed. attempted is {"12": 1}: alert ids and attempt
-- numbers. Only a message that the channel certainly didn't accept goes back to 'pending', due in due_in_seconds. The
-- process that made the attempt may store its outcome even after another one has claimed the lease.
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
