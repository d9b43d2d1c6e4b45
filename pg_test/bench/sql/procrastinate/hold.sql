SELECT count(j.id) FROM generate_series(1, :count) AS n, LATERAL procrastinate_fetch_job_v2(CASE WHEN n > 0 THEN '{bench}'::varchar[] END, 1) AS j;
