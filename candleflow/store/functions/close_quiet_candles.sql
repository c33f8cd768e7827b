-- Closes every open candle that ends by closes_until (microseconds), and returns how many. The processor calls it when
-- it has read the whole topic: without it, the last candle of a symbol without further trades would stay open. Raises
-- CF003 if another run has claimed the topic.
CREATE FUNCTION close_quiet_candles(run_id uuid, topic text, closes_until bigint) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
SET timezone = 'UTC'
SET enable_seqscan = off
SET jit = off
AS $$
DECLARE
    closed bigint;
BEGIN
    PERFORM hold_topic(run_id, topic);
    UPDATE topics t SET caught_up_at = clock_timestamp() WHERE t.topic = close_quiet_candles.topic;
    UPDATE candles c SET is_closed = true
    FROM (
        SELECT o.symbol, o.interval, o.open_time FROM candles o
        WHERE NOT o.is_closed AND o.end_time <= from_microseconds(closes_until)
        ORDER BY 1, 2, 3
        FOR NO KEY UPDATE
    ) due
    WHERE (c.symbol, c.interval, c.open_time) = (due.symbol, due.interval, due.open_time);
    GET DIAGNOSTICS closed = ROW_COUNT;
    RETURN closed;
END
$$;
