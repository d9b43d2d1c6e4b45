SELECT procrastinate_defer_jobs_v1(ARRAY[ROW('bench', 'bench', 0, NULL, NULL, :payload::jsonb, NULL)::procrastinate_job_to_defer_v1]);
SELECT id FROM procrastinate_fetch_job_v2('{bench}'::varchar[], 1) \gset
SELECT procrastinate_finish_job_v1(:id::bigint, 'succeeded', true);
