//! jobq from sqlx: statements checked by the server, rows by `FromRow`, std's Duration as interval.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::{DateTime, Utc};
use jobq_clients::{Columns, Error, all_seen, client_role, database_url, eventually, judge, run, views};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use sqlx::postgres::{PgDatabaseError, PgPoolOptions, PgRow};
use sqlx::types::Json;
use sqlx::{Column, Decode, FromRow, PgPool, Postgres, Row, Type, TypeInfo, query, query_as, query_scalar};
use uuid::Uuid;

async fn connect() -> Result<PgPool, Error> {
    Ok(PgPoolOptions::new().max_connections(4).connect(&database_url()).await?)
}

#[derive(FromRow)]
struct Claimed {
    id: Uuid,
    lease: i64,
    attempt: i32,
    payload: Value,
    last_error: Option<String>,
}

#[derive(FromRow)]
struct Job {
    queue: String,
    state: String,
    priority: i32,
    payload: Value,
    result: Option<Value>,
    progress: Option<f64>,
    run_at: DateTime<Utc>,
    enqueued_at: DateTime<Utc>,
}

async fn job(db: &PgPool, id: Uuid) -> Result<Job, Error> {
    Ok(query_as("SELECT * FROM jobq.job($1)").bind(id).fetch_one(db).await?)
}

async fn enqueue(db: &PgPool, queue: Option<&str>) -> Result<Uuid, Error> {
    Ok(query_scalar("SELECT jobq.enqueue('send_email', $1, $2)").bind(json!({})).bind(queue).fetch_one(db).await?)
}

async fn claim(db: &PgPool, queue: Option<&str>) -> Result<Claimed, Error> {
    Ok(query_as("SELECT * FROM jobq.claim($1, worker => 'ada')").bind(queue).fetch_one(db).await?)
}

/// A job of its own, and held.
async fn claimed(db: &PgPool, queue: Option<&str>) -> Result<Claimed, Error> {
    enqueue(db, queue).await?;
    claim(db, queue).await
}

/// A call with a job's id and lease that answers with a text.
async fn finish(db: &PgPool, verb: &str, id: Uuid, lease: i64) -> Result<String, sqlx::Error> {
    query_scalar(&format!("SELECT jobq.{verb}($1, $2)")).bind(id).bind(lease).fetch_one(db).await
}

async fn answer<T>(db: &PgPool, sql: &str) -> Result<T, sqlx::Error>
where
    T: for<'r> Decode<'r, Postgres> + Type<Postgres> + Send + Unpin,
{
    query_scalar(sql).fetch_one(db).await
}

fn assert_refused<T>(outcome: Result<T, sqlx::Error>, sqlstate: &str) {
    let error = outcome.err().unwrap_or_else(|| panic!("not refused with {sqlstate}"));
    let code = error.as_database_error().and_then(|refusal| refusal.code());
    assert_eq!(code.as_deref(), Some(sqlstate), "{error}");
}

// Producers

async fn enqueue_with_a_json_payload_and_a_duration_as_delay(db: PgPool) -> Result<(), Error> {
    let payload = json!({"to": "ada@example.org"});
    let id: Uuid = query_scalar("SELECT jobq.enqueue('send_email', $1, delay => $2)")
        .bind(&payload)
        .bind(Duration::from_secs(90))
        .fetch_one(&db)
        .await?;
    let made = job(&db, id).await?;
    assert_eq!((made.payload, made.state.as_str()), (payload, "pending"));
    assert!(made.run_at > made.enqueued_at + chrono::Duration::seconds(80));
    Ok(())
}

