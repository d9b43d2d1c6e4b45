//! Tests that run inside a server, each in a transaction that is rolled back: `cargo pgrx test`.
//! What needs a second session, a commit or another role is in regress, isolation and cluster.

#[pgrx::pg_schema]
mod tests {
    use pgrx::prelude::*;

    type Outcome = Result<(), pgrx::spi::Error>;

    fn text(sql: &str) -> Result<Option<String>, pgrx::spi::Error> {
        Spi::get_one::<String>(sql)
    }

    /// The SQLSTATE that a statement raises, or "ok".
    fn sqlstate(statement: &str) -> Result<Option<String>, pgrx::spi::Error> {
        Spi::run(
            "CREATE OR REPLACE FUNCTION pg_temp.sqlstate_of(statement text) RETURNS text LANGUAGE plpgsql AS
             $$ BEGIN EXECUTE statement; RETURN 'ok'; EXCEPTION WHEN OTHERS THEN RETURN SQLSTATE; END $$",
        )?;
        Spi::get_one_with_args::<String>("SELECT pg_temp.sqlstate_of($1)", &[statement.into()])
    }

    #[track_caller]
    fn assert_text(sql: &str, expected: &str) -> Outcome {
        assert_eq!(text(sql)?.as_deref(), Some(expected), "{sql}");
        Ok(())
    }

    #[track_caller]
    fn assert_sqlstate(statement: &str, expected: &str) -> Outcome {
        assert_eq!(sqlstate(statement)?.as_deref(), Some(expected), "{statement}");
        Ok(())
    }

    #[pg_test]
    fn a_job_goes_through_its_life() -> Outcome {
        assert_text("SELECT (jobq.enqueue('greet', '{\"name\": \"Ada\"}') = (SELECT id FROM jobq.claim()))::text", "true")?;
        assert_text("SELECT jobq.complete(id, lease, '{\"said\": \"hello\"}') FROM jobq._job", "completed")?;
        assert_text("SELECT state || (result ->> 'said') FROM jobq.jobs", "completedhello")
    }

    #[pg_test]
    fn a_payload_comes_back_digit_for_digit() -> Outcome {
        Spi::run("SELECT jobq.enqueue('k', '{\"n\": 12345678901234567890123, \"m\": 1.10, \"e\": 1e400}')")?;
        Spi::run("SELECT jobq.enqueue('k', jsonb_build_array(repeat('[', 5000)::text || repeat(']', 5000)))")?;
        assert_text(
            "SELECT (payload ->> 'n') || ' ' || (payload ->> 'm') || ' ' || length(payload ->> 'e') FROM jobq.claim()",
            "12345678901234567890123 1.10 401",
        )?;
        assert_text("SELECT length(payload ->> 0)::text FROM jobq.claim()", "10000")
    }

    #[pg_test]
    fn only_the_current_lease_counts() -> Outcome {
        Spi::run("SELECT jobq.enqueue('k'); CREATE TEMP TABLE old AS SELECT id, lease FROM jobq.claim()")?;
        assert_sqlstate("SELECT jobq.complete(id, lease + 1) FROM old", "JQ001")?;
        Spi::run("SELECT jobq.fail(id, lease, 'once', retry_in => '0') FROM old")?;
        assert_sqlstate("SELECT jobq.fail(id, lease, 'once') FROM old", "JQ001")?;
        Spi::run("CREATE TEMP TABLE new AS SELECT id, lease FROM jobq.claim()")?;
        assert_sqlstate("SELECT jobq.complete(id, lease) FROM old", "JQ001")?;
        assert_text("SELECT jobq.complete(id, lease) FROM new", "completed")?;
        assert_sqlstate("SELECT jobq.heartbeat(id, lease) FROM new", "JQ002")?;
        assert_sqlstate("SELECT jobq.complete(gen_random_uuid(), 1)", "JQ003")?;
        assert_sqlstate("SELECT jobq.retry(id) FROM new", "JQ004")
    }

