-- Asks the worker of a running job to stop. HOT.
UPDATE jobq._job AS j SET cancel_requested = true WHERE j.id = $1 AND j.state = 'r'
RETURNING (j.ctid::text::point)[0]::bigint
