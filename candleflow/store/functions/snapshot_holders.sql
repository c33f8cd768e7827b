-- Returns what keeps VACUUM from removing replaced row versions: sessions with a snapshot, prepared transactions and
-- replication slots, as [{"holder", "xmin", "remedy"}, ...]. The caller measures how long: PostgreSQL shows the start
-- of a transaction only to pg_read_all_stats, but the rest to everybody.
CREATE FUNCTION snapshot_holders() RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
AS $$
    SELECT coalesce(jsonb_agg(
        jsonb_build_object('holder', h.holder, 'xmin', h.xmin::text, 'remedy', h.remedy)), '[]')
    FROM (
        SELECT format('session %s of %s (%s)', a.pid, coalesce(a.usename, 'a replica'),
                coalesce(nullif(a.application_name, ''), 'no application_name')) AS holder,
            coalesce(a.backend_xmin, a.backend_xid) AS xmin,
            format('SELECT pg_terminate_backend(%s)', a.pid) AS remedy
        FROM pg_stat_activity a
        WHERE num_nonnulls(a.backend_xmin, a.backend_xid) > 0 AND a.pid <> pg_backend_pid()
            AND (a.datid IS NULL OR a.datname = current_database())
            AND a.pid NOT IN (SELECT v.pid FROM pg_stat_progress_vacuum v)
        UNION ALL
        SELECT format('prepared transaction %s of %s', p.gid, p.owner), p.transaction,
            format('ROLLBACK PREPARED %L', p.gid)
        FROM pg_prepared_xacts p WHERE p.database = current_database()
        UNION ALL
        SELECT format('replication slot %s', s.slot_name), s.xmin,
            format('SELECT pg_drop_replication_slot(%L)', s.slot_name)
        FROM pg_replication_slots s WHERE s.xmin IS NOT NULL
    ) h
$$;
