SELECT count(*) FROM graphile_worker.add_job('bench', '{}'::json);
DELETE FROM graphile_worker._private_jobs;
