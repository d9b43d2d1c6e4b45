-- Rows of jobq.check_result. $1 now, $2 preloaded, $3 last tick or NULL, $4 the tick interval in ms, $5 jobq.enabled, $6 is this
-- the original (not a restored copy), $7 library version, $8 schema version, $9 and $10 checkpoints
-- by time and by request since the statistics were reset, $11 in recovery, $12 jobq.dispatch, $13 slots of shared memory that hold
-- candidates, $14 how many there are, $15 jobs that only sweeps found, $16 waits that ended with
-- jobs although nobody was woken.
SELECT check_name, status, detail, hint FROM (
    SELECT 1, 'preload',
           CASE WHEN $2 THEN 'ok' ELSE 'warn' END,
           CASE WHEN $2 THEN 'jobq is in shared_preload_libraries' ELSE 'jobq is not in shared_preload_libraries: no background worker runs' END,
           CASE WHEN NOT $2 THEN 'Add jobq to shared_preload_libraries and restart, or call jobq.tick() from your own scheduler.' END
    UNION ALL
    SELECT 2, 'background_worker',
           CASE WHEN $11 THEN 'ok'
                WHEN NOT $2 OR NOT $5 THEN 'warn'
                WHEN here.silent AND here.new THEN 'warn'
                WHEN here.silent THEN 'error' ELSE 'ok' END,
           CASE WHEN $11 THEN 'a standby: it runs after promotion'
                WHEN NOT $5 THEN 'jobq.enabled is off'
                WHEN $3 IS NULL THEN 'has not ticked in this database since the server started'
                ELSE 'last tick ' || round(extract(epoch FROM $1 - $3)::numeric, 1) || ' s ago' END,
           CASE WHEN $11 THEN NULL
                WHEN NOT $2 THEN 'See preload.'
                WHEN NOT $5 THEN 'Set jobq.enabled = on and reload.'
                WHEN here.silent AND here.new THEN 'It is being started: look again in a few seconds.'
                WHEN here.silent THEN 'Is max_worker_processes reached, or this database missing in jobq.databases? The server log says more.' END
    FROM (SELECT $3 IS NULL OR $3 < $1 - greatest(5 * $4, 10000) * interval '1 millisecond' AS silent,
                 greatest(h.installed_at, pg_postmaster_start_time()) > $1 - interval '15 seconds' AS new
          FROM jobq._here AS h) AS here
    UNION ALL
    SELECT 3, 'restored_copy',
           CASE WHEN $6 THEN 'ok' ELSE 'warn' END,
           CASE WHEN $6 THEN 'this is the original database' ELSE 'this database was restored or copied: background duties wait' END,
           CASE WHEN NOT $6 THEN 'Call jobq.resume_after_restore() if jobs shall run here.' END
    UNION ALL
    SELECT 4, 'schema_version',
           CASE WHEN $7 = $8 THEN 'ok' ELSE 'warn' END,
           'library ' || $7 || ', schema ' || $8,
           CASE WHEN $7 <> $8 THEN 'ALTER EXTENSION jobq UPDATE; if that changes nothing, restart the server to load the new library.' END
    UNION ALL
    SELECT 5, 'stuck_jobs',
           CASE WHEN count(*) > 0 THEN 'warn' ELSE 'ok' END,
           count(*) || ' running jobs with a lease that expired more than 30 s ago',
           CASE WHEN count(*) > 0 THEN 'The background worker should have rescued them: see background_worker. By hand: jobq.rescue_zombies().' END
    FROM jobq._job AS j WHERE j.state = 'r' AND j.lease_expires_at < $1 - interval '30 seconds'
    UNION ALL
    SELECT 6, 'dead_letters',
           CASE WHEN count(*) > 0 THEN 'warn' ELSE 'ok' END,
           count(*) || ' failed jobs',
           CASE WHEN count(*) > 0 THEN 'Look at jobq.failed_jobs; then jobq.retry_failed(), jobq.delete() or jobq.purge().' END
    FROM jobq._dead AS d
    UNION ALL
    SELECT 7, 'oldest_pending',
           CASE WHEN w.since < $1 - interval '5 minutes' THEN 'warn' ELSE 'ok' END,
           CASE WHEN w.since IS NULL THEN 'no ready job is waiting'
                ELSE 'the oldest ready job waits for ' || round(extract(epoch FROM $1 - w.since)::numeric, 1) || ' s' END,
           CASE WHEN w.since < $1 - interval '5 minutes' THEN 'Are there enough workers? See jobq.queues and jobq.workers.' END
    FROM (SELECT min(greatest(j.run_at, j.enqueued_at)) AS since
          FROM jobq._job AS j
          WHERE j.state = 'p' AND j.run_at <= $1
            AND j.queue_id <> ALL (ARRAY(SELECT q.id FROM jobq._queue AS q WHERE q.paused))) AS w
    UNION ALL
    SELECT 8, 'xmin_holders',
           CASE WHEN count(*) > 0 THEN 'warn' ELSE 'ok' END,
           count(*) || ' transactions, prepared transactions or replication slots hold back vacuum for more than 5 minutes',
           CASE WHEN count(*) > 0 THEN 'Dead rows pile up and claims get slower: see xact_start in pg_stat_activity, pg_prepared_xacts and pg_replication_slots.' END
    FROM (
        SELECT 1 FROM pg_stat_activity AS a
        WHERE (a.backend_xmin IS NOT NULL OR a.backend_xid IS NOT NULL) AND a.xact_start < $1 - interval '5 minutes'
        UNION ALL
        SELECT 1 FROM pg_prepared_xacts AS p WHERE p.prepared < $1 - interval '5 minutes'
        UNION ALL
        SELECT 1 FROM pg_replication_slots AS s WHERE NOT s.active AND (s.xmin IS NOT NULL OR s.catalog_xmin IS NOT NULL)
    ) AS holder
    UNION ALL
    SELECT 9, 'waiting_locks',
           CASE WHEN count(*) > 0 THEN 'warn' ELSE 'ok' END,
           count(*) || ' sessions wait for a lock on a table of jobq',
           CASE WHEN count(*) > 0 THEN 'SELECT pid, pg_blocking_pids(pid), query FROM pg_stat_activity WHERE wait_event_type = ''Lock'' shows who blocks whom.' END
    FROM pg_locks AS l WHERE NOT l.granted AND l.relation IN (
        SELECT c.oid FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE n.nspname = 'jobq')
    UNION ALL
    SELECT 10, 'vacuum',
           CASE WHEN t.n_dead_tup > 100000 AND t.n_dead_tup > t.n_live_tup THEN 'warn' ELSE 'ok' END,
           t.n_dead_tup || ' dead and ' || t.n_live_tup || ' live rows in the job table, last autovacuum '
               || coalesce(round(extract(epoch FROM $1 - t.last_autovacuum)::numeric) || ' s ago', 'never'),
           CASE WHEN t.n_dead_tup > 100000 AND t.n_dead_tup > t.n_live_tup
                THEN 'Is autovacuum on? Does something hold back vacuum (xmin_holders)?' END
    FROM pg_stat_all_tables AS t WHERE t.relid = 'jobq._job'::regclass
    UNION ALL
    SELECT 11, 'checkpoints',
           CASE WHEN $10 > $9 AND $10 > 10 THEN 'warn' ELSE 'ok' END,
           $9 || ' checkpoints by time, ' || $10 || ' because max_wal_size was reached or somebody asked',
           CASE WHEN $10 > $9 AND $10 > 10 THEN 'Raise max_wal_size: after each checkpoint the next writes log whole pages.' END
    UNION ALL
    SELECT 12, 'triggers',
           CASE WHEN count(*) > 0 THEN 'warn' ELSE 'ok' END,
           count(*) || ' triggers on the tables of jobq',
           CASE WHEN count(*) > 0 THEN 'They run with the rights of jobq''s owner inside every claim, and claims wait for the disk again. Drop them.' END
    FROM pg_trigger AS g JOIN pg_class AS c ON c.oid = g.tgrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE n.nspname = 'jobq' AND NOT g.tgisinternal
    UNION ALL
    SELECT 13, 'dispatch',
           CASE WHEN $2 AND $12 THEN 'ok' ELSE 'warn' END,
           CASE WHEN NOT $2 THEN 'claims search the table: there is no shared memory without preload'
                WHEN NOT $12 THEN 'claims search the table: jobq.dispatch is off'
                ELSE $13 || ' of ' || $14 || ' slots hold candidates; ' || $15 || ' jobs were found by sweeps since the server started, '
                     || $16 || ' by sessions that waited and were not woken' END,
           CASE WHEN NOT $2 THEN 'See preload.' WHEN NOT $12 THEN 'Set jobq.dispatch = on and reload.' END
    UNION ALL
    SELECT 14, 'schedules',
           CASE WHEN t.failing + t.late + t.ahead > 0 THEN 'warn' ELSE 'ok' END,
           t.all || ' schedules; ' || t.failing || ' could not enqueue the last time, ' || t.late || ' are late by more than a minute, '
               || t.ahead || ' have run at times that are still to come' || coalesce('; the first is ' || t.first, ''),
           CASE WHEN t.failing > 0 THEN 'last_error in jobq.schedules says why. They are tried again by themselves; jobq.alter_schedule makes them try at once.'
                WHEN t.ahead > 0 THEN 'The clock was set back: they go on when it is past next_run_at. jobq.pause_schedule and jobq.resume_schedule let them begin now.'
                WHEN t.late > 0 THEN 'See background_worker and restored_copy. A session that has altered a schedule and does not commit keeps it, too.' END
    FROM (SELECT count(*) AS all, count(*) FILTER (WHERE c.failing) AS failing, count(*) FILTER (WHERE c.late AND NOT c.failing) AS late,
                 count(*) FILTER (WHERE c.ahead) AS ahead, min(c.name) FILTER (WHERE c.failing OR c.late OR c.ahead) AS first
          FROM (SELECT s.name, s.last_error IS NOT NULL AS failing, s.next_at < $1 - interval '1 minute' AS late,
                       s.last_at > $1 + interval '1 minute' AND s.next_at IS NOT NULL AS ahead
                FROM jobq._schedule AS s) AS c) AS t
    UNION ALL
    SELECT 15, 'pools',
           CASE WHEN count(*) FILTER (WHERE p.state = 'FATAL') > 0 THEN 'error' WHEN count(p.reason) > 0 THEN 'warn' ELSE 'ok' END,
           count(*) || ' pools with ' || coalesce(sum(p.running), 0) || ' running workers'
               || coalesce('; ' || string_agg(p.name || ': ' || p.reason, '; ' ORDER BY p.name), ''),
           CASE WHEN count(p.reason) > 0 THEN 'See jobq.pool_workers. jobq.start_pool starts workers that are FATAL.' END
    FROM jobq.pools AS p
    UNION ALL
    SELECT 16, 'handlers',
           CASE WHEN count(h.problem) > 0 OR count(*) FILTER (WHERE h.lonely) > 0 THEN 'warn' ELSE 'ok' END,
           count(*) || ' handlers' || coalesce('; ' || string_agg(h.kind || ': ' || h.problem, '; ' ORDER BY h.kind), '')
               || coalesce('; no pool of their role: ' || string_agg(h.kind, ', ' ORDER BY h.kind) FILTER (WHERE h.lonely), ''),
           CASE WHEN count(h.problem) > 0 THEN 'Their jobs fail. See jobq.handlers.'
                WHEN count(*) FILTER (WHERE h.lonely) > 0 THEN 'Make a pool: jobq.create_pool(..., run_as => ...).' END
    FROM (SELECT v.kind, v.problem, NOT EXISTS (SELECT 1 FROM jobq._pool AS p WHERE p.run_as = s.run_as) AS lonely
          FROM jobq._handler AS s JOIN jobq.handlers AS v ON v.kind = s.kind) AS h
) AS checks (place, check_name, status, detail, hint)
ORDER BY place
