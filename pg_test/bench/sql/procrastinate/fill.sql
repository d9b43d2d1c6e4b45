SELECT cardinality(procrastinate_defer_jobs_v1(ARRAY(SELECT ROW('bench', 'bench', 0, NULL, NULL, :'payload'::jsonb, NULL)::procrastinate_job_to_defer_v1 FROM generate_series(1, :count))));
