-- The headers of a job: $1 those of its schedule, $2 the schedule's name, $3 the tick, NULL for none.
SELECT coalesce($1, '{}') || jsonb_build_object('jobq_schedule', $2)
       || CASE WHEN $3 IS NULL THEN '{}'
               ELSE jsonb_build_object('jobq_tick', to_char($3 AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')) END
