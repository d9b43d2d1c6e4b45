-- The unfinished job that has a unique_key. Index: _job_unique.
SELECT j.id FROM jobq._job AS j WHERE j.queue_id = $1 AND j.unique_key = $2
