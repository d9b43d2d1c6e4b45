-- The state machine: what every verb does to a job in every state, and what the tables refuse even from their owner.
\getenv here PG_ABS_SRCDIR
\set prepare :here '/sql/prepare.inc'
\i :prepare

-- One job in each state (those that ran end with a lease of w1); each verb on each, undone afterwards: the state after, or the SQLSTATE.
SELECT count(jobq.enqueue(kind)) FROM unnest('{pending,retrying,released,rescued,running,stopping,expired,completed,failed,cancelled,cancelled_running,cancelled_retrying,poison}'::text[]) AS kind;
SELECT t.take(kinds => '{retrying,released,rescued,running,stopping,expired,completed,failed,cancelled_running,cancelled_retrying,poison}', batch => 11, worker => 'w1') <> 'nothing' AS taken;
SELECT jobq.fail(t.id('retrying'), t.lease('retrying'), 'e', '0'), jobq.release(t.id('released'), t.lease('released')), t.lose('rescued'), jobq.cancel(t.id('stopping')), jobq.complete(t.id('completed'), t.lease('completed')),
       jobq.fail(t.id('failed'), t.lease('failed'), 'e', retry => false), jobq.cancel(t.id('cancelled')), jobq.cancel(t.id('cancelled_running')), jobq.release(t.id('cancelled_running'), t.lease('cancelled_running')),
       jobq.fail(t.id('cancelled_retrying'), t.lease('cancelled_retrying'), 'e', '0'), jobq.cancel(t.id('cancelled_retrying'));
