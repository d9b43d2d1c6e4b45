-- enqueue, claim, heartbeat and complete write rows without statements, as long as the tables are ordinary ones. Whatever an
-- administrator adds to them (an index of any sort, a column, a trigger) is served as a statement would serve it.
\getenv here PG_ABS_SRCDIR
\set prepare :here '/sql/prepare.inc'
\i :prepare

-- A job's life, seen through every index: the rows that each finds must be those of the table.
CREATE FUNCTION t.life(name text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    first uuid := jobq.enqueue(name, '{"n": 1}');
    second uuid := jobq.enqueue(name, '{"n": 2}', unique_key => name, options => '{"unique_while": "pending"}');
    result text;
BEGIN
    PERFORM jobq.enqueue(name, delay => '1 hour');
    result := t.take(batch => 10, kinds => ARRAY[name]);
    PERFORM jobq.heartbeat(first, t.lease_of(first), progress => 50, note => 'half');
    result := result || '; ' || (SELECT state || ' ' || note FROM jobq.job(first));
    result := result || '; ' || jobq.complete(first, t.lease_of(first), '{"r": 1}');
    result := result || '; key free again ' || (jobq.enqueue(name, unique_key => name) <> second)::text;
    RETURN result || '; unsound ' || t.unsound();
END
$$;
CREATE FUNCTION t.lease_of(job uuid) RETURNS bigint LANGUAGE sql AS 'SELECT lease FROM t.held WHERE id = $1 ORDER BY n DESC LIMIT 1';
-- What scans of the indexes find, compared with the rows themselves.
CREATE FUNCTION t.indexes() RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    rows bigint[];
BEGIN
    SET LOCAL enable_indexscan = off; SET LOCAL enable_bitmapscan = off; SET LOCAL enable_indexonlyscan = off; SET LOCAL enable_seqscan = on;
    rows := ARRAY[(SELECT count(*) FROM jobq._job WHERE queue_id = 0), (SELECT count(*) FROM jobq._job WHERE unique_key IS NOT NULL),
        (SELECT count(*) FROM jobq._job WHERE scheduled AND queue_id = 0), (SELECT count(*) FROM jobq._history WHERE id >= '00000000-0000-0000-0000-000000000000')];
    SET LOCAL enable_indexscan = on; SET LOCAL enable_bitmapscan = on; SET LOCAL enable_indexonlyscan = on; SET LOCAL enable_seqscan = off;
    RETURN CASE WHEN rows = ARRAY[(SELECT count(*) FROM jobq._job WHERE queue_id = 0), (SELECT count(*) FROM jobq._job WHERE unique_key IS NOT NULL AND queue_id = 0),
        (SELECT count(*) FROM jobq._job WHERE scheduled AND queue_id = 0), (SELECT count(*) FROM jobq._history WHERE id >= '00000000-0000-0000-0000-000000000000')]
        THEN 'whole' ELSE 'torn' END;
END
$$;
SELECT t.life('plain'), t.indexes();

-- Indexes: one more of the same sort is kept up; others, and those on expressions, by statements.
CREATE INDEX extra ON jobq._job (kind);
SELECT t.life('btree'), t.indexes();
SET enable_seqscan = off;
SELECT count(*) FROM jobq._job WHERE kind = 'btree';
CREATE INDEX extra_states ON jobq._job (state) WHERE cancel_requested;
SELECT t.life('partial'), t.indexes();
CREATE INDEX extra_upper ON jobq._job (upper(kind));
SELECT t.life('expression'), t.indexes();
SELECT count(*) FROM jobq._job WHERE upper(kind) = 'EXPRESSION';
DROP INDEX jobq.extra_upper, jobq.extra_states;
CREATE INDEX extra_hash ON jobq._job USING hash (kind);
CREATE INDEX extra_brin ON jobq._job USING brin (enqueued_at);
SELECT t.life('others'), t.indexes();
SELECT count(*) FROM jobq._job WHERE kind = 'others';
DROP INDEX jobq.extra, jobq.extra_hash, jobq.extra_brin;
CREATE INDEX extra_changing ON jobq._job (attempt, worker);
SELECT t.life('not_hot'), t.indexes();
SELECT count(*) FROM jobq._job WHERE attempt = 1 AND worker <> '';
DROP INDEX jobq.extra_changing;
RESET enable_seqscan;
REINDEX TABLE jobq._job;
SELECT t.life('reindexed'), t.indexes();
REINDEX TABLE CONCURRENTLY jobq._job;
SELECT t.life('concurrently'), t.indexes();

-- A trigger fires.
CREATE TABLE t.fired (what text);
CREATE FUNCTION t.fire() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO t.fired VALUES (TG_OP); RETURN NULL; END $$;
CREATE TRIGGER fire AFTER INSERT OR UPDATE OR DELETE ON jobq._job FOR EACH ROW EXECUTE FUNCTION t.fire();
SELECT t.life('fired'), t.indexes();
SELECT what, count(*) FROM t.fired GROUP BY what ORDER BY what;
DROP TRIGGER fire ON jobq._job;
CREATE TRIGGER fire AFTER INSERT ON jobq._history FOR EACH ROW EXECUTE FUNCTION t.fire();
TRUNCATE t.fired;
SELECT t.life('history'), t.indexes();
SELECT what, count(*) FROM t.fired GROUP BY what ORDER BY what;
DROP TRIGGER fire ON jobq._history;

-- A column more, with a default, and its dropping.
ALTER TABLE jobq._job ADD COLUMN remark text NOT NULL DEFAULT 'none';
SELECT t.life('column'), t.indexes();
SELECT DISTINCT remark FROM jobq._job;
ALTER TABLE jobq._job DROP COLUMN remark;
SELECT t.life('dropped'), t.indexes();

-- A rule of an administrator's own, and what he must not do: a column of another type, a ready index in another order. The answer is
-- that of a statement.
ALTER TABLE jobq._job ADD CONSTRAINT small CHECK (payload <> '{"n": 13}') NOT VALID;
SELECT jobq.enqueue('thirteen', '{"n": 13}');
SELECT count(*) FROM jobq.enqueue_many('thirteen', '[{"n": 12}, {"n": 13}]');
ALTER TABLE jobq._job DROP CONSTRAINT small;
BEGIN;
DELETE FROM jobq._job;
SELECT jobq.enqueue(k, priority => p) IS NOT NULL AS enqueued FROM (VALUES ('second', 2), ('third', 3), ('first', 1)) AS v (k, p);
DROP INDEX jobq._job_ready;
CREATE INDEX _job_ready ON jobq._job (queue_id, priority DESC, run_at, id);
SELECT t.take();
DROP INDEX jobq._job_ready;
CREATE INDEX _job_ready ON jobq._job (payload);
SELECT t.take();
DROP INDEX jobq._job_ready;
CREATE INDEX _job_ready ON jobq._job (queue_id, priority, run_at, id) WHERE scheduled;
SELECT t.take();
ROLLBACK;
BEGIN;
ALTER TABLE jobq._job DROP CONSTRAINT _job_state;
ALTER TABLE jobq._job ALTER lease_ms TYPE numeric;
SELECT jobq.enqueue('number', priority => 1) IS NOT NULL AS enqueued;
SELECT count(*) FROM jobq._job WHERE kind = 'number' AND lease_ms IS NULL;
ROLLBACK;
SELECT t.life('restored'), t.indexes();

-- Another order of things in one session: the extension goes and comes back.
DROP EXTENSION jobq CASCADE;
SELECT jobq.enqueue('gone');
SET client_min_messages = error;
CREATE EXTENSION jobq;
RESET client_min_messages;
SELECT jobq.enqueue('back') IS NOT NULL AS enqueued;
SELECT kind FROM jobq.claim();
