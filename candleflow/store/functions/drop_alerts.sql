-- Deletes up to "most" alerts over 90 days old, the oldest first, with their deliveries; returns how many. Never waits
-- for a
-- lock: rows that another transaction holds are left to the next call.
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
