-- Adds a batch to the counts of records by outcome. counts is {"received": n, "duplicate": n, "rejected": {"not JSON":
-- n}}; merged and late are as weigh_batch returns them.
CREATE FUNCTION count_records(topic text, counts jsonb, merged bigint, late bigint) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO record_counts AS r (topic, outcome, records)
    SELECT count_records.topic, o.outcome, sum(o.records)
    FROM (
        VALUES ('received', (counts ->> 'received')::bigint),
               ('duplicate', (counts ->> 'duplicate')::bigint),
               ('merged', merged),
               ('late', late)
        UNION ALL
        SELECT left('rejected: ' || e.key, 200), e.value::bigint
        FROM jsonb_each_text(coalesce(counts -> 'rejected', '{}')) e
    ) o(outcome, records)
    WHERE o.records <> 0
    GROUP BY o.outcome
    ORDER BY o.outcome
    ON CONFLICT ON CONSTRAINT record_counts_pkey DO UPDATE SET records = r.records + excluded.records;
END
$$;
