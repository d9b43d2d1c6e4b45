-- fail and release: when a job comes back, how often, and what is kept of its errors.
\getenv here PG_ABS_SRCDIR
\set prepare :here '/sql/prepare.inc'
\i :prepare

-- Fails a job attempt after attempt and says how far ahead each time put it, in units.
CREATE FUNCTION t.delays(queue text, attempts int, unit interval) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    job uuid := jobq.enqueue('delays', queue => queue, max_attempts => 1000);
    token bigint;
    before timestamptz;
    delay interval;
    answer text := '';
BEGIN
    FOR i IN 1 .. attempts LOOP
        SELECT lease INTO STRICT token FROM jobq.claim(queue);
        before := clock_timestamp();
        PERFORM jobq.fail(job, token, 'no luck');
        SELECT j.run_at - before INTO delay FROM jobq.jobs AS j WHERE j.id = job;
        answer := answer || ' ' || round(extract(epoch FROM delay) / extract(epoch FROM unit), 1);
        PERFORM jobq.reschedule(job);
    END LOOP;
    PERFORM jobq.cancel(job);
    RETURN ltrim(answer);
END
$$;
SELECT jobq.create_queue('exponential', backoff => '{"kind": "exponential", "base": "10s", "factor": 3, "max": "5m", "jitter": 0}');
SELECT jobq.create_queue('linear', backoff => '{"kind": "linear", "base": "10s"}');
SELECT jobq.create_queue('constant', backoff => '{"kind": "constant", "base": "1m"}');
SELECT jobq.create_queue('list', backoff => '{"kind": "list", "delays": ["1m", "2m", "1h", "1d"]}');
SELECT jobq.create_queue('doubled', backoff => '{"kind": "exponential", "base": "5s", "jitter": 0}');
SELECT t.delays('exponential', 6, '10 seconds');
SELECT t.delays('linear', 6, '10 seconds');
SELECT t.delays('constant', 3, '1 minute');
SELECT t.delays('list', 6, '1 minute');
SELECT t.delays('doubled', 5, '5 seconds');
-- The default: 5 s, 10 s, 20 s, each within a tenth.
SELECT count(jobq.enqueue('built_in', max_attempts => 10));
SELECT t.take(kinds => '{built_in}');
SELECT clock_timestamp() AS before \gset
SELECT jobq.fail(t.id('built_in'), t.lease('built_in'));
SELECT run_at BETWEEN :'before'::timestamptz + interval '4.5 seconds' AND clock_timestamp() + interval '5.51 seconds' AS about_five FROM jobq.jobs WHERE kind = 'built_in';
SELECT jobq.reschedule(t.id('built_in')), t.take(kinds => '{built_in}');
SELECT clock_timestamp() AS before \gset
SELECT jobq.fail(t.id('built_in'), t.lease('built_in'));
SELECT run_at BETWEEN :'before'::timestamptz + interval '9 seconds' AND clock_timestamp() + interval '11.01 seconds' AS about_ten FROM jobq.jobs WHERE kind = 'built_in';
SELECT jobq.cancel(t.id('built_in'));
-- Far along, the delay stays at its maximum: no overflow, never negative.
SELECT count(jobq.enqueue('far', max_attempts => 1000));
DO $$
DECLARE
    job uuid := t.id('far');
    token bigint;
    ahead interval;
    attempt_before int;
BEGIN
    FOREACH attempt_before IN ARRAY '{20,30,31,62,63,64,500,998}'::int[] LOOP
        UPDATE jobq._job SET attempt = attempt_before WHERE id = job;
        SELECT lease INTO STRICT token FROM jobq.claim(kinds => '{far}');
        PERFORM jobq.fail(job, token);
        SELECT run_at - clock_timestamp() INTO ahead FROM jobq.jobs WHERE id = job AND state = 'pending';
        IF ahead IS NULL OR ahead NOT BETWEEN '53 minutes' AND '67 minutes' THEN RAISE WARNING 'attempt % comes back after %', attempt_before + 1, ahead; END IF;
        PERFORM jobq.reschedule(job);
    END LOOP;
END
$$;
SELECT t.take(kinds => '{far}');
SELECT jobq.fail(t.id('far'), t.lease('far')), t.seen('far');

-- retry_in beats the backoff; 0 is at once; retry false gives up; the last attempt gives up by itself.
SELECT count(jobq.enqueue(kind)) FROM unnest('{later,at_once,never,thrice}'::text[]) AS kind;
SELECT t.take(batch => 4, worker => 'w1');
SELECT clock_timestamp() AS before \gset
SELECT jobq.fail(t.id('later'), t.lease('later'), 'e', '2 hours'), jobq.fail(t.id('at_once'), t.lease('at_once'), 'e', '0'),
       jobq.fail(t.id('never'), t.lease('never'), 'e', retry => false), jobq.fail(t.id('thrice'), t.lease('thrice'), 'first', '0', true);
