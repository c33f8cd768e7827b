-- Of what a batch reached: {"0": 123}, or {"0": [123, 122, 1723161255000000]} with the last record's offset and
-- timestamp. The next offsets alone, {"0": 123}.
CREATE FUNCTION next_offsets(reached jsonb) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    RETURN (
        SELECT coalesce(jsonb_object_agg(r.key,
            CASE jsonb_typeof(r.value) WHEN 'array' THEN r.value -> 0 ELSE r.value END), '{}')
        FROM jsonb_each(reached) r);
END
$$;
