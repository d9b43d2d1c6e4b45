-- All pools, for their supervisor; $1 is the server's start. The last column numbers what is wrong with the role.
SELECT p.id, p.name, p.run_as::oid, p.size, NOT p.stopped AND (p.autostart OR p.started_in IS NOT DISTINCT FROM $1), p.starts, p.restarts,
       p.restart, p.start_ms, p.start_retries, p.stop_wait_ms, p.max_runtime_ms, p.max_memory_bytes, p.job_timeout_ms, o.problem
FROM jobq._pool AS p JOIN jobq._roles_of AS o ON o.run_as = p.run_as AND o.created_by = p.created_by
