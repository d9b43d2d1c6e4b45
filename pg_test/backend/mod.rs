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
}
