-- run_now has enqueued a job.
UPDATE jobq._schedule AS s SET last_enqueued_at = $2, last_job_id = $3 WHERE s.id = $1
