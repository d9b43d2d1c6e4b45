-- What a worker outside does for each job: claim it, then run the handler and complete the job in one transaction.
SELECT id AS id, lease AS lease, (c::jobq.claimed_job)::text AS job FROM jobq.claim('pool') AS c \gset
BEGIN;
SELECT app.short(:job::jobq.claimed_job);
SELECT jobq.complete(:id, :lease);
COMMIT;
