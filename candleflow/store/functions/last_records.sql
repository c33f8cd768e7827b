-- Returns offset and timestamp of the last merged record of each partition, {"0": [122, 17...]}. The processor compares
-- them with Kafka: a broker that lost unflushed records in a power cut, and then grew past the stored offset, has a
-- different record there, and the new records below that offset would be skipped.
CREATE FUNCTION last_records(topic text) RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
AS $$
    SELECT coalesce(
        jsonb_object_agg(o.partition::text, jsonb_build_array(o.last_offset, o.last_written_at)), '{}')
    FROM topic_offsets o WHERE o.topic = last_records.topic AND o.last_offset IS NOT NULL
$$;
