-- Returns the symbol's roll-ups that contain since or overlap [since, until) and differ from the aggregate of their
-- finest candles, the shortest first, up to the length longest_us. stored_ids and folded_ids are null if there is no
-- such row.
-- prices_agree: whether both have the same prices.
CREATE FUNCTION stray_roll_ups(symbol text, since bigint, until bigint, longest_us bigint, windows jsonb)
RETURNS TABLE (name text, open_us bigint, end_us bigint, stored_ids text, folded_ids text,
    prices_agree boolean, state text)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
SET timezone = 'UTC'
SET enable_seqscan = off
SET enable_bitmapscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
SET jit = off
AS $$
DECLARE
    folded constant candles[] := fold_roll_ups(symbol, since, until, longest_us, '[]', windows, NULL);
BEGIN
    RETURN QUERY
    SELECT s.name, to_microseconds(s.opens), to_microseconds(s.opens) + r.size_us, s.stored, s.folded, s.agree, s.state
    FROM (
        SELECT f.interval AS name, f.open_time AS opens, possible_ids(c)::text AS stored,
            f.trade_ids::text AS folded,
            coalesce((c.open, c.high, c.low, c.close) = (f.open, f.high, f.low, f.close), false) AS agree,
            md5(concat(c, f)) AS state
        FROM unnest(folded) f LEFT JOIN candles c USING (symbol, interval, open_time)
        WHERE (c.symbol IS NOT NULL AND c.is_complete = is_proven(c) AND same_amounts(c, f)) IS NOT TRUE
        UNION ALL
        SELECT u.interval, u.open_time, possible_ids(u)::text, NULL, false, md5(u::text)
        FROM unnest(unfolded_roll_ups(stray_roll_ups.symbol, since, until, longest_us, '[]', folded)) u
    ) s JOIN roll_ups() r ON r.name = s.name
    ORDER BY r.size_us, s.opens;
END
$$;