UPDATE jobq._job SET crashes = 2 WHERE kind = 'poison';
SELECT t.lose('poison');
CREATE FUNCTION t.after(call text, kind text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    job uuid := t.id(kind);
    result text;
BEGIN
    BEGIN
        IF kind = 'expired' THEN
            UPDATE jobq._job AS j SET lease_expires_at = clock_timestamp() - interval '1 second', lease_ms = 1 WHERE j.kind = after.kind;
        END IF;
        EXECUTE 'SELECT count(*) FROM jobq.' || replace(replace(call, 'ID', quote_literal(job)), 'LEASE', coalesce(t.lease(kind), 0)::text);
        result := coalesce((SELECT j.state || CASE WHEN j.cancel_requested THEN '!' ELSE '' END FROM jobq.job(job) AS j), 'gone');
        IF t.unsound() > 0 THEN result := result || ' unsound'; END IF;
        RAISE EXCEPTION USING ERRCODE = 'T0000', MESSAGE = result;
    EXCEPTION WHEN SQLSTATE 'T0000' THEN
        RETURN SQLERRM;
    WHEN OTHERS THEN
        RETURN SQLSTATE;
    END;
END
$$;
CREATE TABLE t.verb (n int, verb text, call text);
INSERT INTO t.verb VALUES
    (1, 'complete', 'complete(ID, LEASE)'),
    (2, 'complete_many', 'complete_many(ARRAY[ID]::uuid[], ARRAY[LEASE]::bigint[])'),
    (3, 'complete_many skip', 'complete_many(ARRAY[ID]::uuid[], ARRAY[LEASE]::bigint[], on_stale => ''skip'')'),
    (4, 'fail', 'fail(ID, LEASE)'),
    (5, 'fail no retry', 'fail(ID, LEASE, retry => false)'),
    (6, 'release', 'release(ID, LEASE)'),
    (7, 'heartbeat', 'heartbeat(ID, LEASE)'),
    (8, 'heartbeat_many', 'heartbeat_many(ARRAY[ID]::uuid[], ARRAY[LEASE]::bigint[])'),
    (9, 'cancel', 'cancel(ID)'),
    (10, 'reschedule', 'reschedule(ID)'),
    (11, 'retry', 'retry(ID)'),
    (12, 'delete', 'delete(ID)'),
    (13, 'claim', 'claim(batch => 100)'),
    (14, 'rescue_zombies', 'rescue_zombies()'),
    (15, 'retry_failed', 'retry_failed()'),
    (16, 'purge completed', 'purge(''default'', ''completed'', ''0'')'),
    (17, 'purge failed', 'purge(''default'', ''failed'', ''0'')'),
    (18, 'purge cancelled', 'purge(''default'', ''cancelled'', ''0'')');
SELECT verb, t.after(call, 'pending') AS pending, t.after(call, 'retrying') AS retrying, t.after(call, 'released') AS released, t.after(call, 'rescued') AS rescued,
       t.after(call, 'running') AS running, t.after(call, 'stopping') AS stopping, t.after(call, 'expired') AS expired
FROM t.verb ORDER BY n;
SELECT verb, t.after(call, 'completed') AS completed, t.after(call, 'failed') AS failed, t.after(call, 'poison') AS poison, t.after(call, 'cancelled') AS cancelled,
       t.after(call, 'cancelled_running') AS cancelled_running, t.after(call, 'cancelled_retrying') AS cancelled_retrying
FROM t.verb ORDER BY n;
SELECT kind, t.seen(kind) FROM jobq.jobs ORDER BY id;

-- The CHECK constraints restate it: not even the owner writes a row that is in no state, or in two.
CREATE FUNCTION t.refused(change text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    BEGIN
        EXECUTE change;
        RAISE EXCEPTION USING ERRCODE = 'T0000';
    EXCEPTION WHEN OTHERS THEN
        RETURN CASE SQLSTATE WHEN 'T0000' THEN 'accepted' ELSE SQLSTATE END;
    END;
END
$$;
SELECT change, t.refused(change) FROM (VALUES
    (1, $$UPDATE jobq._job SET state = 'c'$$),
    (2, $$UPDATE jobq._job SET state = 'f'$$),
    (3, $$UPDATE jobq._job SET state = 'x'$$),
    (4, $$UPDATE jobq._job SET state = ''$$),
    (5, $$UPDATE jobq._job SET state = NULL$$),
    (6, $$UPDATE jobq._job SET state = 'r' WHERE state = 'p'$$),
    (7, $$UPDATE jobq._job SET state = 'p' WHERE state = 'r'$$),
    (8, $$UPDATE jobq._job SET worker = '' WHERE state = 'r'$$),
    (9, $$UPDATE jobq._job SET worker = 'w' WHERE state = 'p'$$),
    (10, $$UPDATE jobq._job SET lease_expires_at = now() WHERE state = 'p'$$),
    (11, $$UPDATE jobq._job SET claimed_at = now(), seen_at = now() WHERE state = 'p'$$),
    (12, $$UPDATE jobq._job SET cancel_requested = true WHERE state = 'p'$$),
    (13, $$UPDATE jobq._job SET bound = true WHERE state = 'p'$$),
    (14, $$UPDATE jobq._job SET note = 'n' WHERE state = 'p'$$),
    (15, $$UPDATE jobq._job SET lease = 0 WHERE state = 'r'$$),
    (16, $$UPDATE jobq._job SET lease_ms = 0 WHERE state = 'r'$$),
    (17, $$UPDATE jobq._job SET lease_expires_at = '-infinity' WHERE state = 'r'$$),
    (18, $$UPDATE jobq._job SET seen_at = claimed_at - interval '1 second' WHERE state = 'r'$$),
    (19, $$UPDATE jobq._job SET attempt = max_attempts + 1$$),
    (20, $$UPDATE jobq._job SET attempt = 0 WHERE state = 'r'$$),
    (21, $$UPDATE jobq._job SET crashes = -1$$),
    (22, $$UPDATE jobq._job SET payload = NULL$$),
    (23, $$UPDATE jobq._job SET kind = NULL$$),
    (24, $$UPDATE jobq._job SET run_at = NULL$$),
    (25, $$UPDATE jobq._job SET id = (SELECT id FROM jobq._job LIMIT 1)$$),
    (26, $$UPDATE jobq._job SET lease = NULL WHERE state = 'r'$$),
    (27, $$UPDATE jobq._job SET lease_ms = NULL WHERE state = 'r'$$),
    (28, $$UPDATE jobq._job SET claimed_at = NULL WHERE state = 'r'$$),
    (29, $$UPDATE jobq._job SET worker = NULL, lease_expires_at = NULL WHERE state = 'r'$$),
    (30, $$UPDATE jobq._history SET state = 'p'$$),
    (31, $$UPDATE jobq._history SET state = 'r'$$),
    (32, $$UPDATE jobq._history SET state = 'f'$$),
    (33, $$UPDATE jobq._history SET finished_at = NULL$$),
    (34, $$UPDATE jobq._history SET finished_at = '-infinity'$$),
    (40, $$UPDATE jobq._dead SET state = 'c'$$),
    (41, $$UPDATE jobq._dead SET state = 'x'$$),
    (42, $$UPDATE jobq._dead SET state = 'p'$$),
    (43, $$UPDATE jobq._dead SET finished_at = NULL$$),
    (50, $$INSERT INTO jobq._queue (id, name, created_at) VALUES (0, 'other', now())$$),
    (51, $$INSERT INTO jobq._queue (id, name, created_at) VALUES (7, 'default', now())$$),
    (52, $$INSERT INTO jobq._queue (id, name, created_at, dropped_at) VALUES (0, 'default', now(), now())$$)
) AS v (n, change) ORDER BY n;

-- A random walk: whatever is called, in whatever order, with right and wrong leases, no job is lost, doubled or in no state, and
-- nothing but the contract's errors comes back.
CREATE TABLE t.walked (code text);
SELECT setseed(0.5);
DO $$
DECLARE
    verbs text[] := ARRAY['complete(ID, LEASE)', 'fail(ID, LEASE, ''e'', ''0'')', 'fail(ID, LEASE, ''e'', retry => false)', 'release(ID, LEASE)',
        'heartbeat(ID, LEASE)', 'cancel(ID)', 'reschedule(ID)', 'retry(ID)', 'complete_many(ARRAY[ID]::uuid[], ARRAY[LEASE]::bigint[])',
        'heartbeat_many(ARRAY[ID]::uuid[], ARRAY[LEASE]::bigint[])', 'rescue', 'retry_failed(batch => 1)', 'claim', 'claim', 'claim', 'claim',
        'reschedule(ID, max_attempts => 3)', 'pause(''default'')', 'resume(''default'')', 'resume(''default'')'];
    verb text;
    job uuid;
    token bigint;
    code text;
BEGIN
    FOR i IN 1 .. 1000 LOOP
        verb := verbs[1 + floor(random() * array_length(verbs, 1))];
        SELECT j.id INTO job FROM (SELECT id FROM jobq._job UNION ALL SELECT id FROM jobq._dead UNION ALL SELECT id FROM jobq._history) AS j ORDER BY random() LIMIT 1;
        SELECT coalesce(max(h.lease), 0) + CASE WHEN random() < 0.2 THEN 1 ELSE 0 END INTO token FROM t.held AS h WHERE h.id = job;
        code := NULL;
        BEGIN
            IF verb = 'claim' THEN
                PERFORM t.take(batch => 2);
            ELSIF verb = 'rescue' THEN
                UPDATE jobq._job SET lease_expires_at = clock_timestamp() - interval '1 second', lease_ms = 1 WHERE id = job AND state = 'r';
                PERFORM jobq.rescue_zombies();
            ELSE
                EXECUTE 'SELECT count(*) FROM jobq.' || replace(replace(verb, 'ID', quote_literal(job)), 'LEASE', token::text);
            END IF;
        EXCEPTION WHEN OTHERS THEN
            code := SQLSTATE;
        END;
        IF code IS NOT NULL THEN
            INSERT INTO t.walked VALUES (code);
            IF code NOT IN ('JQ001', 'JQ002', 'JQ004', '22023') THEN RAISE WARNING '% from %', code, verb; END IF;
        END IF;
        COMMIT;
        IF i % 20 = 0 AND t.unsound() > 0 THEN RAISE WARNING 'unsound after %', verb; EXIT; END IF;
    END LOOP;
END
$$;
SELECT count(*) AS jobs, count(DISTINCT id) AS ids, t.unsound() FROM jobq.jobs;
SELECT code FROM t.walked WHERE code LIKE 'JQ%' GROUP BY code ORDER BY code;
SELECT count(*) AS attempts_beyond_max FROM t.held AS h WHERE h.attempt > h.max_attempts;
SELECT count(*) AS leases_not_growing FROM (SELECT lease, lag(lease) OVER (PARTITION BY id ORDER BY n) AS before FROM t.held) AS x WHERE lease <= before;
