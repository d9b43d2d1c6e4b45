-- Payload, headers and results come back digit for digit: they are never parsed, only copied.
\getenv here PG_ABS_SRCDIR
\set prepare :here '/sql/prepare.inc'
\i :prepare

CREATE TABLE t.document (n int, what text, doc jsonb);
INSERT INTO t.document VALUES
    (1, 'empty', '{}'),
    (2, 'empty array', '[]'),
    (3, '23 digits', '{"n": 12345678901234567890123, "m": 0.1234567890123456789012345, "z": 1.10, "neg": -0.0}'),
    (4, '1e400', '{"n": 1e400, "small": 1e-400}'),
    (5, 'beyond float and bigint', '{"a": 9223372036854775808, "b": 18446744073709551616, "c": 9007199254740993, "d": 1.7976931348623157e309}'),
    (6, 'trailing zeros', '[1.0, 1.00, 100, 1e2, 0.10]'),
    (7, 'text', '{"quote": "\"", "backslash": "\\", "control": "\u0001\n\t", "unicode": "\u00e9\u4e16\ud83d\ude00", "slash": "</script>", "empty": ""}'),
    (8, 'odd keys', '{"": 1, " ": 2, "a.b": 3, "$type": 4, "kind": 5, "__proto__": 6}'),
    (9, 'all types', '{"null": null, "true": true, "false": false, "array": [null, [], {}], "object": {"a": {}}}'),
    (10, 'nested 127', (repeat('[', 127) || repeat(']', 127))::jsonb),
    (11, 'nested 128', (repeat('[', 128) || repeat(']', 128))::jsonb),
    (12, 'nested 129', (repeat('{"a":', 129) || '1' || repeat('}', 129))::jsonb),
    (13, 'nested 5000', (repeat('[', 5000) || repeat(']', 5000))::jsonb),
    (14, 'objects nested 3000', (repeat('{"a":', 3000) || '1e400' || repeat('}', 3000))::jsonb),
    (15, 'wide', (SELECT jsonb_object_agg('key' || i, i) FROM generate_series(1, 10000) AS i)),
    (16, 'toasted', jsonb_build_object('x', (SELECT string_agg(md5(i::text), '') FROM generate_series(1, 20000) AS i))),
    (17, 'compressed', jsonb_build_object('x', repeat('x', 900000)));

-- In through each form; out through claim and through the view.
SELECT count(jobq.enqueue('one.' || n, doc)) FROM t.document;
SELECT count(*) FROM t.document, jobq.enqueue_many('many.' || n, jsonb_build_array(doc, doc));
SELECT count(*) FROM t.document, jobq.enqueue_jobs(jsonb_build_array(jsonb_build_object('kind', 'jobs.' || n, 'payload', doc)));
SELECT count(jobq.enqueue('header.' || n, headers => doc)) FROM t.document WHERE jsonb_typeof(doc) = 'object' AND length(doc::text) < 50000;
SELECT t.take(batch => 1000) <> 'nothing' AS taken;

SELECT d.what, count(*) AS jobs, bool_and(h.payload::text = d.doc::text) AS claimed, bool_and(j.payload::text = d.doc::text) AS seen
FROM t.document AS d
JOIN t.held AS h ON h.kind IN ('one.' || d.n, 'many.' || d.n, 'jobs.' || d.n)
JOIN jobq.jobs AS j ON j.id = h.id
GROUP BY d.n, d.what ORDER BY d.n;
SELECT d.what, bool_and(h.headers::text = d.doc::text) AS claimed, bool_and(j.headers::text = d.doc::text) AS seen
FROM t.document AS d JOIN t.held AS h ON h.kind = 'header.' || d.n JOIN jobq.jobs AS j ON j.id = h.id
GROUP BY d.n, d.what ORDER BY d.n;

-- Results, one by one and in a list. JSON null is no result in a list.
SELECT count(jobq.complete(h.id, h.lease, d.doc)) FROM t.document AS d JOIN t.held AS h ON h.kind = 'one.' || d.n;
SELECT count(*) FROM (
    SELECT array_agg(h.id ORDER BY d.n) AS ids, array_agg(h.lease ORDER BY d.n) AS leases, jsonb_agg(d.doc ORDER BY d.n) AS results
    FROM t.document AS d JOIN t.held AS h ON h.kind = 'jobs.' || d.n) AS x, jobq.complete_many(x.ids, x.leases, x.results);
SELECT d.what, j.kind, j.state, j.result::text = d.doc::text AS same_result, j.payload::text = d.doc::text AS same_payload
FROM t.document AS d JOIN jobq.jobs AS j ON j.kind IN ('one.' || d.n, 'jobs.' || d.n)
WHERE (j.result::text = d.doc::text AND j.payload::text = d.doc::text) IS NOT TRUE;
SELECT count(*) FROM jobq.jobs WHERE state = 'completed' AND result IS NOT NULL;

-- A result may be any JSON.
SELECT t.outcome(format('jobq.complete(%L, %s, %L)', h.id, h.lease, r.doc))
FROM (SELECT * FROM t.held WHERE kind = 'many.1' LIMIT 1) AS h, (VALUES ('5'), ('"text"'), ('null'), ('[]'), ('true')) AS r (doc);

-- They survive a failure, a rescue, the dead-letter list and a retry.
SELECT DISTINCT jobq.fail(h.id, h.lease, 'once', '0') FROM t.document AS d JOIN t.held AS h ON h.kind = 'header.' || d.n;
SELECT t.take(batch => 1000) <> 'nothing' AS taken;
SELECT DISTINCT jobq.fail(t.id('header.' || d.n), t.lease('header.' || d.n), 'twice', retry => false)
FROM t.document AS d WHERE EXISTS (SELECT 1 FROM t.held AS h WHERE h.kind = 'header.' || d.n);
SELECT jobq.retry_failed();
SELECT count(*), bool_and(j.headers::text = d.doc::text AND j.state = 'pending')
FROM t.document AS d JOIN jobq.jobs AS j ON j.kind = 'header.' || d.n;

-- What Postgres itself cannot read is its own error, and the session lives on.
SELECT jobq.enqueue('k', '{"a":');
SELECT jobq.enqueue('k', '{"a": "\u0000"}');
SELECT jobq.enqueue('k', 'NaN');
SELECT jobq.enqueue('k', '{"n": 1e400000}');
SELECT jobq.enqueue('k', (repeat('[', 20000) || repeat(']', 20000))::jsonb);
SELECT t.seen('k'), t.unsound();
