-- Returns the stored newest open times of the batch's symbols: {"BTCUSDT": "2024-05-01T00:00:00+00:00"}.
CREATE FUNCTION newest_open_times(batch candles[]) RETURNS jsonb
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN (
        SELECT coalesce(jsonb_object_agg(s.symbol, s.newest_open_time), '{}')
        FROM (SELECT DISTINCT b.symbol FROM unnest(batch) b) touched JOIN symbols s USING (symbol)
    );
END
$$;
