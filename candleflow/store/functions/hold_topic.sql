-- Locks the candles and the topic's row until the transaction ends. Batches therefore run one after another, even those
-- of two topics: every overlap is seen, and no deadlock is possible. Raises CF003 if run_id is not the run that claimed
-- the topic last.
CREATE FUNCTION hold_topic(run_id uuid, topic text) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    holder topics;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('candleflow candles', 0));
    SELECT t.* INTO holder FROM topics t WHERE t.topic = hold_topic.topic FOR NO KEY UPDATE;
    IF holder.run_id IS DISTINCT FROM hold_topic.run_id OR hold_topic.run_id IS NULL THEN
        RAISE EXCEPTION 'this processor no longer holds the topic %: % does', topic,
            coalesce(holder.held_by || ', since ' || date_trunc('second', holder.claimed_at), 'none')
            USING ERRCODE = 'CF003';
    END IF;
END
$$;