async fn enqueue_with_every_option_null_by_position_and_every_option_by_name(db: PgPool) -> Result<(), Error> {
    let (text, int, at, document) = (None::<&str>, None::<i32>, None::<DateTime<Utc>>, None::<Value>);
    let span = None::<Duration>;
    let call = query_scalar("SELECT jobq.enqueue($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)");
    let call = call.bind("report").bind(json!([1])).bind(text).bind(int).bind(at).bind(span).bind(int).bind(span);
    let id: Uuid = call.bind(text).bind(&document).bind(&document).fetch_one(&db).await?;
    let made = job(&db, id).await?;
    assert_eq!((made.queue.as_str(), made.priority, made.payload), ("default", 2, json!([1])));
    let at: DateTime<Utc> = "2031-05-17T08:30:00Z".parse()?;
    let call = query_scalar("SELECT jobq.enqueue('report', priority => $1, run_at => $2, unique_key => $3, options => $4)");
    let id: Uuid = call.bind(1).bind(at).bind("daily").bind(json!({"unique_while": "pending"})).fetch_one(&db).await?;
    assert_eq!((job(&db, id).await?.run_at, job(&db, id).await?.priority), (at, 1));
    Ok(())
}

async fn a_payload_encoded_twice_is_refused_and_a_raw_one_comes_back_digit_for_digit(db: PgPool) -> Result<(), Error> {
    let twice = Value::String(json!({"a": 1}).to_string());
    assert_refused(query("SELECT jobq.enqueue('a', $1)").bind(twice).fetch_one(&db).await, "22023");
    let text = r#"{"n": 12345678901234567890.12345678901234567890}"#;
    let raw = RawValue::from_string(text.to_owned())?;
    query("SELECT jobq.enqueue('a', $1)").bind(Json(raw)).execute(&db).await?;
    let row = query("SELECT payload FROM jobq.claim()").fetch_one(&db).await?;
    assert_eq!(row.try_get::<Json<&RawValue>, _>(0)?.0.get(), text);
    Ok(())
}

async fn enqueue_many_keeps_array_payloads_whole_and_enqueue_jobs_mixes(db: PgPool) -> Result<(), Error> {
    for payloads in [json!([[1, 2], [3, 4]]), json!([{"n": 1}, {"n": 2}])] {
        let sql = "SELECT * FROM jobq.enqueue_many('resize', $1)";
        let rows: Vec<(Uuid, bool)> = query_as(sql).bind(&payloads).fetch_all(&db).await?;
        let mut kept = Vec::new();
        for (id, _) in rows {
            kept.push(job(&db, id).await?.payload);
        }
        assert_eq!(Value::from(kept), payloads);
    }
    let jobs = json!([{"kind": "sync", "unique_key": "k"}, {"kind": "report"}, {"kind": "sync", "unique_key": "k"}]);
    let created: Vec<bool> = query_scalar("SELECT created FROM jobq.enqueue_jobs($1)").bind(jobs).fetch_all(&db).await?;
    assert_eq!(created, [true, true, false]);
    Ok(())
}

async fn enqueue_is_part_of_the_callers_transaction(db: PgPool) -> Result<(), Error> {
    query("CREATE TABLE invoices (id int GENERATED ALWAYS AS IDENTITY, job_id uuid)").execute(&db).await?;
    let mut transaction = db.begin().await?;
    let send = query_scalar("SELECT jobq.enqueue('send_invoice', $1)").bind(json!({"total": 12}));
    let kept: Uuid = send.fetch_one(&mut *transaction).await?;
    query("INSERT INTO invoices (job_id) VALUES ($1)").bind(kept).execute(&mut *transaction).await?;
    transaction.commit().await?;

    let mut transaction = db.begin().await?;
    let lost: Uuid = query_scalar("SELECT jobq.enqueue('send_invoice')").fetch_one(&mut *transaction).await?;
    query("INSERT INTO invoices (job_id) VALUES ($1)").bind(lost).execute(&mut *transaction).await?;
    transaction.rollback().await?;

    for sql in ["SELECT job_id FROM invoices", "SELECT id FROM jobq.claim(batch => 10)"] {
        assert_eq!(query_scalar::<_, Uuid>(sql).fetch_all(&db).await?, [kept]);
    }
    assert!(query("SELECT * FROM jobq.job($1)").bind(lost).fetch_optional(&db).await?.is_none());
    Ok(())
}

// Workers

