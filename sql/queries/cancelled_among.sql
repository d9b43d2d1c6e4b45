-- Those of the running jobs $1 whose cancellation was asked for. Index: primary key.
SELECT j.id FROM jobq._job AS j WHERE j.id = ANY ($1) AND j.cancel_requested
