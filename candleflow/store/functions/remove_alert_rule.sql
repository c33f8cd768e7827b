-- Removes a rule, and returns whether it existed. Its alerts stay, and those that wait are still sent.
CREATE FUNCTION remove_alert_rule(rule_id bigint) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
AS $$
BEGIN
    UPDATE alert_rules r SET removed_at = clock_timestamp()
    WHERE r.rule_id = remove_alert_rule.rule_id AND r.removed_at IS NULL;
    RETURN FOUND;
END
$$;
