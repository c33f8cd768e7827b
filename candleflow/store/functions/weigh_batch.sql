-- Compares a batch with the stored candles, in one lookup each. Returns
-- overlap: ids of the batch that are in candles already, by symbol: {"BTCUSDT": "{[5,9)}"}, or NULL, the normal case;
-- merged: number of its trades; late: number of them that came after their finest candle had closed;
-- unsettled: for each candle of the batch, whether its completeness can change. It can't if the batch only appends the
-- ids that follow its last one, which is so for nearly all candles;
-- keeps_ids: for each candle, whether to store its set of ids. A roll-up longer than the minutes in the batch stores
-- none, unless the stored row has one: that may have trades of a time with other finest windows, which no minute has.
CREATE FUNCTION weigh_batch(
    batch candles[], finest text, known jsonb, OUT overlap jsonb, OUT merged bigint, OUT late bigint,
    OUT unsettled boolean[], OUT keeps_ids boolean[]
) LANGUAGE plpgsql STABLE AS $$
DECLARE
    has_minutes constant boolean := EXISTS (SELECT FROM unnest(batch) b WHERE b.interval = '1m');
BEGIN
    WITH met AS MATERIALIZED (
        SELECT b.ordinality, b.symbol, b.trade_count, b.trade_ids,
            CASE WHEN has_minutes THEN c.trade_ids ELSE held_ids(c) END AS stored_ids,
            NOT has_minutes OR b.interval NOT IN ('5m', '15m', '1h', '1d') OR c.trade_ids IS NOT NULL AS keeps_ids,
            -- Of sliding windows, only those that don't overlap: every trade once.
            b.interval = finest AND date_bin(b.end_time - b.open_time, b.open_time,
                timestamptz '1970-01-01 00:00:00+00') = b.open_time AS is_counted,
            c.is_closed OR b.end_time <= (known ->> b.symbol)::timestamptz AS is_late,
            (b.first_trade_id = c.last_trade_id + 1
                AND b.trade_count = b.last_trade_id - b.first_trade_id + 1) IS TRUE AS only_continues
        FROM unnest(batch) WITH ORDINALITY b
            LEFT JOIN candles c USING (symbol, interval, open_time)
    ), shared AS (
        SELECT m.symbol, range_agg(m.stored_ids * m.trade_ids) AS ids
        FROM met m WHERE m.stored_ids && m.trade_ids
        GROUP BY m.symbol
    )
    SELECT (SELECT jsonb_object_agg(shared.symbol, shared.ids::text) FROM shared),
        coalesce(sum(m.trade_count) FILTER (WHERE m.is_counted), 0),
        coalesce(sum(m.trade_count) FILTER (WHERE m.is_counted AND m.is_late), 0),
        array_agg(NOT m.only_continues ORDER BY m.ordinality),
        array_agg(m.keeps_ids ORDER BY m.ordinality)
    INTO overlap, merged, late, unsettled, keeps_ids
    FROM met m;
END
$$;
