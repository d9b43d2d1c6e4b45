-- Locks an unfinished job: state, lease, attempt.
SELECT j.state, j.lease, j.attempt FROM jobq._job AS j WHERE j.id = $1 FOR UPDATE
