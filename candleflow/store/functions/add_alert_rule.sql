-- Adds a rule and returns its number. Raises 22023 if there are 500 rules already, or if the JSON is not a rule.
CREATE FUNCTION add_alert_rule(rule jsonb) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
AS $$
DECLARE
    added bigint;
BEGIN
    LOCK TABLE alert_rules IN SHARE ROW EXCLUSIVE MODE;
    IF (SELECT count(*) FROM alert_rules r WHERE r.removed_at IS NULL) >= 500 THEN
        RAISE EXCEPTION 'there are 500 alert rules, the most allowed: remove one first' USING ERRCODE = '22023';
    END IF;
    IF (jsonb_typeof(rule -> 'kind') = 'string' AND jsonb_typeof(rule -> 'channels') = 'array') IS NOT TRUE THEN
        RAISE EXCEPTION 'an alert rule needs a kind and a list of channels' USING ERRCODE = '22023';
    END IF;
    INSERT INTO alert_rules (rule, added_at) VALUES (rule, clock_timestamp()) RETURNING rule_id INTO added;
    RETURN added;
END
$$;