async fn claim_work_complete(db: PgPool) -> Result<(), Error> {
    query("SELECT jobq.enqueue('add', $1)").bind(json!({"a": 1, "b": 2})).execute(&db).await?;
    let sql = "SELECT * FROM jobq.claim(batch => $1, worker => $2)";
    let jobs: Vec<Claimed> = query_as(sql).bind(10).bind("ada").fetch_all(&db).await?;
    for Claimed { id, lease, payload, .. } in &jobs {
        let result = payload["a"].as_i64().zip(payload["b"].as_i64()).map(|(a, b)| a + b);
        query("SELECT jobq.complete($1, $2, $3)").bind(id).bind(lease).bind(json!({"sum": result})).execute(&db).await?;
    }
    let done = job(&db, jobs[0].id).await?;
    assert_eq!((done.state.as_str(), done.result), ("completed", Some(json!({"sum": 3}))));
    Ok(())
}

async fn claim_with_every_argument_null_by_position_over_several_queues_and_rolled_back(db: PgPool) -> Result<(), Error> {
    let id = enqueue(&db, None).await?;
    let mut transaction = db.begin().await?;
    assert_eq!(query("SELECT * FROM jobq.claim()").fetch_all(&mut *transaction).await?.len(), 1);
    transaction.rollback().await?;
    let text = None::<&str>;
    let call = query_as("SELECT * FROM jobq.claim($1, $2, $3, $4, $5, $6)").bind(text).bind(None::<i32>).bind(text);
    let held: Claimed = call.bind(None::<Duration>).bind(None::<Vec<String>>).bind(text).fetch_one(&db).await?;
    assert_eq!((held.id, held.attempt), (id, 1));
    answer::<bool>(&db, "SELECT jobq.create_queue('high')").await?;
    let (low, high) = (enqueue(&db, None).await?, enqueue(&db, Some("high")).await?);
    let call = query_scalar::<_, Uuid>("SELECT id FROM jobq.claim($1, $2, lease_for => $3, kinds => $4)");
    let call = call.bind("high,default").bind(2).bind(Duration::from_secs(60)).bind(vec!["send_email", "other"]);
    assert_eq!(call.fetch_all(&db).await?, [high, low]);
    Ok(())
}

async fn heartbeat_with_broken_progress_and_heartbeat_many(db: PgPool) -> Result<(), Error> {
    let held = claimed(&db, None).await?;
    for progress in [Some(50.5), None] {
        let call = query_scalar("SELECT jobq.heartbeat($1, $2, $3, $4, $5)").bind(held.id).bind(held.lease);
        let go_on: bool = call.bind(Duration::from_secs(540)).bind(progress).bind(None::<&str>).fetch_one(&db).await?;
        assert!(go_on);
    }
    assert_eq!(job(&db, held.id).await?.progress, Some(50.5));
    let call = query_as("SELECT held, cancel_requested FROM jobq.heartbeat_many($1, $2)");
    let rows: Vec<(bool, bool)> = call.bind(vec![held.id, Uuid::nil()]).bind(vec![held.lease, 1]).fetch_all(&db).await?;
    assert_eq!(rows, [(true, false), (false, false)]);
    Ok(())
}

async fn complete_many_with_a_result_for_each_and_on_stale(db: PgPool) -> Result<(), Error> {
    let jobs = [claimed(&db, None).await?, claimed(&db, None).await?, claimed(&db, None).await?];
    let ids: Vec<Uuid> = jobs.iter().map(|job| job.id).collect();
    let leases = vec![jobs[0].lease, jobs[1].lease, jobs[2].lease - 1];
    let results = json!([[[1, 2], [3, 4]], null, [3]]);
    let call = |on_stale: Option<&'static str>| {
        let sql = "SELECT completed FROM jobq.complete_many($1, $2, $3, $4)";
        query_scalar(sql).bind(ids.clone()).bind(leases.clone()).bind(results.clone()).bind(on_stale)
    };
    let refused: Result<Vec<bool>, _> = call(None).fetch_all(&db).await;
    assert_refused(refused, "JQ001");
    let completed: Vec<bool> = call(Some("skip")).fetch_all(&db).await?;
    assert_eq!(completed, [true, true, false]);
    assert_eq!(job(&db, ids[0]).await?.result, Some(json!([[1, 2], [3, 4]])));
    assert_eq!(job(&db, ids[1]).await?.result, None);
    Ok(())
}

