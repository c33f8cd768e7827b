-- The folded roll-ups without those that lack ids which are in no finest candle within a day either: a finest
-- candle may be lost, and its trades must not be lost to its roll-ups too. A roll-up without a set that has more
-- trades than its shorter candles know, and than its fold has, may have any. Of what did not come by the topic the
-- ids are all there is, so nothing explains that they became fewer.
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
