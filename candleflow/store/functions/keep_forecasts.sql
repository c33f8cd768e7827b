-- Stores forecasts [{"symbol", "open_time" (microseconds), "model", "version", "forecast", "lower", "upper",
-- "last_close"}, ...] and returns how many were stored. Skips each one whose window has begun, by the clock or by a
-- trade of its symbol. An existing forecast is never changed.
CREATE FUNCTION keep_forecasts(forecasts jsonb, interval_name text) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
SET timezone = 'UTC'
AS $$
DECLARE
    now_at timestamptz := clock_timestamp();
    kept bigint;
BEGIN
    INSERT INTO forecasts AS kept_forecasts (symbol, interval, open_time, made_at, model, version, forecast,
        lower, upper, last_close)
    SELECT f.symbol, interval_name, from_microseconds(f.open_time), now_at, f.model, f.version, f.forecast,
        f.lower, f.upper, f.last_close
    FROM jsonb_to_recordset(keep_forecasts.forecasts) f (symbol text, open_time bigint, model text,
            version integer, forecast double precision, lower double precision, upper double precision,
            last_close numeric)
        JOIN symbols s ON s.symbol = f.symbol
    WHERE from_microseconds(f.open_time) > now_at AND s.last_trade_time < from_microseconds(f.open_time)
    ON CONFLICT DO NOTHING;
    GET DIAGNOSTICS kept = ROW_COUNT;
    RETURN kept;
END
$$;