async fn complete_and_claim_ends_a_job_and_brings_the_next_one(db: PgPool) -> Result<(), Error> {
    let (first, second) = (enqueue(&db, None).await?, enqueue(&db, None).await?);
    let call = |ids: Vec<Uuid>, leases: Vec<i64>, results: Option<Value>| {
        let text = None::<&str>;
        let call = query_as::<_, Claimed>("SELECT * FROM jobq.complete_and_claim($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)");
        let call = call.bind(ids).bind(leases).bind(results).bind(text).bind(None::<i32>).bind("ada");
        call.bind(None::<Duration>).bind(None::<Vec<String>>).bind(text).bind(text)
    };
    let held = call(vec![], vec![], None).fetch_one(&db).await?;
    assert_eq!(held.id, first);
    let next = call(vec![held.id], vec![held.lease], Some(json!([{"n": 7}]))).fetch_one(&db).await?;
    assert_eq!((next.id, next.payload, next.attempt, next.last_error), (second, json!({}), 1, None));
    assert_eq!(job(&db, first).await?.result, Some(json!({"n": 7})));
    assert_refused(call(vec![held.id], vec![held.lease], None).fetch_all(&db).await, "JQ002");
    assert!(call(vec![next.id], vec![next.lease], None).fetch_optional(&db).await?.is_none());
    assert_eq!(job(&db, second).await?.state, "completed");
    Ok(())
}

async fn claim_wait_gives_an_array_of_objects(db: PgPool) -> Result<(), Error> {
    let sent: Uuid = query_scalar("SELECT jobq.enqueue('add', $1)").bind(json!({"a": 1, "b": 2})).fetch_one(&db).await?;
    let call = query_scalar("CALL jobq.claim_wait(wait => $1, worker => $2)").bind(Duration::from_secs(20)).bind("ada");
    let jobs: Value = call.fetch_one(&db).await?;
    for job in jobs.as_array().into_iter().flatten() {
        let (id, lease) = (job["id"].as_str().unwrap_or_default().parse::<Uuid>()?, job["lease"].as_i64());
        let result = job["payload"]["a"].as_i64().zip(job["payload"]["b"].as_i64()).map(|(a, b)| a + b);
        query("SELECT jobq.complete($1, $2, $3)").bind(id).bind(lease).bind(json!({"sum": result})).execute(&db).await?;
    }
    assert_eq!((jobs[0]["id"].as_str(), jobs[0]["attempt"].as_i64()), (Some(sent.to_string().as_str()), Some(1)));
    assert!(jobs[0]["lease"].as_i64().is_some_and(|lease| (1..1 << 53).contains(&lease)), "{jobs}");
    let done = job(&db, sent).await?;
    assert_eq!((done.state.as_str(), done.result), ("completed", Some(json!({"sum": 3}))));
    Ok(())
}

async fn claim_wait_waits_for_a_job_of_another_connection_or_until_the_time_is_over(db: PgPool) -> Result<(), Error> {
    let call = |wait: Duration| {
        let (text, minute) = (None::<&str>, Duration::from_secs(60));
        let call = query_scalar::<_, Value>("CALL jobq.claim_wait($1, $2, $3, $4, $5, $6, $7, $8)").bind(text).bind(None::<i32>);
        call.bind(wait).bind("ada").bind(minute).bind(vec!["send_email"]).bind(text).bind(None::<Value>)
    };
    let (jobs, sent) = tokio::join!(call(Duration::from_secs(3600)).fetch_one(&db), enqueue(&db, None));
    let (jobs, sent) = (jobs?, sent?);
    assert_eq!((jobs[0]["id"].as_str(), &jobs[0]["payload"]), (Some(sent.to_string().as_str()), &json!({})));
    assert_eq!(call(Duration::from_millis(1)).fetch_one(&db).await?, json!([]));
    Ok(())
}

