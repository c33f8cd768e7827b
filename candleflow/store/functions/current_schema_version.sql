-- Returns what schema.py has applied, {"tables": 11, "functions": {"merge_batch": "<checksum>"}}, for processes that
-- can't log in as the owner.
CREATE FUNCTION current_schema_version() RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
AS $$
    SELECT jsonb_build_object(
        'tables', (SELECT max(v.version) FROM schema_version v),
        'functions', (SELECT jsonb_object_agg(f.name, f.checksum) FROM schema_functions f))
$$;
