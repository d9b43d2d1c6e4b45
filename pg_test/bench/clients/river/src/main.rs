//! River's own client: 2000 workers and a fetch cooldown of 2 ms, as in its own benchmark, insert_many for batches.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use riverqueue::migrate::PostgresMigrator;
use riverqueue::sqlx::postgres::PgPoolOptions;
use riverqueue::sqlx::PgPool;
use riverqueue::{BoxError, Client, Job, JobArgs, QueueConfig, WorkContext, WorkOutcome, Workers};
use serde::{Deserialize, Serialize};
use serde_json::{json, Value};

#[derive(Clone, Debug, Deserialize, JobArgs, Serialize)]
#[river(kind = "bench")]
struct Bench {
    sent: f64,
    document: Value,
}

struct Order {
    jobs: usize,
    batch: usize,
    gap: Duration,
    payload: Value,
}

fn order() -> Order {
    let text = std::env::var("BENCH").unwrap_or_else(|_| "{}".to_owned());
    let all: Value = serde_json::from_str(&text).unwrap_or_default();
    let number = |name: &str| all[name].as_f64().unwrap_or(1.0);
    Order {
        jobs: number("jobs") as usize,
        batch: number("batch") as usize,
        gap: Duration::from_secs_f64(number("gap_ms") / 1000.0),
        payload: all["payload"].clone(),
    }
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

fn at(ranked: &[f64], percent: f64) -> f64 {
    let rank = (percent / 100.0 * ranked.len() as f64).ceil() as usize;
    ranked.get(rank.saturating_sub(1)).copied().unwrap_or(0.0)
}

async fn produce(pool: PgPool) -> Result<(), BoxError> {
    let order = order();
    let client = Client::builder(pool).fetch_cooldown(Duration::from_millis(2)).build()?;
    println!("{}", json!({"ready": true}));
    let mut left = order.jobs;
    while left > 0 {
        let size = order.batch.min(left);
        let args = |_| Bench { sent: now(), document: order.payload.clone() };
        if size == 1 {
            client.insert(args(0)).await?;
        } else {
            client.insert_many((0..size).map(args)).await?;
        }
        left -= size;
        tokio::time::sleep(order.gap).await;
    }
    println!("{}", json!({"jobs": order.jobs}));
    Ok(())
}

async fn consume(pool: PgPool) -> Result<(), BoxError> {
    let wanted = order().jobs;
    let first = Arc::new(std::sync::OnceLock::new());
    let latencies = Arc::new(Mutex::new(Vec::with_capacity(wanted)));
    let done = Arc::new(AtomicUsize::new(0));
    let full = Arc::new(tokio::sync::Notify::new());
    let mut workers = Workers::new();
    let (start, seen, count, ring) = (first.clone(), latencies.clone(), done.clone(), full.clone());
    workers.add_fn(move |_: WorkContext, job: Job<Bench>| {
        let (seen, count, ring) = (seen.clone(), count.clone(), ring.clone());
        start.get_or_init(now);
        async move {
            if let Ok(mut seen) = seen.lock() {
                seen.push(1000.0 * (now() - job.args.sent));
            }
            if count.fetch_add(1, Ordering::SeqCst) + 1 == wanted {
                ring.notify_one();
            }
            Ok::<_, BoxError>(WorkOutcome::Complete)
        }
    })?;
    let client = Client::builder(pool)
        .workers(workers)
        .fetch_cooldown(Duration::from_millis(2))
        .queue("default", QueueConfig::new(2000))
        .build()?;
    let mut run = client.start()?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    println!("{}", json!({"ready": true}));
    full.notified().await;
    let mut ranked = latencies.lock().map(|seen| seen.clone()).unwrap_or_default();
    ranked.sort_by(f64::total_cmp);
    let latency = json!({"p50": at(&ranked, 50.0), "p99": at(&ranked, 99.0)});
    println!("{}", json!({"jobs": wanted, "first": first.get(), "last": now(), "latency_ms": latency}));
    run.stop().await?;
    Ok(())
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<(), BoxError> {
    let pool = PgPoolOptions::new().max_connections(20).connect("postgresql://").await?;
    match std::env::args().nth(1).as_deref() {
        Some("setup") => PostgresMigrator::new(pool).migrate_up().await.map(|_| ()).map_err(Into::into),
        Some("produce") => produce(pool).await,
        Some("consume") => consume(pool).await,
        other => Err(format!("setup, produce or consume, not {other:?}").into()),
    }
}
