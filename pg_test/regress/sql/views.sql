-- Looking: views, job, stats, diagnose, version.
\getenv here PG_ABS_SRCDIR
\set prepare :here '/sql/prepare.inc'
\i :prepare
SELECT jobq.create_queue('q', max_attempts => 2);
SELECT count(jobq.enqueue(kind, '{"n": 1}', queue => 'q')) FROM unnest('{ready,ahead,running,stopping,retrying,done,failed,cancelled}'::text[]) AS kind;
SELECT jobq.reschedule(t.id('ahead'), clock_timestamp() + interval '1 day');
SELECT t.take('q', 10, 'w1', kinds => '{running,stopping,done}'), t.take('q', 10, 'w2', kinds => '{retrying,failed}');
SELECT jobq.complete(t.id('done'), t.lease('done'), '{"r": 1}'), jobq.fail(t.id('failed'), t.lease('failed'), 'broken', retry => false), jobq.fail(t.id('retrying'), t.lease('retrying'), 'again', '0'),
       jobq.cancel(t.id('cancelled')), jobq.cancel(t.id('stopping')), jobq.heartbeat(t.id('running'), t.lease('running'), progress => 40, note => 'page 4');

-- Every state, in every view.
SELECT kind, queue, state, attempt, max_attempts, crashes, run_at > clock_timestamp() AS ahead, claimed_at IS NOT NULL AS claimed, finished_at IS NOT NULL AS finished,
       lease_expires_at IS NOT NULL AS leased, worker, progress, note, result, last_error, jsonb_array_length(attempt_errors) AS errors, cancel_requested
FROM jobq.jobs ORDER BY kind;
SELECT queue, kind, priority, attempt, max_attempts, crashes, worker, claimed_at <= last_seen_at AS seen, lease_expires_at > clock_timestamp() AS leased, deadline_at, progress, note, cancel_requested
FROM jobq.running_jobs ORDER BY kind;
SELECT queue, kind, priority, payload, headers, attempt, max_attempts, crashes, enqueued_at < finished_at AS times, worker, last_error, jsonb_array_length(attempt_errors) AS errors FROM jobq.failed_jobs ORDER BY kind;
SELECT name, paused, pending, scheduled, running, failed FROM jobq.queues ORDER BY name;
SELECT name, running, last_seen_at <= clock_timestamp() AS seen, completed, failed FROM jobq.workers ORDER BY name;

-- job: the same row as the view, for every state; nothing for an unknown id.
SELECT count(*) FROM jobq.jobs AS j, jobq.job(j.id) AS f WHERE j = f;
SELECT count(*) FROM jobq.job('ffffffff-ffff-ffff-ffff-ffffffffffff');
SELECT t.outcome($$jobq.job(NULL)$$, 'id');

-- stats: one row a queue.
SELECT queue, pending, scheduled, running, failed, completed_today, failed_today, oldest_pending_seconds >= 0 AND oldest_pending_seconds < 3600 AS oldest, workers FROM jobq.stats() ORDER BY queue;
SELECT queue, pending, oldest_pending_seconds, workers FROM jobq.stats('default');
SELECT t.outcome($$jobq.stats('nosuch')$$, 'nosuch'), t.outcome($$jobq.stats('')$$, 'queue'), t.outcome($$jobq.stats(NULL)$$);
-- The view of queues, stats and the jobs themselves agree.
SELECT q.name, q.pending = s.pending AND q.scheduled = s.scheduled AND q.running = s.running AND q.failed = s.failed AS agree,
       s.pending + s.scheduled + s.running + s.failed + s.completed_today + 1 = (SELECT count(*) FROM jobq.jobs WHERE queue = q.name) AS all_jobs
FROM jobq.queues AS q JOIN jobq.stats() AS s ON s.queue = q.name WHERE q.name = 'q';
-- Yesterday's do not count as today's.
UPDATE jobq._history SET finished_at = finished_at - interval '25 hours';
UPDATE jobq._dead SET finished_at = finished_at - interval '25 hours';
SELECT jobq.tick() >= 0 AS has_jobs_counted_anew;
SELECT completed_today, failed_today, failed FROM jobq.stats('q');

-- Past its queue's retention a job is gone, whether or not somebody has cleaned up.
SELECT jobq.alter_queue('q', retention => '1 day');
SELECT kind, state FROM jobq.jobs WHERE state NOT IN ('pending', 'running') ORDER BY kind;
SELECT t.outcome(format('jobq.complete(%L, %s)', t.id('done'), t.lease('done'))), t.outcome(format('jobq.cancel(%L)', t.id('done'))), t.outcome(format('jobq.retry(%L)', t.id('cancelled'))),
       count(*) FROM jobq.job(t.id('done'));
