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
