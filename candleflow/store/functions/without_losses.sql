-- Returns the folded roll-ups, without those that would lose trades: a stored roll-up may have ids that no finest
-- candle within a day has, because a finest candle was lost. A roll-up without a set that has more trades than its
-- shorter candles, and than the new one, may have any ids. If its source isn't Kafka, its ids are the only record of
-- its trades, so fewer ids are never accepted.
CREATE FUNCTION without_losses(folded candles[], finest text, size interval) RETURNS candles[]
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN (
        SELECT coalesce(array_agg(f ORDER BY f.interval, f.open_time), '{}')
        FROM unnest(folded) f LEFT JOIN candles c USING (symbol, interval, open_time)
            CROSS JOIN LATERAL (SELECT held_ids(c) AS ids OFFSET 0) held
        WHERE CASE
            WHEN held.ids IS NULL THEN true
            WHEN c.trade_ids IS NULL AND greatest(id_count(held.ids), f.trade_count) < c.trade_count THEN false
            WHEN held.ids <@ f.trade_ids THEN true
            WHEN c.source <> 'trades' THEN false
            ELSE held.ids - f.trade_ids <@ tiled_ids(f.symbol, finest, size,
                f.open_time - interval '1 day', f.end_time + interval '1 day') END
    );
END
$$;
