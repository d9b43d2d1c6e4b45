-- Index only: _job_ready.
SELECT count(*) FROM jobq._job AS j WHERE j.queue_id = $1