SELECT run_at BETWEEN :'before'::timestamptz + interval '2 hours' AND clock_timestamp() + interval '2 hours' AS two_hours FROM jobq.jobs WHERE kind = 'later';
SELECT t.seen('at_once'), t.seen('never');
SELECT t.take(kinds => '{thrice}', worker => 'w2');
SELECT jobq.fail(t.id('thrice'), t.lease('thrice'), 'second', '0'), t.take(kinds => '{thrice}', worker => 'w3'), jobq.fail(t.id('thrice'), t.lease('thrice'), 'third', '0');
SELECT kind, attempt, last_error FROM t.held WHERE kind = 'thrice' ORDER BY n;
SELECT state, attempt, max_attempts, worker, last_error, finished_at IS NOT NULL AS finished, jsonb_array_length(attempt_errors) AS errors FROM jobq.jobs WHERE kind = 'thrice';
SELECT e.place, e.entry ->> 'attempt' AS attempt, e.entry ->> 'worker' AS worker, e.entry ->> 'error' AS error, (e.entry ->> 'at')::timestamptz <= clock_timestamp() AS at
FROM jobq.jobs AS j, jsonb_array_elements(j.attempt_errors) WITH ORDINALITY AS e (entry, place) WHERE j.kind = 'thrice' ORDER BY e.place;

-- Errors: the last 20, 8 KB each, whole characters.
SELECT count(jobq.enqueue('errors', max_attempts => 30));
DO $$
DECLARE
    job uuid := t.id('errors');
    token bigint;
BEGIN
    FOR i IN 1 .. 25 LOOP
        SELECT lease INTO STRICT token FROM jobq.claim(kinds => '{errors}');
        PERFORM jobq.fail(job, token, 'error ' || i, '0');
    END LOOP;
END
$$;
SELECT attempt, last_error, jsonb_array_length(attempt_errors) AS kept, attempt_errors -> 0 ->> 'error' AS oldest, attempt_errors -> -1 ->> 'error' AS newest FROM jobq.jobs WHERE kind = 'errors';
SELECT count(jobq.enqueue(kind)) FROM unnest('{long,wide,none,odd}'::text[]) AS kind;
SELECT t.take(kinds => '{long,wide,none,odd}', batch => 4);
SELECT jobq.fail(t.id('long'), t.lease('long'), repeat('x', 100000)), jobq.fail(t.id('wide'), t.lease('wide'), 'x' || repeat(U&'\00E9', 10000)), jobq.fail(t.id('none'), t.lease('none')),
       jobq.fail(t.id('odd'), t.lease('odd'), U&'esc \001B[31m "quoted" back\\slash line\000Abreak \2028 \D83D\DE00');
SELECT kind, octet_length(last_error) BETWEEN 8000 AND 8192 AS cut, left(last_error, 3) IN ('xxx', U&'x\00E9\00E9') AS starts_right FROM jobq.jobs WHERE kind IN ('long', 'wide') ORDER BY kind;
SELECT last_error = U&'esc \001B[31m "quoted" back\\slash line\000Abreak \2028 \D83D\DE00' AS as_given FROM jobq.jobs WHERE kind = 'odd';
SELECT jsonb_array_length(attempt_errors) AS recorded, coalesce(last_error, '') AS last_error FROM jobq.jobs WHERE kind = 'none';

-- release gives the attempt back; without a delay the job keeps its place.
SELECT count(jobq.enqueue(kind, max_attempts => 2, run_at => '2000-01-01')) FROM unnest('{snooze,keep}'::text[]) AS kind;
SELECT t.take(kinds => '{snooze,keep}', batch => 2);
SELECT jobq.heartbeat(t.id('keep'), t.lease('keep'), progress => 50, note => 'half');
SELECT clock_timestamp() AS before \gset
SELECT jobq.release(t.id('snooze'), t.lease('snooze'), '1 hour'), jobq.release(t.id('keep'), t.lease('keep'));
SELECT kind, t.seen(kind), run_at = '2000-01-01' AS kept_its_place, run_at BETWEEN :'before'::timestamptz + interval '1 hour' AND clock_timestamp() + interval '1 hour' AS an_hour,
       crashes, last_error, attempt_errors FROM jobq.jobs WHERE kind IN ('snooze', 'keep') ORDER BY kind;
SELECT t.take(kinds => '{snooze,keep}', batch => 2);
SELECT attempt FROM t.held WHERE kind = 'keep' ORDER BY n;
-- However often: attempts are not used up.
DO $$
DECLARE
    token bigint := t.lease('keep');
BEGIN
    FOR i IN 1 .. 50 LOOP
        PERFORM jobq.release(t.id('keep'), token);
        SELECT lease INTO STRICT token FROM jobq.claim(kinds => '{keep}');
    END LOOP;
END
$$;
SELECT t.seen('keep');

-- When cancellation was asked for: fail and release end as cancelled, complete still completes.
SELECT count(jobq.enqueue(kind)) FROM unnest('{c_fail,c_release,c_complete,c_last,c_many}'::text[]) AS kind;
SELECT t.take(kinds => '{c_fail,c_release,c_complete,c_last,c_many}', batch => 5);
SELECT jobq.cancel(t.id(kind)) FROM unnest('{c_fail,c_release,c_complete,c_last,c_many}'::text[]) AS kind;
SELECT jobq.fail(t.id('c_fail'), t.lease('c_fail'), 'stopped', '0'), jobq.release(t.id('c_release'), t.lease('c_release')), jobq.complete(t.id('c_complete'), t.lease('c_complete'), '{"done": true}'),
       jobq.fail(t.id('c_last'), t.lease('c_last'), 'stopped', retry => false);
SELECT completed FROM jobq.complete_many(ARRAY[t.id('c_many')], ARRAY[t.lease('c_many')]);
SELECT kind, state, attempt, last_error, result FROM jobq.jobs WHERE kind LIKE 'c\_%' ORDER BY kind;
SELECT t.unsound();