    #[pg_test]
    fn a_lost_worker_is_rescued_and_fenced() -> Outcome {
        Spi::run("SELECT jobq.enqueue('k'); CREATE TEMP TABLE old AS SELECT id, lease FROM jobq.claim(worker => 'w')")?;
        Spi::run("UPDATE jobq._job SET lease_expires_at = lease_expires_at - interval '1 hour'")?;
        assert_text("SELECT jobq.rescue_zombies()::text", "1")?;
        assert_text("SELECT state || crashes || attempt FROM jobq.jobs", "pending11")?;
        assert_sqlstate("SELECT jobq.complete(id, lease) FROM old", "JQ001")
    }

    #[pg_test]
    fn a_job_that_kills_its_workers_is_poison() -> Outcome {
        Spi::run("SELECT jobq.enqueue('k', max_attempts => 100)")?;
        for _ in 0..3 {
            Spi::run("SELECT jobq.claim()")?;
            Spi::run("UPDATE jobq._job SET lease_expires_at = lease_expires_at - interval '1 hour'")?;
            Spi::run("SELECT jobq.rescue_zombies()")?;
        }
        assert_text("SELECT state || crashes FROM jobq.jobs WHERE last_error LIKE '%poison%'", "failed3")
    }

    #[pg_test]
    fn a_unique_key_is_free_again_when_its_job_is_done() -> Outcome {
        Spi::run("SELECT jobq.enqueue('k', unique_key => 'x')")?;
        assert_text("SELECT (jobq.enqueue('k', unique_key => 'x') = (SELECT id FROM jobq._job))::text", "true")?;
        Spi::run("SELECT jobq.complete(id, lease) FROM jobq.claim()")?;
        assert_text("SELECT created::text FROM jobq.enqueue_jobs('[{\"kind\": \"k\", \"unique_key\": \"x\"}]')", "true")
    }

    #[pg_test]
    fn a_pending_key_is_free_again_at_the_claim() -> Outcome {
        let enqueue = "SELECT created::text FROM jobq.enqueue_jobs('[{\"kind\": \"k\", \"unique_key\": \"x\", \"options\": {\"unique_while\": \"pending\"}}]')";
        assert_text(enqueue, "true")?;
        assert_text(enqueue, "false")?;
        Spi::run("SELECT jobq.claim()")?;
        assert_text(enqueue, "true")
    }

    #[pg_test]
    fn an_error_inside_leaves_the_session_as_it_was() -> Outcome {
        Spi::run("SET LOCAL search_path = public")?;
        assert_sqlstate("SELECT jobq.enqueue('k', queue => 'nowhere')", "42704")?;
        assert_sqlstate("SELECT jobq.enqueue_jobs('[{\"kind\": \"k\", \"delay\": \"soon\"}]')", "22007")?;
        assert_text("SELECT current_setting('search_path') || current_setting('enable_seqscan')", "publicon")?;
        assert_text("SELECT (current_user = session_user)::text", "true")
    }

    #[pg_test]
    fn a_queue_is_made_paused_and_dropped() -> Outcome {
        Spi::run("SELECT jobq.create_queue('mail', max_depth => 2)")?;
        assert_sqlstate("SELECT jobq.create_queue('mail')", "42710")?;
        Spi::run("SELECT jobq.enqueue_many('k', '[{}, {}]', 'mail')")?;
        assert_sqlstate("SELECT jobq.enqueue('k', queue => 'mail')", "53400")?;
        Spi::run("SELECT jobq.pause('mail')")?;
        assert_text("SELECT count(*)::text FROM jobq.claim('mail')", "0")?;
        assert_sqlstate("SELECT jobq.drop_queue('mail')", "2BP01")?;
        assert_text("SELECT jobq.drop_queue('mail', force => true)::text", "2")?;
        assert_sqlstate("SELECT jobq.enqueue('k', queue => 'mail')", "42704")
    }

    #[pg_test]
    fn what_is_not_a_duration_is_refused() -> Outcome {
        for lease in ["0", "-1 s", "1 mon -30 days", "8 days", "178000000 years"] {
            assert_sqlstate(&format!("SELECT jobq.claim(lease_for => '{lease}')"), "22023")?;
        }
        Ok(())
    }

