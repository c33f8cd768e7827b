-- Stores decisions in one transaction and returns how many alerts are new. Input: [{"rule_id": 1, "symbol": "BTCUSDT",
-- "version": 3, "state": {...}, "alert": null or {"window_us": ..., "sampled_us": ..., "text": ..., "brief": ...,
-- "channels": [...]}}, ...]. version is that of the state that the decision was made from, 0 if there was none. Raises
-- CF003 if the state has changed since. Decisions of removed rules are skipped. A rule gets at most one alert for a
-- symbol and a window.
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
            RAISE EXCEPTION 'another process has decided on rule % since', one.rule_id
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
