-- Returns the key of the advisory lock that a topic's processor holds while its session lives.
CREATE FUNCTION topic_lock(topic text) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT hashtextextended('candleflow topic ' || topic, 0) $$;
