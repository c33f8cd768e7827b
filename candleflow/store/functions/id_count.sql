-- Returns the number of ids in a set.
CREATE FUNCTION id_count(ids int8multirange) RETURNS numeric
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN range_merge(ids)::int8multirange = ids THEN (upper(ids) - lower(ids))::numeric
        ELSE (SELECT coalesce(sum(upper(r) - lower(r)), 0) FROM unnest(ids) r) END
$$;
