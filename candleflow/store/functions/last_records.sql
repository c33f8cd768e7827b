-- The last record of each partition that is in the candles, as its offset and its timestamp: {"0": [122, 17...]}.
-- A broker that lost its unflushed end by a power cut, and grew again past the stored offset, has another record
-- there: the processor compares, or what was written anew below that offset would be left out.
CREATE FUNCTION last_records(topic text) RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
AS $$
    SELECT coalesce(
        jsonb_object_agg(o.partition::text, jsonb_build_array(o.last_offset, o.last_written_at)), '{}')
    FROM topic_offsets o WHERE o.topic = last_records.topic AND o.last_offset IS NOT NULL
$$;
