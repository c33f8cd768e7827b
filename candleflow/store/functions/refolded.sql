-- Returns the finest candles of the partial aggregates. Raises 22023 if one is of another symbol, or opens outside
-- [since, until).
CREATE FUNCTION refolded(
    symbol text, since bigint, until bigint, partials partial_candle[], windows jsonb, replaced_at timestamptz
) RETURNS candles[]
LANGUAGE plpgsql STABLE AS $$
DECLARE
    fresh candles[];
    is_sound boolean;
BEGIN
    SELECT array_agg(f ORDER BY f.open_time),
        bool_and(f.symbol = refolded.symbol AND f.open_time >= from_microseconds(since)
            AND f.open_time < from_microseconds(until))
    INTO fresh, is_sound
    FROM unnest(expand_partials(partials, windows, replaced_at)) f
    WHERE f.interval = windows ->> 'interval';
    IF NOT is_sound THEN
        RAISE EXCEPTION 'replacing % candles: some are of another symbol, or outside the time range', symbol
            USING ERRCODE = '22023';
    END IF;
    RETURN coalesce(fresh, '{}');
END
$$;
