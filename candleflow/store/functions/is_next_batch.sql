-- First half of the compare-and-set of offsets. True: the stored offsets equal expected, so the batch must be merged.
-- False: they equal reached, so it is merged already. Raises CF003 for anything else. A partition without a stored
-- offset may start anywhere.
CREATE FUNCTION is_next_batch(topic text, expected jsonb, reached jsonb) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    stored constant jsonb := stored_offsets(topic);
    next constant jsonb := next_offsets(reached);
BEGIN
    IF EXISTS (SELECT FROM jsonb_each_text(next) r
               WHERE r.value::bigint < coalesce((expected ->> r.key)::bigint, 0)) THEN
        RAISE EXCEPTION 'the batch ends at % before it begins at %', next, expected USING ERRCODE = '22023';
    END IF;
    IF stored <@ expected THEN
        RETURN true;
    ELSIF stored = next THEN
        RETURN false;
    END IF;
    RAISE EXCEPTION 'the stored offsets of the topic % are %, not % or %: another processor has merged since',
        topic, stored, expected, next USING ERRCODE = 'CF003';
END
$$;
