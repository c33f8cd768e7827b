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
