-- Closes the candles of the batch's symbols that end by closes_until (microseconds).
CREATE FUNCTION close_ended_candles(batch candles[], closes_until bigint) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    UPDATE candles c SET is_closed = true
    FROM (
        SELECT o.symbol, o.interval, o.open_time
        FROM (SELECT DISTINCT b.symbol FROM unnest(batch) b) touched
            JOIN candles o ON o.symbol = touched.symbol AND NOT o.is_closed
                AND o.end_time <= from_microseconds(closes_until)
        ORDER BY 1, 2, 3
        FOR NO KEY UPDATE OF o
    ) due
    WHERE (c.symbol, c.interval, c.open_time) = (due.symbol, due.interval, due.open_time);
END
$$;
