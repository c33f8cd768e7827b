-- Returns the stored roll-ups that contain since or overlap [since, until), up to a length, and have no finest candle
-- left: their keys are not in folded. Leaves out those that overlap a doubtful stretch.
CREATE FUNCTION unfolded_roll_ups(
    symbol text, since bigint, until bigint, longest_us bigint, doubtful jsonb, folded candles[]
) RETURNS candles[]
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN (
        SELECT coalesce(array_agg(c ORDER BY c.interval, c.open_time), '{}')
        FROM roll_ups() r
            JOIN candles c ON c.symbol = unfolded_roll_ups.symbol AND c.interval = r.name
                AND c.open_time >= from_microseconds(since - since % r.size_us)
                AND c.open_time < from_microseconds(greatest(until, since + 1))
        WHERE r.size_us <= longest_us
            AND NOT is_doubtful(to_microseconds(c.open_time), to_microseconds(c.open_time) + r.size_us, doubtful)
            AND (c.interval, c.open_time) NOT IN (SELECT f.interval, f.open_time FROM unnest(folded) f)
    );
END
$$;
