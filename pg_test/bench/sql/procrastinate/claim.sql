SELECT id FROM procrastinate_fetch_job_v2('{bench}'::varchar[], 1) \gset
