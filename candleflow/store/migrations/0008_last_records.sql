-- The last record of each partition that is in the candles: what a topic's log is known again by.
--
-- Run once, by the owner, in a transaction of store/schema.py. A broker that lost its unflushed end, by a power
-- cut, and grew again past the stored offset would otherwise be read on from there: what it wrote anew below
-- that offset would be left out, and nothing would tell. The processor compares the record with the topic's.

ALTER TABLE topic_offsets ADD COLUMN last_offset bigint, ADD COLUMN last_written_at bigint;

COMMENT ON COLUMN topic_offsets.last_offset IS
    'the offset of the last record before next_offset that is not Kafka''s own; NULL where none is known';
COMMENT ON COLUMN topic_offsets.last_written_at IS
    'that record''s timestamp in Kafka, in microseconds since the epoch';

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

-- Compare-and-set of the offsets, first half; as before, but for the last records in reached.
CREATE OR REPLACE FUNCTION is_next_batch(topic text, expected jsonb, reached jsonb) RETURNS boolean
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
    RAISE EXCEPTION 'the offsets of the topic % stand at %, neither at % nor at %: another processor has merged since',
        topic, stored, expected, next USING ERRCODE = 'CF003';
END
$$;

-- Second half. A partition that the batch has nothing of is not written; a batch of Kafka's own records alone
-- leaves the last record as it was.
CREATE OR REPLACE FUNCTION move_offsets(topic text, reached jsonb) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO topic_offsets AS o (topic, partition, next_offset, last_offset, last_written_at)
    SELECT move_offsets.topic, n.key::integer, n.value::bigint,
        (reached -> n.key ->> 1)::bigint, (reached -> n.key ->> 2)::bigint
    FROM jsonb_each_text(next_offsets(reached)) n ORDER BY 2
    ON CONFLICT ON CONSTRAINT topic_offsets_pkey DO UPDATE SET next_offset = excluded.next_offset,
        last_offset = coalesce(excluded.last_offset, o.last_offset),
        last_written_at = coalesce(excluded.last_written_at, o.last_written_at)
    WHERE o.next_offset <> excluded.next_offset;
END
$$;

-- For the processor: the last record of each partition as its offset and its timestamp, {"0": [122, 17...]}.
CREATE FUNCTION last_records(topic text) RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
AS $$
    SELECT coalesce(
        jsonb_object_agg(o.partition::text, jsonb_build_array(o.last_offset, o.last_written_at)), '{}')
    FROM topic_offsets o WHERE o.topic = last_records.topic AND o.last_offset IS NOT NULL
$$;
