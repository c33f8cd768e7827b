-- Whether a trade is later than another of its symbol. Within a sequence of ids, ids and times rise together;
-- two trades that are far apart, in ids or in time, may be of different sequences, and go by time (FAR_IDS and
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
