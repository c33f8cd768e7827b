-- Second half of the compare-and-set of offsets: moves them to reached (see next_offsets for its format). Partitions
-- without records in the batch are not written. If a batch has only Kafka's control records, the last record stays.
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