async fn claim_wait_inside_a_transaction_is_25001_and_outside_an_hours_wait_is_over_at_once_when_there_is_a_job(
    db: PgPool,
) -> Result<(), Error> {
    let id = enqueue(&db, None).await?;
    let mut transaction = db.begin().await?;
    assert_refused(query("CALL jobq.claim_wait()").fetch_one(&mut *transaction).await, "25001");
    transaction.rollback().await?;
    let jobs: Value = answer(&db, "CALL jobq.claim_wait(wait => '1 hour')").await?;
    assert_eq!((jobs[0]["id"].as_str(), jobs[0]["attempt"].as_i64()), (Some(id.to_string().as_str()), Some(1)));
    Ok(())
}

async fn fail_release_cancel(db: PgPool) -> Result<(), Error> {
    let held = claimed(&db, None).await?;
    let call = query_scalar("SELECT jobq.fail($1, $2, $3, $4)").bind(held.id).bind(held.lease);
    let state: String = call.bind("no route").bind(Duration::ZERO).fetch_one(&db).await?;
    assert_eq!(state, "pending");
    let held = claim(&db, None).await?;
    assert_eq!((held.attempt, held.last_error.as_deref()), (2, Some("no route")));
    assert_eq!(finish(&db, "release", held.id, held.lease).await?, "pending");
    let held = claim(&db, None).await?;
    let call = query_scalar::<_, String>("SELECT jobq.fail($1, $2, retry => $3)").bind(held.id).bind(held.lease).bind(false);
    assert_eq!(call.fetch_one(&db).await?, "failed");
    let held = claimed(&db, None).await?;
    let state: String = query_scalar("SELECT jobq.cancel($1)").bind(held.id).fetch_one(&db).await?;
    assert_eq!(state, "running");
    let call = query_scalar::<_, bool>("SELECT jobq.heartbeat($1, $2)").bind(held.id).bind(held.lease);
    assert!(!call.fetch_one(&db).await?);
    assert_eq!(finish(&db, "fail", held.id, held.lease).await?, "cancelled");
    Ok(())
}

async fn a_lost_lease_is_jq001_a_repeated_complete_is_jq002(db: PgPool) -> Result<(), Error> {
    let first = claimed(&db, None).await?;
    eventually(async || {
        answer::<i32>(&db, "SELECT jobq.rescue_zombies(older_than => '1 ms')").await?;
        Ok(job(&db, first.id).await?.state == "pending")
    })
    .await?;
    let second: Claimed = query_as("SELECT * FROM jobq.claim(worker => 'second')").fetch_one(&db).await?;
    let mut transaction = db.begin().await?;
    query("CREATE TABLE effects ()").execute(&mut *transaction).await?;
    let complete = query("SELECT jobq.complete($1, $2)").bind(first.id).bind(first.lease);
    let error = complete.execute(&mut *transaction).await.expect_err("the lease is lost");
    transaction.rollback().await?;
    let refusal = error.as_database_error().ok_or("not the server's error")?.downcast_ref::<PgDatabaseError>();
    assert_eq!(refusal.code(), "JQ001");
    assert!(refusal.detail().is_some_and(|detail| detail.contains("second")), "{refusal:?}");
    assert!(!format!("{refusal:?}").contains(&second.lease.to_string()), "the lease is secret");
    assert_eq!(finish(&db, "complete", second.id, second.lease).await?, "completed");
    for verb in ["complete", "fail", "release"] {
        assert_refused(finish(&db, verb, second.id, second.lease).await, "JQ002");
    }
    assert_refused(query("SELECT jobq.cancel($1)").bind(Uuid::nil()).execute(&db).await, "JQ003");
    assert_refused(query("SELECT jobq.retry($1)").bind(second.id).execute(&db).await, "JQ004");
    Ok(())
}

