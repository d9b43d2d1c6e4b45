-- The state machine: what every verb does to a job in every state, and what the tables refuse even from their owner.
\getenv here PG_ABS_SRCDIR
\set prepare :here '/sql/prepare.inc'
\i :prepare

-- One job in each state (those that ran end with a lease of w1); each verb on each, undone afterwards: the state after, or the SQLSTATE.
SELECT count(jobq.enqueue(kind)) FROM unnest('{pending,retrying,released,rescued,running,stopping,expired,completed,failed,cancelled,cancelled_running,poison}'::text[]) AS kind;
SELECT t.take(kinds => '{retrying,released,rescued,running,stopping,expired,completed,failed,cancelled_running,poison}', batch => 10, worker => 'w1') <> 'nothing' AS taken;
SELECT jobq.fail(t.id('retrying'), t.lease('retrying'), 'e', '0'), jobq.release(t.id('released'), t.lease('released')), t.lose('rescued'), jobq.cancel(t.id('stopping')), jobq.complete(t.id('completed'), t.lease('completed')),
       jobq.fail(t.id('failed'), t.lease('failed'), 'e', retry => false), jobq.cancel(t.id('cancelled')), jobq.cancel(t.id('cancelled_running')), jobq.release(t.id('cancelled_running'), t.lease('cancelled_running'));
