-- Stores the real closes [{"symbol", "open_time" (microseconds), "close"}, ...], once for each forecast. Returns how
-- many forecasts were scored.
CREATE FUNCTION score_forecasts(closes jsonb, interval_name text) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
SET timezone = 'UTC'
AS $$
DECLARE
    scored bigint;
BEGIN
    UPDATE forecasts f SET actual = c.close, scored_at = clock_timestamp()
    FROM jsonb_to_recordset(closes) c (symbol text, open_time bigint, close numeric)
    WHERE f.symbol = c.symbol AND f.interval = interval_name AND f.open_time = from_microseconds(c.open_time)
        AND f.actual IS NULL AND f.open_time < clock_timestamp();
    GET DIAGNOSTICS scored = ROW_COUNT;
    RETURN scored;
END
$$;
