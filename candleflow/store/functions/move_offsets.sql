-- Compare-and-set of the offsets, second half: moves them to reached, as next_offsets reads it. A partition that
-- the batch has nothing of is not written; a batch of Kafka's own records alone leaves the last record as it was.
CREATE FUNCTION move_offsets(topic text, reached jsonb) RETURNS void
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