UPDATE jobq._job SET crashes = 2 WHERE kind = 'poison';
SELECT t.lose('poison');
CREATE FUNCTION t.after(verb text, kind text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    result text;
BEGIN
    BEGIN
        IF kind = 'expired' THEN
            UPDATE jobq._job AS j SET lease_expires_at = clock_timestamp() - interval '1 second', lease_ms = 1 WHERE j.kind = after.kind;
        END IF;
        EXECUTE 'SELECT count(*) FROM ' || replace(replace(verb, 'ID', quote_literal(t.id(kind))), 'LEASE', coalesce(t.lease(kind), 0)::text);
        result := coalesce((SELECT j.state || CASE WHEN j.cancel_requested THEN '!' ELSE '' END FROM jobq.job(t.id(kind)) AS j), 'gone');
        IF t.unsound() > 0 THEN result := result || ' unsound'; END IF;
        RAISE EXCEPTION USING ERRCODE = 'T0000', MESSAGE = result;
    EXCEPTION WHEN SQLSTATE 'T0000' THEN
        RETURN SQLERRM;
    WHEN OTHERS THEN
        RETURN SQLSTATE;
    END;
END
$$;
SELECT split_part(verb, '(', 1) || CASE WHEN verb LIKE '%LEASE,%' THEN ' ' || rtrim(split_part(verb, 'LEASE, ', 2), ')') WHEN verb LIKE '%skip%' THEN ' skip' ELSE '' END AS verb,
       t.after('jobq.' || verb, 'pending') AS pending, t.after('jobq.' || verb, 'retrying') AS retrying, t.after('jobq.' || verb, 'released') AS released, t.after('jobq.' || verb, 'rescued') AS rescued,
       t.after('jobq.' || verb, 'running') AS running, t.after('jobq.' || verb, 'stopping') AS stopping, t.after('jobq.' || verb, 'expired') AS expired
FROM (VALUES (1, 'complete(ID, LEASE)'), (2, 'complete_many(ARRAY[ID]::uuid[], ARRAY[LEASE]::bigint[])'), (3, 'complete_many(ARRAY[ID]::uuid[], ARRAY[LEASE]::bigint[], on_stale => ''skip'')'),
    (4, 'fail(ID, LEASE)'), (5, 'fail(ID, LEASE, retry => false)'), (6, 'release(ID, LEASE)'), (7, 'heartbeat(ID, LEASE)'), (8, 'heartbeat_many(ARRAY[ID]::uuid[], ARRAY[LEASE]::bigint[])'),
    (9, 'cancel(ID)'), (10, 'reschedule(ID)'), (11, 'retry(ID)'), (12, 'delete(ID)'), (13, 'claim(batch => 100)'), (14, 'rescue_zombies()'), (15, 'retry_failed()'),
    (16, 'purge(''default'', ''completed'', ''0'')'), (17, 'purge(''default'', ''failed'', ''0'')'), (18, 'purge(''default'', ''cancelled'', ''0'')')) AS v (n, verb)
ORDER BY n;
SELECT split_part(verb, '(', 1) || CASE WHEN verb LIKE '%LEASE,%' THEN ' ' || rtrim(split_part(verb, 'LEASE, ', 2), ')') WHEN verb LIKE '%skip%' THEN ' skip' ELSE '' END AS verb,
       t.after('jobq.' || verb, 'completed') AS completed, t.after('jobq.' || verb, 'failed') AS failed, t.after('jobq.' || verb, 'poison') AS poison, t.after('jobq.' || verb, 'cancelled') AS cancelled,
       t.after('jobq.' || verb, 'cancelled_running') AS cancelled_running
FROM (VALUES (1, 'complete(ID, LEASE)'), (2, 'complete_many(ARRAY[ID]::uuid[], ARRAY[LEASE]::bigint[])'), (3, 'complete_many(ARRAY[ID]::uuid[], ARRAY[LEASE]::bigint[], on_stale => ''skip'')'),
    (4, 'fail(ID, LEASE)'), (5, 'fail(ID, LEASE, retry => false)'), (6, 'release(ID, LEASE)'), (7, 'heartbeat(ID, LEASE)'), (8, 'heartbeat_many(ARRAY[ID]::uuid[], ARRAY[LEASE]::bigint[])'),
    (9, 'cancel(ID)'), (10, 'reschedule(ID)'), (11, 'retry(ID)'), (12, 'delete(ID)'), (13, 'claim(batch => 100)'), (14, 'rescue_zombies()'), (15, 'retry_failed()'),
    (16, 'purge(''default'', ''completed'', ''0'')'), (17, 'purge(''default'', ''failed'', ''0'')'), (18, 'purge(''default'', ''cancelled'', ''0'')')) AS v (n, verb)
ORDER BY n;
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
    (10, $$UPDATE jobq._job SET lease = 0 WHERE state = 'r'$$),
    (11, $$UPDATE jobq._job SET lease = -1 WHERE state = 'r'$$),
    (12, $$UPDATE jobq._job SET lease_expires_at = '-infinity' WHERE state = 'r'$$),
    (13, $$UPDATE jobq._job SET lease_expires_at = clock_timestamp() WHERE state = 'p'$$),
    (14, $$UPDATE jobq._job SET claimed_at = '-infinity' WHERE state = 'r'$$),
    (15, $$UPDATE jobq._job SET claimed_at = clock_timestamp() WHERE state = 'p'$$),
    (16, $$UPDATE jobq._job SET seen_at = claimed_at - interval '1 second' WHERE state = 'r'$$),
    (17, $$UPDATE jobq._job SET attempt = 0 WHERE state = 'r'$$),
    (18, $$UPDATE jobq._job SET attempt = -1 WHERE state = 'p'$$),
    (19, $$UPDATE jobq._job SET attempt = max_attempts + 1$$),
    (20, $$UPDATE jobq._job SET crashes = -1$$),
    (21, $$UPDATE jobq._job SET cancel_requested = true WHERE state = 'p'$$),
    (22, $$UPDATE jobq._job SET payload = NULL$$),
    (23, $$UPDATE jobq._job SET kind = NULL$$),
    (24, $$UPDATE jobq._job SET run_at = NULL$$),
    (25, $$UPDATE jobq._job SET id = (SELECT id FROM jobq._job LIMIT 1)$$),
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
    target record;
    wrong bigint;
    verb text;
    code text;
BEGIN
    FOR i IN 1 .. 1500 LOOP
        SELECT j.id, (SELECT lease FROM t.held AS h WHERE h.id = j.id ORDER BY n DESC LIMIT 1) AS lease INTO target FROM jobq.jobs AS j ORDER BY random() LIMIT 1;
        wrong := CASE WHEN random() < 0.2 THEN 1 ELSE 0 END;
        verb := (ARRAY['complete(ID, LEASE)', 'fail(ID, LEASE, ''e'', ''0'')', 'fail(ID, LEASE, ''e'', retry => false)', 'release(ID, LEASE)', 'heartbeat(ID, LEASE)', 'cancel(ID)', 'reschedule(ID)', 'retry(ID)',
            'complete_many(ARRAY[ID]::uuid[], ARRAY[LEASE]::bigint[])', 'heartbeat_many(ARRAY[ID]::uuid[], ARRAY[LEASE]::bigint[])', 'rescue_zombies(''1 ms'')', 'retry_failed(batch => 1)', 'claim', 'claim', 'claim', 'claim',
            'reschedule(ID, max_attempts => 3)', 'pause(''default'')', 'resume(''default'')', 'resume(''default'')'])[1 + floor(random() * 20)];
        BEGIN
            IF verb = 'claim' THEN
                PERFORM t.take(batch => 2);
            ELSE
                EXECUTE 'SELECT count(*) FROM jobq.' || replace(replace(verb, 'ID', quote_literal(target.id)), 'LEASE', (coalesce(target.lease, 0) + wrong)::text);
            END IF;
        EXCEPTION WHEN OTHERS THEN
            INSERT INTO t.walked VALUES (SQLSTATE);
            IF SQLSTATE NOT IN ('JQ001', 'JQ002', 'JQ004', '22023') THEN RAISE WARNING '% from %', SQLSTATE, verb; END IF;
        END;
        IF t.unsound() > 0 THEN RAISE WARNING 'unsound after %', verb; EXIT; END IF;
    END LOOP;
END
$$;
SELECT count(*) AS jobs, count(DISTINCT id) AS ids FROM jobq.jobs;
SELECT code FROM t.walked GROUP BY code HAVING code LIKE 'JQ%' ORDER BY code;
SELECT count(*) FROM t.held AS h WHERE h.attempt > h.max_attempts;
SELECT count(*) AS leases_not_growing FROM (SELECT lease, lag(lease) OVER (PARTITION BY id ORDER BY n) AS before FROM t.held) AS x WHERE lease <= before;
