-- The elements of enqueue_jobs' array, one row each in order, with the first field that is not an argument of enqueue.
-- Fields of the wrong type raise the cast's own error (22P02, 22007, ...).
SELECT jsonb_typeof(j.spec) = 'object',
       (SELECT k.field FROM jsonb_object_keys(CASE jsonb_typeof(j.spec) WHEN 'object' THEN j.spec ELSE '{}' END) AS k (field)
        WHERE k.field <> ALL (ARRAY['kind', 'payload', 'queue', 'priority', 'run_at', 'delay', 'max_attempts', 'timeout',
                                    'unique_key', 'headers', 'options'])
        LIMIT 1),
       j.spec ->> 'kind',
       coalesce(j.spec -> 'payload', '{}'),
       j.spec ->> 'queue',
       (j.spec ->> 'priority')::int,
       (j.spec ->> 'run_at')::timestamptz,
       (j.spec ->> 'delay')::interval,
       (j.spec ->> 'max_attempts')::int,
       (j.spec ->> 'timeout')::interval,
       j.spec ->> 'unique_key',
       nullif(j.spec -> 'headers', 'null'),
       nullif(j.spec -> 'options', 'null')
FROM jsonb_array_elements($1) WITH ORDINALITY AS j (spec, place)
ORDER BY j.place