    #[pg_test]
    fn columns_are_where_they_are_written_to() -> Outcome {
        use crate::store::direct::{history, job, queue};
        for (table, spec) in [("_job", &job::SPEC), ("_history_00", &history::SPEC), ("_queue", &queue::SPEC)] {
            let names: Vec<&str> = spec.columns.iter().map(|column| column.name).collect();
            assert_text(
                &format!(
                    "SELECT string_agg(attname, ' ' ORDER BY attnum) FROM pg_attribute WHERE attrelid = 'jobq.{table}'::regclass AND attnum > 0"
                ),
                &names.join(" "),
            )?;
            assert_text(
                &format!(
                    "SELECT string_agg(conname, ' ' ORDER BY conname) FROM pg_constraint WHERE contype = 'c' AND conrelid = 'jobq.{table}'::regclass"
                ),
                &spec.checks.iter().map(|name| name.to_string_lossy()).collect::<Vec<_>>().join(" "),
            )?;
        }
        Ok(())
    }

    /// Everything that a transaction can leave to its end: more jobs than can be noted, made ready, scheduled, claimed and given back
    /// in subtransactions, in more queues than there are crowds for, bound leases, leases that end, cancellations.
    fn leave_much_to_the_end() -> Outcome {
        Spi::run(
            "SELECT jobq.create_queue('end' || n) FROM generate_series(1, 24) AS n;
             SELECT count(*) FROM generate_series(1, 24) AS n, jobq.claim('end' || n);
             SELECT jobq.enqueue('k', queue => 'end1', delay => '1 h') FROM generate_series(1, 40);
             SELECT count(*) FROM generate_series(1, 24) AS n,
                    jobq.enqueue_many('k', (SELECT jsonb_agg('{}'::jsonb) FROM generate_series(1, 30)), 'end' || n);
             CREATE TEMP TABLE held AS SELECT id, lease FROM jobq.claim('end1,end2,end3', 60, bind => 'session');
             SELECT count(*) FROM held, jobq.heartbeat_many(ARRAY[id], ARRAY[lease], lease_for => '1 h');
             SELECT jobq.complete(id, lease) FROM (SELECT * FROM held ORDER BY id LIMIT 20) AS h;
             SELECT jobq.cancel(id) FROM (SELECT * FROM held ORDER BY id DESC LIMIT 20) AS h;
             DO $$ BEGIN
                 FOR n IN 1..30 LOOP
                     BEGIN
                         PERFORM jobq.claim('end4', 3);
                         RAISE EXCEPTION 'undone';
                     EXCEPTION WHEN raise_exception THEN NULL;
                     END;
                 END LOOP;
             END $$;
             SELECT jobq.rescue_zombies('1 ms'), jobq.pause('end5'), jobq.resume('end5'), jobq.drop_queue('end6', true);",
        )
    }

    /// An ERROR after the commit is a PANIC of the server. Test builds abort when anything is allocated there (src/pg/quiet.rs).
    #[pg_test]
    fn the_end_of_a_transaction_allocates_nothing() -> Outcome {
        for event in [pgrx::pg_sys::XactEvent::XACT_EVENT_COMMIT, pgrx::pg_sys::XactEvent::XACT_EVENT_ABORT] {
            Spi::run(
                "DROP TABLE IF EXISTS held; SELECT count(jobq.drop_queue(name, true)) FROM jobq.queues WHERE name <> 'default'",
            )?;
            leave_much_to_the_end()?;
            crate::pg::xact::play(event);
        }
        Ok(())
    }

    #[pg_test]
    fn who_watches_memory_sees_what_is_taken() {
        use crate::pg::quiet::watch;
        assert_eq!(watch(|| ()), None);
        assert_eq!(watch(|| drop(std::hint::black_box(Box::new(1)))), Some("the heap"));
        // SAFETY: what is taken goes with its context.
        assert_eq!(watch(|| unsafe { _ = pgrx::pg_sys::palloc(8) }), Some("the server's memory"));
    }
}
