-- Returns how far the topic is merged, {"topic_id": ..., "offsets": {"0": 123}}; null if it was never read.
CREATE FUNCTION merged_offsets(topic text) RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
AS $$
    SELECT jsonb_build_object('topic_id', t.topic_id, 'offsets', stored_offsets(t.topic))
    FROM topics t WHERE t.topic = merged_offsets.topic
$$;
