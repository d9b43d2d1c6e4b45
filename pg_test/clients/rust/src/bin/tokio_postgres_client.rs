//! jobq from tokio-postgres. The driver has no type for interval: such arguments are text, `$1::text::interval`.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use chrono::{DateTime, Duration, Utc};
use jobq_clients::{Columns, Error, all_seen, client_role, database_url, eventually, judge, run, views};
use serde_json::{Value, json};
use tokio_postgres::types::{FromSql, ToSql, Type};
use tokio_postgres::{Client, NoTls, Row};
use uuid::Uuid;

type Parameters<'a> = &'a [&'a (dyn ToSql + Sync)];

async fn connect() -> Result<Client, Error> {
    let (client, connection) = tokio_postgres::connect(&database_url(), NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// A claimed job, as far as these checks look at it.
#[derive(Clone, Debug)]
struct Held {
    id: Uuid,
    lease: i64,
    attempt: i32,
    payload: Value,
    last_error: Option<String>,
}

impl From<Row> for Held {
    fn from(row: Row) -> Self {
        Held {
            id: row.get("id"),
            lease: row.get("lease"),
            attempt: row.get("attempt"),
            payload: row.get("payload"),
            last_error: row.get("last_error"),
        }
    }
}

async fn value<T: for<'a> FromSql<'a>>(db: &Client, sql: &str, parameters: Parameters<'_>) -> Result<T, tokio_postgres::Error> {
    db.query_one(sql, parameters).await?.try_get(0)
}

async fn enqueue(db: &Client, queue: Option<&str>) -> Result<Uuid, Error> {
    Ok(value(db, "SELECT jobq.enqueue('send_email', $1, $2)", &[&json!({}), &queue]).await?)
}

async fn claim(db: &Client, queue: Option<&str>) -> Result<Held, Error> {
    Ok(db.query_one("SELECT * FROM jobq.claim($1, worker => 'ada')", &[&queue]).await?.into())
}

/// A job of its own, and held.
async fn claimed(db: &Client, queue: Option<&str>) -> Result<Held, Error> {
    enqueue(db, queue).await?;
    claim(db, queue).await
}

async fn column<T: for<'a> FromSql<'a>>(db: &Client, id: Uuid, name: &str) -> Result<T, Error> {
    Ok(db.query_one("SELECT * FROM jobq.job($1)", &[&id]).await?.try_get(name)?)
}

fn assert_refused<T>(outcome: Result<T, tokio_postgres::Error>, sqlstate: &str) {
    let error = outcome.err().unwrap_or_else(|| panic!("not refused with {sqlstate}"));
    assert_eq!(error.code().map(|code| code.code()), Some(sqlstate), "{error:?}");
}

// Producers

async fn enqueue_with_a_json_payload_and_an_interval_as_text(db: Client) -> Result<(), Error> {
    let payload = json!({"to": "ada@example.org"});
    let sql = "SELECT jobq.enqueue('send_email', $1, delay => $2::text::interval)";
    let id: Uuid = db.query_one(sql, &[&payload, &"90 s"]).await?.get(0);
    assert_eq!(id.get_version_num(), 7);
    assert_eq!(column::<Value>(&db, id, "payload").await?, payload);
    let (run_at, enqueued_at): (DateTime<Utc>, DateTime<Utc>) =
        (column(&db, id, "run_at").await?, column(&db, id, "enqueued_at").await?);
    assert!(run_at > enqueued_at + Duration::seconds(80));
    Ok(())
}

async fn enqueue_with_every_option_null_by_position_and_every_option_by_name(db: Client) -> Result<(), Error> {
    let (text, int, at, document) = (None::<&str>, None::<i32>, None::<DateTime<Utc>>, None::<Value>);
    let sql = "SELECT jobq.enqueue($1, $2, $3, $4, $5, $6::text::interval, $7, $8::text::interval, $9, $10, $11)";
    let id: Uuid =
        value(&db, sql, &[&"report", &json!([1]), &text, &int, &at, &text, &int, &text, &text, &document, &document]).await?;
    assert_eq!((column::<String>(&db, id, "queue").await?, column::<i32>(&db, id, "priority").await?), ("default".into(), 2));
    let at: DateTime<Utc> = "2031-05-17T08:30:00Z".parse()?;
    let id: Uuid = value(
        &db,
        "SELECT jobq.enqueue('report', queue => $1, priority => $2, run_at => $3, max_attempts => $4, unique_key => $5,
                             headers => $6, options => $7)",
        &[&"default", &1_i32, &at, &5_i32, &"daily", &json!({"trace": "4bf9"}), &json!({"unique_while": "pending"})],
    )
    .await?;
    assert_eq!(column::<DateTime<Utc>>(&db, id, "run_at").await?, at);
    assert_eq!(column::<Value>(&db, id, "headers").await?, json!({"trace": "4bf9"}));
    Ok(())
}

async fn a_payload_encoded_twice_is_refused(db: Client) -> Result<(), Error> {
    let twice = Value::String(json!({"a": 1}).to_string());
    assert_refused(db.query_one("SELECT jobq.enqueue('a', $1)", &[&twice]).await, "22023");
    assert_refused(db.query_one("SELECT jobq.enqueue('a', $1)", &[&None::<Value>]).await, "22004");
    Ok(())
}

async fn enqueue_many_keeps_array_payloads_whole_and_enqueue_jobs_mixes(db: Client) -> Result<(), Error> {
    for payloads in [json!([[1, 2], [3, 4]]), json!([{"n": 1}, {"n": 2}])] {
        let rows = db.query("SELECT * FROM jobq.enqueue_many('resize', $1)", &[&payloads]).await?;
        let mut kept = Vec::new();
        for row in &rows {
            assert!(row.get::<_, bool>("created"));
            kept.push(column::<Value>(&db, row.get("id"), "payload").await?);
        }
        assert_eq!(Value::from(kept), payloads);
    }
    let jobs = json!([{"kind": "sync", "unique_key": "k"}, {"kind": "report"}, {"kind": "sync", "unique_key": "k"}]);
    let rows = db.query("SELECT * FROM jobq.enqueue_jobs($1)", &[&jobs]).await?;
    assert_eq!(rows.iter().map(|row| row.get("created")).collect::<Vec<bool>>(), [true, true, false]);
    Ok(())
}

async fn enqueue_is_part_of_the_callers_transaction(mut db: Client) -> Result<(), Error> {
    db.batch_execute("CREATE TABLE invoices (id int GENERATED ALWAYS AS IDENTITY, job_id uuid)").await?;
    let sql = "SELECT jobq.enqueue('send_invoice', $1)";
    let transaction = db.transaction().await?;
    let lost: Uuid = transaction.query_one(sql, &[&json!({"total": 13})]).await?.get(0);
    transaction.execute("INSERT INTO invoices (job_id) VALUES ($1)", &[&lost]).await?;
    transaction.rollback().await?;
    let transaction = db.transaction().await?;
    let kept: Uuid = transaction.query_one(sql, &[&json!({"total": 12})]).await?.get(0);
    transaction.execute("INSERT INTO invoices (job_id) VALUES ($1)", &[&kept]).await?;
    transaction.commit().await?;
    assert!(db.query_opt("SELECT * FROM jobq.job($1)", &[&lost]).await?.is_none());
    assert_eq!(value::<i64>(&db, "SELECT count(*) FROM invoices", &[]).await?, 1);
    let rows = db.query("SELECT id FROM jobq.claim(batch => 10)", &[]).await?;
    assert_eq!(rows.iter().map(|row| row.get("id")).collect::<Vec<Uuid>>(), [kept]);
    Ok(())
}

// Workers

async fn claim_work_complete(db: Client) -> Result<(), Error> {
    db.execute("SELECT jobq.enqueue('add', $1)", &[&json!({"a": 1, "b": 2})]).await?;
    let jobs = db.query("SELECT * FROM jobq.claim(batch => $1, worker => $2)", &[&10_i32, &"ada"]).await?;
    for job in &jobs {
        let (id, lease, payload): (Uuid, i64, Value) = (job.get("id"), job.get("lease"), job.get("payload"));
        let result = payload["a"].as_i64().zip(payload["b"].as_i64()).map(|(a, b)| a + b);
        db.execute("SELECT jobq.complete($1, $2, $3)", &[&id, &lease, &json!({"sum": result})]).await?;
    }
    assert_eq!(column::<Value>(&db, jobs[0].get("id"), "result").await?, json!({"sum": 3}));
    assert_eq!(column::<String>(&db, jobs[0].get("id"), "state").await?, "completed");
    Ok(())
}

async fn claim_with_every_argument_null_by_position_over_several_queues_and_rolled_back(mut db: Client) -> Result<(), Error> {
    let id = enqueue(&db, None).await?;
    let transaction = db.transaction().await?;
    assert_eq!(transaction.query("SELECT * FROM jobq.claim()", &[]).await?.len(), 1);
    transaction.rollback().await?;
    let text = None::<&str>;
    let every = "SELECT * FROM jobq.claim($1, $2, $3, $4::text::interval, $5, $6)";
    let held = Held::from(db.query_one(every, &[&text, &None::<i32>, &text, &text, &None::<Vec<String>>, &text]).await?);
    assert_eq!((held.id, held.attempt), (id, 1));
    value::<bool>(&db, "SELECT jobq.create_queue('high')", &[]).await?;
    let (low, high) = (enqueue(&db, None).await?, enqueue(&db, Some("high")).await?);
    let rows = db
        .query("SELECT * FROM jobq.claim($1, $2, kinds => $3)", &[&"high,default", &2_i32, &vec!["send_email", "other"]])
        .await?;
    assert_eq!(rows.iter().map(|row| row.get("id")).collect::<Vec<Uuid>>(), [high, low]);
    Ok(())
}

async fn heartbeat_with_broken_progress_and_heartbeat_many(db: Client) -> Result<(), Error> {
    let held = claimed(&db, None).await?;
    let sql = "SELECT jobq.heartbeat($1, $2, $3::text::interval, $4, $5)";
    for progress in [Some(50.5_f64), None] {
        assert!(value::<bool>(&db, sql, &[&held.id, &held.lease, &Some("9 min"), &progress, &None::<&str>]).await?);
    }
    assert_eq!(column::<f64>(&db, held.id, "progress").await?, 50.5);
    let (ids, leases) = (vec![held.id, Uuid::nil()], vec![held.lease, 1]);
    let rows = db.query("SELECT * FROM jobq.heartbeat_many($1, $2)", &[&ids, &leases]).await?;
    let got: Vec<(bool, bool)> = rows.iter().map(|row| (row.get("held"), row.get("cancel_requested"))).collect();
    assert_eq!(got, [(true, false), (false, false)]);
    Ok(())
}

async fn complete_many_with_a_result_for_each_and_on_stale(db: Client) -> Result<(), Error> {
    let jobs = [claimed(&db, None).await?, claimed(&db, None).await?, claimed(&db, None).await?];
    let ids: Vec<Uuid> = jobs.iter().map(|job| job.id).collect();
    let leases = vec![jobs[0].lease, jobs[1].lease, jobs[2].lease - 1];
    let results = json!([[[1, 2], [3, 4]], null, [3]]);
    let sql = "SELECT * FROM jobq.complete_many($1, $2, $3, $4)";
    assert_refused(db.query(sql, &[&ids, &leases, &results, &None::<&str>]).await, "JQ001");
    let rows = db.query(sql, &[&ids, &leases, &results, &Some("skip")]).await?;
    assert_eq!(rows.iter().map(|row| row.get("completed")).collect::<Vec<bool>>(), [true, true, false]);
    assert_eq!(column::<Option<Value>>(&db, ids[0], "result").await?, Some(json!([[1, 2], [3, 4]])));
    assert_eq!(column::<Option<Value>>(&db, ids[1], "result").await?, None);
    Ok(())
}

async fn complete_and_claim_ends_a_job_and_brings_the_next_one(db: Client) -> Result<(), Error> {
    let (first, second) = (enqueue(&db, None).await?, enqueue(&db, None).await?);
    let sql = "SELECT * FROM jobq.complete_and_claim($1, $2, $3, $4, $5, $6, $7::text::interval, $8, $9, $10)";
    let call = async |ids: &[Uuid], leases: &[i64], results: Option<Value>| -> Result<Vec<Row>, tokio_postgres::Error> {
        let (text, batch, kinds) = (None::<&str>, None::<i32>, None::<Vec<String>>);
        db.query(sql, &[&ids, &leases, &results, &text, &batch, &Some("ada"), &text, &kinds, &text, &text]).await
    };
    let held = Held::from(call(&[], &[], None).await?.remove(0));
    assert_eq!(held.id, first);
    let next = Held::from(call(&[held.id], &[held.lease], Some(json!([{"n": 7}]))).await?.remove(0));
    assert_eq!((next.id, next.payload, next.attempt, next.last_error), (second, json!({}), 1, None));
    assert_eq!(column::<Value>(&db, first, "result").await?, json!({"n": 7}));
    assert_refused(call(&[held.id], &[held.lease], None).await, "JQ002");
    assert!(call(&[next.id], &[next.lease], None).await?.is_empty());
    assert_eq!(column::<String>(&db, second, "state").await?, "completed");
    Ok(())
}

async fn claim_wait_gives_an_array_of_objects(db: Client) -> Result<(), Error> {
    let sent: Uuid = value(&db, "SELECT jobq.enqueue('add', $1)", &[&json!({"a": 1, "b": 2})]).await?;
    let sql = "CALL jobq.claim_wait(wait => $1::text::interval, worker => $2)";
    let jobs: Value = db.query_one(sql, &[&"20 s", &"ada"]).await?.get("jobs");
    for job in jobs.as_array().into_iter().flatten() {
        let (id, lease) = (job["id"].as_str().unwrap_or_default().parse::<Uuid>()?, job["lease"].as_i64());
        let result = job["payload"]["a"].as_i64().zip(job["payload"]["b"].as_i64()).map(|(a, b)| a + b);
        db.execute("SELECT jobq.complete($1, $2, $3)", &[&id, &lease, &json!({"sum": result})]).await?;
    }
    assert_eq!((jobs[0]["id"].as_str(), jobs[0]["attempt"].as_i64()), (Some(sent.to_string().as_str()), Some(1)));
    assert!(jobs[0]["lease"].as_i64().is_some_and(|lease| (1..1 << 53).contains(&lease)), "{jobs}");
    assert_eq!(column::<String>(&db, sent, "state").await?, "completed");
    assert_eq!(column::<Value>(&db, sent, "result").await?, json!({"sum": 3}));
    Ok(())
}

async fn claim_wait_waits_for_a_job_of_another_connection_or_until_the_time_is_over(db: Client) -> Result<(), Error> {
    let sql = "CALL jobq.claim_wait($1, $2, $3::text::interval, $4, $5::text::interval, $6, $7, $8)";
    let call = async |wait: &str| -> Result<Value, tokio_postgres::Error> {
        let (text, batch, jobs, kinds) = (None::<&str>, None::<i32>, None::<Value>, vec!["send_email"]);
        value(&db, sql, &[&text, &batch, &wait, &Some("ada"), &Some("1 min"), &kinds, &text, &jobs]).await
    };
    let another = connect().await?;
    let (jobs, sent) = tokio::join!(call("1 hour"), enqueue(&another, None));
    let (jobs, sent) = (jobs?, sent?);
    assert_eq!((jobs[0]["id"].as_str(), &jobs[0]["payload"]), (Some(sent.to_string().as_str()), &json!({})));
    assert_eq!(call("1 ms").await?, json!([]));
    Ok(())
}

async fn claim_wait_inside_a_transaction_is_25001_and_outside_an_hours_wait_is_over_at_once_when_there_is_a_job(
    mut db: Client,
) -> Result<(), Error> {
    let id = enqueue(&db, None).await?;
    let transaction = db.transaction().await?;
    assert_refused(transaction.query_one("CALL jobq.claim_wait()", &[]).await, "25001");
    transaction.rollback().await?;
    let jobs: Value = value(&db, "CALL jobq.claim_wait(wait => '1 hour')", &[]).await?;
    assert_eq!((jobs[0]["id"].as_str(), jobs[0]["attempt"].as_i64()), (Some(id.to_string().as_str()), Some(1)));
    Ok(())
}

async fn fail_release_cancel(db: Client) -> Result<(), Error> {
    let held = claimed(&db, None).await?;
    let fail = "SELECT jobq.fail($1, $2, $3, $4::text::interval, $5)";
    let (again, no_more) = (None::<bool>, Some(false));
    let state: String = value(&db, fail, &[&held.id, &held.lease, &Some("no route"), &Some("0 s"), &again]).await?;
    assert_eq!(state, "pending");
    let held = claim(&db, None).await?;
    assert_eq!((held.attempt, held.last_error.as_deref()), (2, Some("no route")));
    let release = "SELECT jobq.release($1, $2, $3::text::interval)";
    assert_eq!(value::<String>(&db, release, &[&held.id, &held.lease, &None::<&str>]).await?, "pending");
    let held = claim(&db, None).await?;
    let state: String = value(&db, fail, &[&held.id, &held.lease, &None::<&str>, &None::<&str>, &no_more]).await?;
    assert_eq!(state, "failed");
    let held = claimed(&db, None).await?;
    assert_eq!(value::<String>(&db, "SELECT jobq.cancel($1)", &[&held.id]).await?, "running");
    assert!(!value::<bool>(&db, "SELECT jobq.heartbeat($1, $2)", &[&held.id, &held.lease]).await?);
    assert_eq!(value::<String>(&db, "SELECT jobq.fail($1, $2)", &[&held.id, &held.lease]).await?, "cancelled");
    Ok(())
}

async fn a_lost_lease_is_jq001_a_repeated_complete_is_jq002(mut db: Client) -> Result<(), Error> {
    let first = claimed(&db, None).await?;
    eventually(async || {
        value::<i32>(&db, "SELECT jobq.rescue_zombies(older_than => '1 ms')", &[]).await?;
        Ok(column::<String>(&db, first.id, "state").await? == "pending")
    })
    .await?;
    let second = Held::from(db.query_one("SELECT * FROM jobq.claim(worker => 'second')", &[]).await?);
    let complete = "SELECT jobq.complete($1, $2)";
    let transaction = db.transaction().await?;
    transaction.batch_execute("CREATE TABLE effects ()").await?;
    let error = transaction.query_one(complete, &[&first.id, &first.lease]).await.expect_err("the lease is lost");
    transaction.rollback().await?;
    let refusal = error.as_db_error().ok_or("not the server's error")?;
    assert_eq!(refusal.code().code(), "JQ001");
    assert!(refusal.detail().is_some_and(|detail| detail.contains("second")), "{refusal:?}");
    assert!(!format!("{refusal:?}").contains(&second.lease.to_string()), "the lease is secret");
    assert_eq!(value::<String>(&db, complete, &[&second.id, &second.lease]).await?, "completed");
    for verb in ["complete", "fail", "release", "heartbeat"] {
        let sql = format!("SELECT jobq.{verb}($1, $2)");
        assert_refused(db.query_one(&sql, &[&second.id, &second.lease]).await, "JQ002");
    }
    assert_refused(db.query_one("SELECT jobq.cancel($1)", &[&Uuid::nil()]).await, "JQ003");
    assert_refused(db.query_one("SELECT jobq.retry($1)", &[&second.id]).await, "JQ004");
    Ok(())
}

async fn a_lease_survives_json(db: Client) -> Result<(), Error> {
    enqueue(&db, None).await?;
    let rows: Value = value(&db, "SELECT jsonb_agg(c) FROM jobq.claim() AS c", &[]).await?;
    let id: Uuid = rows[0]["id"].as_str().ok_or("no id")?.parse()?;
    // A reader that knows only floats, as JavaScript does.
    let lease = rows[0]["lease"].as_f64().ok_or("no lease")?;
    assert!(lease < 9_007_199_254_740_992.0);
    assert_eq!(value::<String>(&db, "SELECT jobq.complete($1, $2)", &[&id, &(lease as i64)]).await?, "completed");
    Ok(())
}

async fn four_workers_on_connections_that_take_turns(db: Client) -> Result<(), Error> {
    value::<bool>(&db, "SELECT jobq.create_queue('pool')", &[]).await?;
    let payloads: Vec<Value> = (0..100).map(|n| json!({"n": n})).collect();
    db.query("SELECT * FROM jobq.enqueue_many('add', $1, 'pool')", &[&Value::from(payloads)]).await?;
    let connections = Arc::new([connect().await?, connect().await?, connect().await?, connect().await?]);
    let done = Arc::new(Mutex::new(BTreeSet::new()));
    let workers = (0..4_usize).map(|n| {
        let (connections, done) = (Arc::clone(&connections), Arc::clone(&done));
        tokio::spawn(async move {
            for turn in n.. {
                let claim = "SELECT * FROM jobq.claim('pool', worker => $1)";
                let Some(row) = connections[turn % 4].query_opt(claim, &[&format!("worker-{n}")]).await? else { break };
                let held = Held::from(row);
                let sql = "SELECT jobq.complete($1, $2)";
                value::<String>(&connections[(turn + 1) % 4], sql, &[&held.id, &held.lease]).await?;
                assert!(done.lock().unwrap().insert(held.payload["n"].as_i64()), "done twice");
            }
            Ok::<(), tokio_postgres::Error>(())
        })
    });
    for worker in workers.collect::<Vec<_>>() {
        worker.await??;
    }
    assert_eq!(done.lock().unwrap().len(), 100);
    Ok(())
}

// Operators

async fn reschedule_retry_retry_failed_delete_purge(db: Client) -> Result<(), Error> {
    let id = enqueue(&db, None).await?;
    let later = Utc::now() + Duration::hours(1);
    let sql = "SELECT jobq.reschedule($1, $2, $3, $4)";
    assert_eq!(value::<String>(&db, sql, &[&id, &Some(later), &Some(1_i32), &None::<i32>]).await?, "pending");
    assert_eq!(value::<String>(&db, "SELECT jobq.cancel($1)", &[&id]).await?, "cancelled");
    assert_eq!(value::<String>(&db, "SELECT jobq.retry($1)", &[&id]).await?, "pending");
    assert!(value::<bool>(&db, "SELECT jobq.delete($1)", &[&id]).await?);
    assert!(!value::<bool>(&db, "SELECT jobq.delete($1)", &[&id]).await?);
    value::<bool>(&db, "SELECT jobq.create_queue('bin', max_attempts => $1)", &[&1_i32]).await?;
    for retried in [true, false] {
        let held = claimed(&db, Some("bin")).await?;
        assert_eq!(value::<String>(&db, "SELECT jobq.fail($1, $2, 'down')", &[&held.id, &held.lease]).await?, "failed");
        if retried {
            let sql = "SELECT jobq.retry_failed($1, $2, $3)";
            assert_eq!(value::<i32>(&db, sql, &[&"bin", &None::<&str>, &None::<i32>]).await?, 1);
            value::<String>(&db, "SELECT jobq.cancel($1)", &[&held.id]).await?;
        }
    }
    let purge = "SELECT jobq.purge($1, $2, $3::text::interval, $4)";
    assert_eq!(value::<i64>(&db, purge, &[&"bin", &"failed", &Some("0 s"), &None::<i32>]).await?, 1);
    assert_refused(db.query_one(purge, &[&"bin", &"failed", &None::<&str>, &None::<i32>]).await, "22004");
    Ok(())
}

async fn queues_are_created_altered_paused_resumed_dropped(db: Client) -> Result<(), Error> {
    let create = "SELECT jobq.create_queue($1, lease_for => $2::text::interval, backoff => $3, max_depth => $4)";
    let backoff = json!({"kind": "constant", "base": "10s"});
    assert!(value::<bool>(&db, create, &[&"press", &"1 min", &backoff, &1_i64]).await?);
    let seconds: f64 = value(&db, "SELECT lease_seconds FROM jobq.queues WHERE name = $1", &[&"press"]).await?;
    assert_eq!(seconds, 60.0);
    let alter = "SELECT jobq.alter_queue('press', keep_completed => $1)";
    assert!(value::<bool>(&db, alter, &[&false]).await?);
    assert!(!value::<bool>(&db, alter, &[&false]).await?);
    assert!(value::<bool>(&db, "SELECT jobq.pause('press')", &[]).await?);
    assert!(value::<bool>(&db, "SELECT jobq.resume('press')", &[]).await?);
    enqueue(&db, Some("press")).await?;
    assert_refused(db.query_one("SELECT jobq.enqueue('a', queue => $1)", &[&"press"]).await, "53400");
    assert_refused(db.query_one("SELECT jobq.drop_queue('press')", &[]).await, "2BP01");
    assert_eq!(value::<i64>(&db, "SELECT jobq.drop_queue('press', $1)", &[&true]).await?, 1);
    assert_refused(db.query_one("SELECT jobq.pause('press')", &[]).await, "42704");
    Ok(())
}

async fn grant_access_tick_resume_after_restore(db: Client) -> Result<(), Error> {
    let (role, access) = (client_role(), "producer");
    for verb in ["grant", "revoke"] {
        let sql = format!("SELECT jobq.{verb}_access($1::text::regrole, $2)");
        assert!(value::<bool>(&db, &sql, &[&role, &access]).await?);
    }
    assert!(value::<i32>(&db, "SELECT jobq.tick()", &[]).await? >= 0);
    assert!(!value::<bool>(&db, "SELECT jobq.resume_after_restore()", &[]).await?);
    Ok(())
}

// Looking

async fn where_state_equals_a_str_and_state_is_read_as_string(db: Client) -> Result<(), Error> {
    let (older, newer) = (enqueue(&db, None).await?, enqueue(&db, None).await?);
    let rows = db.query("SELECT id, state FROM jobq.jobs WHERE state = $1 ORDER BY id DESC", &[&"pending"]).await?;
    let found: Vec<(Uuid, String)> = rows.iter().map(|row| (row.get("id"), row.get("state"))).collect();
    assert_eq!(found, [(newer, "pending".to_owned()), (older, "pending".to_owned())]);
    assert_eq!(db.query("SELECT * FROM jobq.stats($1)", &[&"default"]).await?.len(), 1);
    assert!(!value::<String>(&db, "SELECT jobq.version()", &[]).await?.is_empty());
    assert!(!value::<String>(&db, "SELECT jobq.why('00000000-0000-0000-0000-000000000000')", &[]).await?.is_empty());
    Ok(())
}

/// Decodes every column with the one Rust type for its SQL type.
fn decoded(row: &Row) -> Columns {
    fn is_there<'a, T: FromSql<'a>>(row: &'a Row, at: usize) -> bool {
        row.get::<_, Option<T>>(at).is_some()
    }
    let read = |(at, column): (usize, &tokio_postgres::Column)| {
        let got = match *column.type_() {
            Type::UUID => ("uuid", is_there::<Uuid>(row, at)),
            Type::TEXT => ("text", is_there::<String>(row, at)),
            Type::BOOL => ("boolean", is_there::<bool>(row, at)),
            Type::INT4 => ("integer", is_there::<i32>(row, at)),
            Type::INT8 => ("bigint", is_there::<i64>(row, at)),
            Type::FLOAT8 => ("double precision", is_there::<f64>(row, at)),
            Type::TIMESTAMPTZ => ("timestamp with time zone", is_there::<DateTime<Utc>>(row, at)),
            Type::JSONB => ("jsonb", is_there::<Value>(row, at)),
            ref other => panic!("{} arrives as {other}", column.name()),
        };
        (column.name().to_owned(), got)
    };
    row.columns().iter().enumerate().map(read).collect()
}

async fn every_column_of_every_row_is_decoded(db: Client) -> Result<(), Error> {
    let read = async |row_type: &str, sql: &str, parameters: Parameters<'_>| -> Result<Vec<Row>, Error> {
        let rows = db.query(sql, parameters).await?;
        rows.iter().for_each(|row| judge(row_type, &decoded(row)));
        Ok(rows)
    };
    let claim = "SELECT * FROM jobq.claim('all', worker => 'ada')";
    value::<bool>(&db, "SELECT jobq.create_queue('all', timeout => '1 h', max_depth => 50)", &[]).await?;
    let one =
        json!({"kind": "all", "queue": "all", "payload": {"n": 1}, "headers": {"h": 1}, "unique_key": "k", "max_attempts": 2});
    read("enqueued_job", "SELECT * FROM jobq.enqueue_jobs($1)", &[&json!([one])]).await?;
    read("enqueued_job", "SELECT * FROM jobq.enqueue_many('all', '[[1],[2]]', queue => 'all')", &[]).await?;
    let held = Held::from(read("claimed_job", claim, &[]).await?.remove(0));
    value::<String>(&db, "SELECT jobq.fail($1, $2, 'once', '0 s')", &[&held.id, &held.lease]).await?;
    value::<String>(&db, "SELECT jobq.reschedule($1, priority => 1)", &[&held.id]).await?;
    let held = Held::from(read("claimed_job", claim, &[]).await?.remove(0));
    let beat = "SELECT jobq.heartbeat($1, $2, progress => 12.5, note => 'on it')";
    value::<bool>(&db, beat, &[&held.id, &held.lease]).await?;
    let (ids, leases) = (vec![held.id], vec![held.lease]);
    read("held_job", "SELECT * FROM jobq.heartbeat_many($1, $2)", &[&ids, &leases]).await?;
    read("jobs", "SELECT * FROM jobq.job($1)", &[&held.id]).await?;
    read("queue_stats", "SELECT * FROM jobq.stats()", &[]).await?;
    for view in views() {
        read(&view, &format!("SELECT * FROM jobq.{view}"), &[]).await?;
    }
    read("finished_job", "SELECT * FROM jobq.complete_many($1, $2, '[[1]]')", &[&ids, &leases]).await?;
    read("jobs", "SELECT * FROM jobq.job($1)", &[&held.id]).await?;
    read("check_result", "SELECT * FROM jobq.diagnose()", &[]).await?;
    all_seen(&["check_result.hint"]);
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    run!(connect;
        enqueue_with_a_json_payload_and_an_interval_as_text,
        enqueue_with_every_option_null_by_position_and_every_option_by_name,
        a_payload_encoded_twice_is_refused,
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
        four_workers_on_connections_that_take_turns,
        reschedule_retry_retry_failed_delete_purge,
        queues_are_created_altered_paused_resumed_dropped,
        grant_access_tick_resume_after_restore,
        where_state_equals_a_str_and_state_is_read_as_string,
        every_column_of_every_row_is_decoded,
    )
}
