-- Deletes up to "most" forecasts of windows that began before a time (microseconds), the oldest first; returns how
-- many. Never waits for a lock: rows that another transaction holds are left to the next call.
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
