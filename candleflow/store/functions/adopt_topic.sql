-- Accepts a topic that was deleted and created again: forgets its offsets, so that it is read from its beginning.
-- Candles stay. Trades of the new topic that are already in candles will be found as overlaps and not counted twice.
CREATE FUNCTION adopt_topic(topic text, topic_id text) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, public, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    IF NOT pg_try_advisory_xact_lock(topic_lock(adopt_topic.topic)) THEN
        RAISE EXCEPTION 'a processor is running on the topic %: %; stop it first', adopt_topic.topic,
            (SELECT t.held_by FROM topics t WHERE t.topic = adopt_topic.topic) USING ERRCODE = 'CF001';
    END IF;
    INSERT INTO topics AS t (topic, topic_id) VALUES (adopt_topic.topic, adopt_topic.topic_id)
    ON CONFLICT (topic) DO UPDATE SET topic_id = excluded.topic_id, run_id = NULL, held_by = NULL;
    DELETE FROM topic_offsets o WHERE o.topic = adopt_topic.topic;
END
$$;
