-- pg_cron's jobs of this database, with the rights of the caller: number, when, what, as whom (0: there is no such role), active, name,
-- and the time zone in which pg_cron runs them.
SELECT j.jobid, j.schedule, j.command, coalesce(r.oid, 0), j.username::pg_catalog.text, j.active, j.jobname::pg_catalog.text,
       coalesce(pg_catalog.current_setting('cron.timezone', true), 'GMT')
FROM cron.job AS j LEFT JOIN pg_catalog.pg_roles AS r ON r.rolname OPERATOR(pg_catalog.=) j.username
WHERE j.database OPERATOR(pg_catalog.=) pg_catalog.current_database()
ORDER BY j.jobid