async fn a_lease_survives_json(db: PgPool) -> Result<(), Error> {
    enqueue(&db, None).await?;
    let rows: Value = answer(&db, "SELECT jsonb_agg(c) FROM jobq.claim() AS c").await?;
    let id: Uuid = rows[0]["id"].as_str().ok_or("no id")?.parse()?;
    // A reader that knows only floats, as JavaScript does.
    let lease = rows[0]["lease"].as_f64().ok_or("no lease")?;
    assert!(lease < 9_007_199_254_740_992.0);
    assert_eq!(finish(&db, "complete", id, lease as i64).await?, "completed");
    Ok(())
}

async fn four_workers_on_a_pool_each_call_on_whichever_connection_is_free(db: PgPool) -> Result<(), Error> {
    answer::<bool>(&db, "SELECT jobq.create_queue('pool')").await?;
    let payloads: Vec<Value> = (0..100).map(|n| json!({"n": n})).collect();
    query("SELECT * FROM jobq.enqueue_many('add', $1, 'pool')").bind(Value::from(payloads)).execute(&db).await?;
    let done = Arc::new(Mutex::new(BTreeSet::new()));
    let workers = (0..4).map(|n| {
        let (db, done) = (db.clone(), Arc::clone(&done));
        tokio::spawn(async move {
            let claim = "SELECT * FROM jobq.claim('pool', worker => $1)";
            while let Some(held) = query_as::<_, Claimed>(claim).bind(format!("worker-{n}")).fetch_optional(&db).await? {
                finish(&db, "complete", held.id, held.lease).await?;
                assert!(done.lock().unwrap().insert(held.payload["n"].as_i64()), "done twice");
            }
            Ok::<(), sqlx::Error>(())
        })
    });
    for worker in workers.collect::<Vec<_>>() {
        worker.await??;
    }
    assert_eq!(done.lock().unwrap().len(), 100);
    Ok(())
}

// Operators

async fn reschedule_retry_retry_failed_delete_purge(db: PgPool) -> Result<(), Error> {
    let id = enqueue(&db, None).await?;
    let later = Utc::now() + chrono::Duration::hours(1);
    let call = query_scalar::<_, String>("SELECT jobq.reschedule($1, $2, $3, $4)").bind(id).bind(later).bind(1).bind(None::<i32>);
    assert_eq!(call.fetch_one(&db).await?, "pending");
    for (verb, state) in [("cancel", "cancelled"), ("retry", "pending")] {
        let call = format!("SELECT jobq.{verb}($1)");
        assert_eq!(query_scalar::<_, String>(&call).bind(id).fetch_one(&db).await?, state);
    }
    for deleted in [true, false] {
        assert_eq!(query_scalar::<_, bool>("SELECT jobq.delete($1)").bind(id).fetch_one(&db).await?, deleted);
    }
    answer::<bool>(&db, "SELECT jobq.create_queue('bin', max_attempts => 1)").await?;
    for retried in [true, false] {
        let held = claimed(&db, Some("bin")).await?;
        assert_eq!(finish(&db, "fail", held.id, held.lease).await?, "failed");
        if retried {
            let call =
                query_scalar::<_, i32>("SELECT jobq.retry_failed($1, $2, $3)").bind("bin").bind(None::<&str>).bind(None::<i32>);
            assert_eq!(call.fetch_one(&db).await?, 1);
            query("SELECT jobq.cancel($1)").bind(held.id).execute(&db).await?;
        }
    }
    let purge = |older_than: Option<Duration>| {
        let sql = "SELECT jobq.purge($1, $2, $3, $4)";
        query_scalar::<_, i64>(sql).bind("bin").bind("failed").bind(older_than).bind(None::<i32>)
    };
    assert_refused(purge(None).fetch_one(&db).await, "22004");
    assert_eq!(purge(Some(Duration::ZERO)).fetch_one(&db).await?, 1);
    Ok(())
}

