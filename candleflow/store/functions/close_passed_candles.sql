-- Closes the candles that ended between the symbols' newest open times before the batch (known) and after it (newest).
-- Candles that ended earlier are closed already.
CREATE FUNCTION close_passed_candles(known jsonb, newest jsonb) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    UPDATE candles c SET is_closed = true
    FROM (
        SELECT o.symbol, o.interval, o.open_time
        FROM jsonb_each_text(newest) n
            JOIN candles o ON o.symbol = n.key AND NOT o.is_closed AND o.end_time <= n.value::timestamptz
                AND o.end_time > coalesce((known ->> n.key)::timestamptz, '-infinity')
        ORDER BY 1, 2, 3
        FOR NO KEY UPDATE OF o
    ) due
    WHERE (c.symbol, c.interval, c.open_time) = (due.symbol, due.interval, due.open_time);
END
$$;
