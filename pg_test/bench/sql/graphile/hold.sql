UPDATE graphile_worker._private_jobs SET attempts = attempts + 1, locked_by = 'holder', locked_at = now()
WHERE id IN (SELECT id FROM graphile_worker._private_jobs WHERE is_available ORDER BY priority, run_at LIMIT :count FOR UPDATE SKIP LOCKED);
