SELECT count(*) FROM graphile_worker.add_jobs(ARRAY(SELECT ROW('bench', :'payload'::json, NULL, NULL, NULL, NULL, NULL, NULL)::graphile_worker.job_spec FROM generate_series(1, :count)));
