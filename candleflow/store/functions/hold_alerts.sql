-- Locks the lease on alerts until the transaction ends. Raises CF003 if run_id is not the run that claimed it last.
CREATE FUNCTION hold_alerts(run_id uuid) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    holder alerter;
BEGIN
    SELECT a.* INTO holder FROM alerter a FOR NO KEY UPDATE;
    IF holder.run_id IS DISTINCT FROM hold_alerts.run_id OR hold_alerts.run_id IS NULL THEN
        RAISE EXCEPTION 'this process no longer holds the alerts: % does',
            coalesce(holder.held_by || ', since ' || date_trunc('second', holder.claimed_at), 'none')
            USING ERRCODE = 'CF003';
    END IF;
END
$$;
