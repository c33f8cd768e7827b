-- Takes the lease on a topic for as long as the caller's session lives. Returns {"run_id": ..., "offsets": {"0": 123}}.
-- Raises CF001 if another processor holds it, CF002 if the topic was deleted and created again.
CREATE FUNCTION claim_topic(topic text, topic_id text, held_by text) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
SET timezone = 'UTC'
AS $$
#variable_conflict use_column
DECLARE
    is_held_elsewhere constant boolean := NOT pg_try_advisory_lock(topic_lock(claim_topic.topic));
    new_run_id constant uuid := gen_random_uuid();
    known topics;
BEGIN
    SELECT t.* INTO known FROM topics t WHERE t.topic = claim_topic.topic;
    IF is_held_elsewhere THEN
        RAISE EXCEPTION 'the topic % is held by another processor: %; stop it first', claim_topic.topic,
            coalesce(known.held_by || ', since ' || date_trunc('second', known.claimed_at), 'one just starting')
            USING ERRCODE = 'CF001';
    END IF;
    -- A session's advisory lock outlives a failed transaction, so release it before raising.
    IF known.topic_id <> claim_topic.topic_id AND stored_offsets(claim_topic.topic) <> '{}' THEN
        PERFORM pg_advisory_unlock(topic_lock(claim_topic.topic));
        RAISE EXCEPTION
            'the topic % was recreated: its id is %, the stored offsets belong to %; to accept it: python -m candleflow adopt-topic',
            claim_topic.topic, claim_topic.topic_id, known.topic_id USING ERRCODE = 'CF002';
    END IF;
    INSERT INTO topics AS t (topic, topic_id, run_id, held_by, claimed_at)
    VALUES (claim_topic.topic, claim_topic.topic_id, new_run_id, left(claim_topic.held_by, 200), clock_timestamp())
    ON CONFLICT (topic) DO UPDATE SET topic_id = excluded.topic_id, run_id = excluded.run_id,
        held_by = excluded.held_by, claimed_at = excluded.claimed_at;
    -- Read the offsets while holding the row's lock: the previous run may just have committed its last batch.
    RETURN jsonb_build_object('run_id', new_run_id, 'offsets', stored_offsets(claim_topic.topic));
END
$$;
