-- Returns the trade ids of each finest candle of the symbol that opens in [since, until) (microseconds), oldest first.
-- is_judged: whether is_complete agrees with the ids. state: a hash that changes when anything in the row changes.
CREATE FUNCTION finest_books(symbol text, since bigint, until bigint, windows jsonb)
RETURNS TABLE (open_us bigint, end_us bigint, trades bigint, first_id bigint, last_id bigint, ids text,
    is_judged boolean, state text)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
SET timezone = 'UTC'
AS $$
BEGIN
    RETURN QUERY
    SELECT to_microseconds(c.open_time), to_microseconds(c.end_time), c.trade_count, c.first_trade_id,
        c.last_trade_id, held_ids(c)::text, c.is_complete = is_proven(c), md5(c::text)
    FROM candles c
    WHERE c.symbol = finest_books.symbol AND c.interval = windows ->> 'interval'
        AND c.open_time >= from_microseconds(since) AND c.open_time < from_microseconds(until)
    ORDER BY c.open_time;
END
$$;
