-- Returns the next offset of each partition of a topic: {"0": 123}.
CREATE FUNCTION stored_offsets(topic text) RETURNS jsonb
LANGUAGE sql STABLE AS $$
    SELECT coalesce(jsonb_object_agg(o.partition::text, o.next_offset), '{}')
    FROM topic_offsets o WHERE o.topic = stored_offsets.topic
$$;
