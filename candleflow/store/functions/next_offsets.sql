-- Returns the next offsets, {"0": 123}, from what a batch reached: either the same format, or
-- {"0": [123, 122, 1723161255000000]} with offset and timestamp of the last record.
CREATE FUNCTION next_offsets(reached jsonb) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    RETURN (
        SELECT coalesce(jsonb_object_agg(r.key,
            CASE jsonb_typeof(r.value) WHEN 'array' THEN r.value -> 0 ELSE r.value END), '{}')
        FROM jsonb_each(reached) r);
END
$$;
