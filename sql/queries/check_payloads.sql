-- What enqueue_many must know of its payloads: how many, how many are neither object nor array, the size of the largest.
SELECT count(*)::int, (count(*) FILTER (WHERE jsonb_typeof(p.payload) NOT IN ('object', 'array')))::int, max(pg_column_size(p.payload))
FROM jsonb_array_elements($1) AS p (payload)
