-- With the rights of the caller, as pg_cron runs its jobs: what was missed is missed, and one waits while one runs. $1 name, $2 cron,
-- $3 kind, $4 time zone, $5 active.
SELECT jobq.schedule($1, $2, $3, timezone => $4, catch_up => 'skip', overlap => 'queue'),
       CASE WHEN NOT $5 THEN jobq.pause_schedule($1) END