async fn queues_are_created_altered_paused_resumed_dropped(db: PgPool) -> Result<(), Error> {
    let call = query_scalar::<_, bool>("SELECT jobq.create_queue($1, lease_for => $2, backoff => $3, max_depth => $4)");
    let call = call.bind("press").bind(Duration::from_secs(60)).bind(json!({"kind": "constant", "base": "10s"})).bind(1_i64);
    assert!(call.fetch_one(&db).await?);
    let seconds: f64 = query_scalar("SELECT lease_seconds FROM jobq.queues WHERE name = $1").bind("press").fetch_one(&db).await?;
    assert_eq!(seconds, 60.0);
    for changed in [true, false] {
        let call = query_scalar::<_, bool>("SELECT jobq.alter_queue('press', keep_completed => $1)").bind(false);
        assert_eq!(call.fetch_one(&db).await?, changed);
    }
    assert!(answer::<bool>(&db, "SELECT jobq.pause('press')").await?);
    assert!(answer::<bool>(&db, "SELECT jobq.resume('press')").await?);
    enqueue(&db, Some("press")).await?;
    assert_refused(answer::<Uuid>(&db, "SELECT jobq.enqueue('a', queue => 'press')").await, "53400");
    assert_refused(answer::<i64>(&db, "SELECT jobq.drop_queue('press')").await, "2BP01");
    let dropped: i64 = query_scalar("SELECT jobq.drop_queue('press', $1)").bind(true).fetch_one(&db).await?;
    assert_eq!(dropped, 1);
    assert_refused(answer::<bool>(&db, "SELECT jobq.pause('press')").await, "42704");
    Ok(())
}

async fn grant_access_tick_resume_after_restore(db: PgPool) -> Result<(), Error> {
    for verb in ["grant", "revoke"] {
        let sql = format!("SELECT jobq.{verb}_access($1::text::regrole, $2)");
        let changed: bool = query_scalar(&sql).bind(client_role()).bind("worker").fetch_one(&db).await?;
        assert!(changed);
    }
    assert!(answer::<i32>(&db, "SELECT jobq.tick()").await? >= 0);
    assert!(!answer::<bool>(&db, "SELECT jobq.resume_after_restore()").await?);
    Ok(())
}

// Looking

async fn where_state_equals_a_str_and_state_is_read_as_string(db: PgPool) -> Result<(), Error> {
    let (older, newer) = (enqueue(&db, None).await?, enqueue(&db, None).await?);
    let sql = "SELECT id, state FROM jobq.jobs WHERE state = $1 ORDER BY id DESC";
    let found: Vec<(Uuid, String)> = query_as(sql).bind("pending").fetch_all(&db).await?;
    assert_eq!(found, [(newer, "pending".to_owned()), (older, "pending".to_owned())]);
    assert_eq!(query("SELECT * FROM jobq.stats($1)").bind("default").fetch_all(&db).await?.len(), 1);
    assert!(!answer::<String>(&db, "SELECT jobq.version()").await?.is_empty());
    assert!(!answer::<String>(&db, "SELECT jobq.why('00000000-0000-0000-0000-000000000000')").await?.is_empty());
    Ok(())
}

/// Decodes every column with the one Rust type for its SQL type.
fn decoded(row: &PgRow) -> Columns {
    fn is_there<'r, T: Decode<'r, Postgres> + Type<Postgres>>(row: &'r PgRow, at: usize) -> bool {
        row.get::<Option<T>, _>(at).is_some()
    }
    let read = |column: &sqlx::postgres::PgColumn| {
        let at = column.ordinal();
        let got = match column.type_info().name() {
            "UUID" => ("uuid", is_there::<Uuid>(row, at)),
            "TEXT" => ("text", is_there::<String>(row, at)),
            "BOOL" => ("boolean", is_there::<bool>(row, at)),
            "INT4" => ("integer", is_there::<i32>(row, at)),
            "INT8" => ("bigint", is_there::<i64>(row, at)),
            "FLOAT8" => ("double precision", is_there::<f64>(row, at)),
            "TIMESTAMPTZ" => ("timestamp with time zone", is_there::<DateTime<Utc>>(row, at)),
            "JSONB" => ("jsonb", is_there::<Value>(row, at)),
            other => panic!("{} arrives as {other}", column.name()),
        };
        (column.name().to_owned(), got)
    };
    row.columns().iter().map(read).collect()
}

