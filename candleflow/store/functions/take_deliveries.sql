-- Marks the channel's next due alerts as being sent, the oldest first, and returns them. After this commits they are
-- sent, or their outcome is unknown. Only one caller works on a channel: alerts that are still being sent when it calls
-- again were taken by a call whose reply was lost, so they become unknown.
CREATE FUNCTION take_deliveries(run_id uuid, channel text, most integer)
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
