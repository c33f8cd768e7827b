-- Returns the stored roll-ups with their lengths in microseconds: the same as market.window.ROLL_UPS.
CREATE FUNCTION roll_ups() RETURNS TABLE (name text, size_us bigint)
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    VALUES ('1m', 60000000::bigint), ('5m', 300000000), ('15m', 900000000), ('1h', 3600000000),
           ('1d', 86400000000)
$$;
