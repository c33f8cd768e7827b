-- Forecasts of closes, kept before their windows begin and held against what came.
--
-- Run once, by the owner, in a transaction of store/schema.py. The functions after the line "for the
-- forecaster" are its whole way to write: with the owner's rights and a fixed search path.

CREATE TABLE forecasts (
    symbol text NOT NULL,
    interval text NOT NULL,
    open_time timestamptz NOT NULL,
    made_at timestamptz NOT NULL,
    model text NOT NULL,
    version integer NOT NULL,
    forecast double precision NOT NULL,
    lower double precision NOT NULL,
    upper double precision NOT NULL,
    last_close numeric NOT NULL,
    actual numeric,
    scored_at timestamptz,
    PRIMARY KEY (symbol, interval, open_time),
    CHECK (made_at < open_time),
    CHECK (lower <= forecast AND forecast <= upper),
    CHECK ((actual IS NULL) = (scored_at IS NULL))
);

COMMENT ON TABLE forecasts IS
    'the forecast of a candle''s close, made before its window began; never changed but for what came';
COMMENT ON COLUMN forecasts.made_at IS 'by PostgreSQL''s clock, when the row was written';
COMMENT ON COLUMN forecasts.last_close IS 'the close of the last complete candle that was known then';
COMMENT ON COLUMN forecasts.actual IS 'the close that came; null until the candle has closed complete';

-- What has ended is deleted by age, of all symbols at once.
CREATE INDEX forecasts_by_time ON forecasts (open_time);


-- For the forecaster --------------------------------------------------------------------------------------

-- Keeps forecasts: [{"symbol", "open_time" (microseconds), "model", "version", "forecast", "lower", "upper",
-- "last_close"}, ...]. Refused, each by itself, is one whose window has begun: by the clock, or because a trade
-- of its symbol has that time already. One that is there stays as it is. Returns how many were kept.
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

-- Writes down what came: [{"symbol", "open_time" (microseconds), "close"}, ...], once for each forecast.
-- Returns how many were scored.
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

-- Deletes the forecasts of windows that began before a time (microseconds), some thousands at once; how many.
CREATE FUNCTION drop_forecasts(before bigint) RETURNS bigint
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
        ORDER BY f.open_time LIMIT 20000
    ));
    GET DIAGNOSTICS dropped = ROW_COUNT;
    RETURN dropped;
END
$$;