async fn every_column_of_every_row_is_decoded(db: PgPool) -> Result<(), Error> {
    async fn read(db: &PgPool, row_type: &str, sql: &str) -> Result<Vec<PgRow>, Error> {
        let rows = query(sql).fetch_all(db).await?;
        rows.iter().for_each(|row| judge(row_type, &decoded(row)));
        Ok(rows)
    }
    let claim = "SELECT * FROM jobq.claim('all', worker => 'ada')";
    answer::<bool>(&db, "SELECT jobq.create_queue('all', timeout => '1 h', max_depth => 50)").await?;
    let one =
        json!({"kind": "all", "queue": "all", "payload": {"n": 1}, "headers": {"h": 1}, "unique_key": "k", "max_attempts": 2});
    read(&db, "enqueued_job", &format!("SELECT * FROM jobq.enqueue_jobs('[{one}]')")).await?;
    read(&db, "enqueued_job", "SELECT * FROM jobq.enqueue_many('all', '[[1],[2]]', queue => 'all')").await?;
    let held = Claimed::from_row(&read(&db, "claimed_job", claim).await?[0])?;
    let fail = "SELECT jobq.fail($1, $2, 'once', '0 s')";
    query(fail).bind(held.id).bind(held.lease).execute(&db).await?;
    query("SELECT jobq.reschedule($1, priority => 1)").bind(held.id).execute(&db).await?;
    let held = Claimed::from_row(&read(&db, "claimed_job", claim).await?[0])?;
    let beat = "SELECT jobq.heartbeat($1, $2, progress => 12.5, note => 'on it')";
    query(beat).bind(held.id).bind(held.lease).execute(&db).await?;
    let (id, lease) = (held.id, held.lease);
    read(&db, "held_job", &format!("SELECT * FROM jobq.heartbeat_many('{{{id}}}', '{{{lease}}}')")).await?;
    read(&db, "jobs", &format!("SELECT * FROM jobq.job('{id}')")).await?;
    read(&db, "queue_stats", "SELECT * FROM jobq.stats()").await?;
    for view in views() {
        read(&db, &view, &format!("SELECT * FROM jobq.{view}")).await?;
    }
    read(&db, "finished_job", &format!("SELECT * FROM jobq.complete_many('{{{id}}}', '{{{lease}}}', '[[1]]')")).await?;
    read(&db, "jobs", &format!("SELECT * FROM jobq.job('{id}')")).await?;
    read(&db, "check_result", "SELECT * FROM jobq.diagnose()").await?;
    all_seen(&["check_result.hint"]);
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    run!(connect;
        enqueue_with_a_json_payload_and_a_duration_as_delay,
        enqueue_with_every_option_null_by_position_and_every_option_by_name,
        a_payload_encoded_twice_is_refused_and_a_raw_one_comes_back_digit_for_digit,
        enqueue_many_keeps_array_payloads_whole_and_enqueue_jobs_mixes,
        enqueue_is_part_of_the_callers_transaction,
        claim_work_complete,
        claim_with_every_argument_null_by_position_over_several_queues_and_rolled_back,
        heartbeat_with_broken_progress_and_heartbeat_many,
        complete_many_with_a_result_for_each_and_on_stale,
        complete_and_claim_ends_a_job_and_brings_the_next_one,
        claim_wait_gives_an_array_of_objects,
        claim_wait_waits_for_a_job_of_another_connection_or_until_the_time_is_over,
        claim_wait_inside_a_transaction_is_25001_and_outside_an_hours_wait_is_over_at_once_when_there_is_a_job,
        fail_release_cancel,
        a_lost_lease_is_jq001_a_repeated_complete_is_jq002,
        a_lease_survives_json,
        four_workers_on_a_pool_each_call_on_whichever_connection_is_free,
        reschedule_retry_retry_failed_delete_purge,
        queues_are_created_altered_paused_resumed_dropped,
        grant_access_tick_resume_after_restore,
        where_state_equals_a_str_and_state_is_read_as_string,
        every_column_of_every_row_is_decoded,
    )
}
