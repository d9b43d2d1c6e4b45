-- The elements of enqueue_jobs' array, one row each in order, with the first field that is not an argument of enqueue and the first
-- one of the wrong JSON type. Texts that are no time or interval raise the cast's own error, as they do as arguments of enqueue.
SELECT jsonb_typeof(j.spec) = 'object',
       (SELECT k.field FROM jsonb_object_keys(CASE jsonb_typeof(j.spec) WHEN 'object' THEN j.spec ELSE '{}' END) AS k (field)
        WHERE k.field <> ALL (ARRAY['kind', 'payload', 'queue', 'priority', 'run_at', 'delay', 'max_attempts', 'timeout',
                                    'unique_key', 'headers', 'options'])
        LIMIT 1),
       (SELECT t.field || ' must be ' || t.words
        FROM (VALUES ('kind', '{string}'::text[], 'a string'), ('queue', '{string}', 'a string'), ('unique_key', '{string}', 'a string'),
                     ('run_at', '{string}', 'a string'), ('delay', '{string,number}', 'a string or a number of seconds'),
                     ('timeout', '{string,number}', 'a string or a number of seconds'), ('headers', '{object}', 'an object'),
                     ('options', '{object}', 'an object'), ('priority', '{number}', 'an integer'),
                     ('max_attempts', '{number}', 'an integer')) AS t (field, types, words)
        WHERE jsonb_typeof(j.spec -> t.field) <> ALL (t.types || 'null'::text)
           OR t.words = 'an integer' AND jsonb_typeof(j.spec -> t.field) = 'number'
              AND (j.spec ->> t.field)::numeric <> greatest(-2147483648, least(2147483647, trunc((j.spec ->> t.field)::numeric)))
        LIMIT 1),
       j.spec ->> 'kind',
       coalesce(j.spec -> 'payload', '{}'),
       j.spec ->> 'queue',
       CASE WHEN jsonb_typeof(j.spec -> 'priority') = 'number' THEN greatest(-2147483648, least(2147483647, (j.spec ->> 'priority')::numeric))::int END,
       (CASE jsonb_typeof(j.spec -> 'run_at') WHEN 'string' THEN j.spec ->> 'run_at' END)::timestamptz,
       (CASE WHEN jsonb_typeof(j.spec -> 'delay') IN ('string', 'number') THEN j.spec ->> 'delay' END)::interval,
       CASE WHEN jsonb_typeof(j.spec -> 'max_attempts') = 'number' THEN greatest(-2147483648, least(2147483647, (j.spec ->> 'max_attempts')::numeric))::int END,
       (CASE WHEN jsonb_typeof(j.spec -> 'timeout') IN ('string', 'number') THEN j.spec ->> 'timeout' END)::interval,
       j.spec ->> 'unique_key',
       nullif(j.spec -> 'headers', 'null'),
       nullif(j.spec -> 'options', 'null')
FROM jsonb_array_elements($1) WITH ORDINALITY AS j (spec, place)
ORDER BY j.place