SELECT jobq.alter_queue('q', retention => '30 days');
SELECT kind, state FROM jobq.jobs WHERE state NOT IN ('pending', 'running') ORDER BY kind;
SELECT jobq.alter_queue('q', retention => '1 day'), jobq.tick() >= 0 AS ticked, jobq.alter_queue('q', retention => '30 days');
SELECT kind, state FROM jobq.jobs WHERE state NOT IN ('pending', 'running') ORDER BY kind;

-- Ids are time-ordered: newest first by index, in each branch of the view.
SELECT string_agg(kind, ' ' ORDER BY id DESC) FROM jobq.jobs;
SET enable_seqscan = off;
CREATE FUNCTION t.plan(query text) RETURNS SETOF text LANGUAGE plpgsql AS $$ BEGIN RETURN QUERY EXECUTE 'EXPLAIN (COSTS OFF) ' || query; END $$;
SELECT count(*) FILTER (WHERE line LIKE '%Seq Scan%' AND line NOT LIKE '%_queue%') AS scans, count(*) FILTER (WHERE line ~ 'Index.* Scan') > 3 AS by_index
FROM t.plan($$SELECT * FROM jobq.jobs WHERE id = '00000000-0000-0000-0000-000000000000'$$) AS line;
SELECT count(*) FILTER (WHERE line LIKE '%Seq Scan%' AND line NOT LIKE '%_queue%') AS scans, count(*) FILTER (WHERE line ~ '(^|-> +)(Incremental )?Sort') AS sorts
FROM t.plan($$SELECT * FROM jobq.jobs ORDER BY id DESC LIMIT 10$$) AS line;
RESET enable_seqscan;

-- Drivers compare states with text.
PREPARE by_state AS SELECT kind FROM jobq.jobs WHERE state = $1 ORDER BY kind;
EXECUTE by_state('running');

-- diagnose: every check says ok, warn or error and why; a hint where something is wrong; what the contract lists is there.
SELECT count(*) = count(DISTINCT check_name) AS names_differ, bool_and(check_name IS NOT NULL AND detail IS NOT NULL AND status IN ('ok', 'warn', 'error')) AS complete,
       bool_and(status = 'ok' OR hint IS NOT NULL) AS hints
FROM jobq.diagnose();
SELECT what FROM unnest('{preload,worker,stuck,dead,pending,xmin,lock,checkpoint,vacuum,version}'::text[]) AS what
WHERE NOT EXISTS (SELECT 1 FROM jobq.diagnose() AS d WHERE d.check_name LIKE '%' || what || '%');
SELECT check_name, status, hint IS NOT NULL AS hint FROM jobq.diagnose() WHERE check_name IN ('dead_letters', 'schema_version', 'stuck_jobs', 'oldest_pending') ORDER BY check_name;
-- Neither a payload nor a lease in it.
SELECT count(*) FROM jobq.diagnose() AS d, t.held AS h WHERE d.detail LIKE '%' || h.lease || '%';

SELECT jobq.version() LIKE '%' || extversion || '%' AS schema_version, jobq.version() ~ '\d+\.\d+\.\d+' AS library_version FROM pg_extension WHERE extname = 'jobq';

-- No view shows a lease.
SELECT c.relname, a.attname FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0
WHERE c.relnamespace = 'jobq'::regnamespace AND c.relkind = 'v' AND a.attname ~ 'lease|token' AND a.attname NOT IN ('lease_expires_at', 'lease_ms', 'lease_seconds');
SELECT count(*) FROM jobq.jobs AS j, t.held AS h WHERE to_jsonb(j)::text LIKE '%' || h.lease || '%';

-- All of it in a read-only transaction; nothing of it locks anything out.
BEGIN READ ONLY;
SELECT count(*) > 0 FROM jobq.jobs;
SELECT count(*) > 0 FROM jobq.running_jobs;
SELECT count(*) >= 0 FROM jobq.failed_jobs;
SELECT count(*) > 0 FROM jobq.queues;
SELECT count(*) > 0 FROM jobq.workers;
SELECT count(*) > 0 FROM jobq.jobs AS j, jobq.job(j.id);
SELECT count(*) > 0 FROM jobq.stats();
SELECT count(*) > 0 FROM jobq.diagnose();
SELECT jobq.version() IS NOT NULL;
COMMIT;
SELECT t.unsound();
