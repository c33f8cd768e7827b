-- What each of the symbol's finest candles that open in [since, until) (microseconds) says of its own trades,
-- oldest first; is_judged: its is_complete is what the ids say; state differs where anything of it does.
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
