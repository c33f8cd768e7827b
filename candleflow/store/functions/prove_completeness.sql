-- Updates is_complete of the batch's unsettled candles and of the candles that follow the batch's. The next candle is
-- looked up only if it is not in the batch. A candle's predecessor is the latest one that ended by its open time. Of
-- sliding windows, one candle can be the predecessor of several: of all that open within a window's length.
CREATE FUNCTION prove_completeness(batch candles[], unsettled boolean[], newest jsonb) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    WITH passed AS MATERIALIZED (  -- only these can have a candle after them
        SELECT b.symbol, b.interval, b.open_time, b.end_time,
            ((lead(b.symbol) OVER w, lead(b.interval) OVER w, lead(b.open_time) OVER w)
                = (b.symbol, b.interval, b.end_time)) IS TRUE AS is_followed
        FROM unnest(batch) WITH ORDINALITY b
        WHERE (newest ->> b.symbol)::timestamptz >= b.end_time
        WINDOW w AS (ORDER BY b.ordinality)
    ), next AS MATERIALIZED (  -- MATERIALIZED, or the planner joins every candle of the symbol to each row
        SELECT p.symbol, p.interval, p.end_time - p.open_time AS size, n.open_time
        FROM passed p CROSS JOIN LATERAL (
            SELECT c.open_time FROM candles c
            WHERE c.symbol = p.symbol AND c.interval = p.interval AND c.open_time >= p.end_time
            ORDER BY c.open_time LIMIT 1
        ) n
        WHERE NOT p.is_followed
    ), affected AS (
        SELECT u.symbol, u.interval, u.open_time
        FROM unnest(batch) WITH ORDINALITY u WHERE unsettled[u.ordinality]
        UNION
        SELECT p.symbol, p.interval, p.end_time FROM passed p WHERE p.is_followed
        UNION
        SELECT c.symbol, c.interval, c.open_time
        FROM next n JOIN candles c ON c.symbol = n.symbol AND c.interval = n.interval
            AND c.open_time >= n.open_time AND c.open_time < n.open_time + n.size
    ), judged AS MATERIALIZED (
        SELECT c.symbol, c.interval, c.open_time, c.is_complete,
            c.trade_count = c.last_trade_id - c.first_trade_id + 1
                AND coalesce(c.first_trade_id = before.last_trade_id + 1, false) AS is_proven
        FROM affected
            JOIN candles c USING (symbol, interval, open_time)
            LEFT JOIN LATERAL (
                SELECT p.last_trade_id FROM candles p
                WHERE p.symbol = c.symbol AND p.interval = c.interval
                    AND p.open_time <= c.open_time - (c.end_time - c.open_time)
                ORDER BY p.open_time DESC LIMIT 1
            ) before ON true
    )
    UPDATE candles c SET is_complete = j.is_proven
    FROM judged j
    WHERE j.is_complete <> j.is_proven
        AND (c.symbol, c.interval, c.open_time) = (j.symbol, j.interval, j.open_time);
END
$$;
