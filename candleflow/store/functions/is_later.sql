-- Returns whether a trade is later than another one of its symbol. Ids and times normally rise together, so ids decide.
-- Trades that are far apart in ids or time may belong to different sequences of ids, so time decides (FAR_IDS and
-- FAR_US in producer/intake.py).
CREATE FUNCTION is_later(trade_id bigint, trade_time timestamptz, than_id bigint, than_time timestamptz)
RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    IF abs(trade_id - than_id) >= 10000 OR abs(extract(epoch FROM trade_time - than_time)) > 60 THEN
        RETURN (trade_time, trade_id) > (than_time, than_id);
    END IF;
    RETURN trade_id > than_id;
END
$$;
