//! Statements of the functions that only look. They use the caller's snapshot and run on a standby.

use super::direct::{job, jobs};
use super::statement;
use crate::clock::Timestamp;
use crate::dispatch::ledger::Sum;
use crate::dispatch::roster::Record;
use crate::dispatch::tally;
use crate::error::Error;
use crate::pg;
use crate::pg::call::RowSink;
use crate::pg::heap::{Use, direct};
use crate::pg::row::Row;
use crate::pg::spi::{Param, Rows, Session};
use crate::pg::{blocks, counts, leases, notes, roster};
use pgrx::pg_sys::Oid;
use std::collections::{BTreeMap, HashMap, HashSet};
use uuid::Uuid;

/// A row of the view jobq.jobs.
pub fn job<'s>(session: &'s Session, id: Uuid) -> Result<Rows<'s>, Error> {
    statement!(JOB, "job", [Uuid]);
    session.look(&JOB, &[id.into()])
}

/// The sentence of `jobq.why`.
pub fn why(session: &Session, id: Uuid, now: Timestamp) -> Result<Option<String>, Error> {
    statement!(WHY, "why", [Uuid, Timestamp]);
    Ok(session.look(&WHY, &[id.into(), now.into()])?.string(0, 1))
}

/// Rows of jobq.queue_stats, from the numbers that the transactions keep up. None when they are not known now.
pub fn stats_known<'s>(session: &'s Session, queue: Option<i32>, now: Timestamp) -> Result<Option<Rows<'s>>, Error> {
    statement!(QUEUES, "queue_ids", [Int, Timestamp], Free);
    statement!(
        STATS,
        "stats_known",
        [Int, Timestamp, BigIntArray, BigIntArray, BigIntArray, BigIntArray, BigIntArray, BigIntArray, BigIntArray]
    );
    if !counts::are_known() {
        return Ok(None);
    }
    let collect = |found: &mut HashMap<i32, Running>, row: &Row<'_>| {
        let running = found.entry(row.int(job::queue_id).unwrap_or(0)).or_default();
        running.jobs = running.jobs.saturating_add(1);
        running.workers.extend(row.text(job::worker).map(|name| name.bytes().to_vec()));
    };
    let Some(running) = running(collect)? else { return Ok(None) };
    let queues = session.look(&QUEUES, &[queue.into(), now.into()])?;
    let Some(midnight) = queues.timestamp(0, 2) else { return Ok(None) };
    if midnight.0.rem_euclid(tally::SPAN_MICROS) != 0 {
        return Ok(None);
    }
    let since = tally::span(midnight.0);
    let mut columns: [Vec<i64>; 7] = Default::default();
    for id in (0..queues.count()).filter_map(|row| queues.int(row, 1)) {
        let told = counts::tell(&notes::key(id), since);
        let (jobs, workers) = running.get(&id).map_or((0, 0), |found| (found.jobs, found.workers.len()));
        let values = [
            i64::from(id),
            told.unfinished,
            told.failed,
            told.completed_since,
            told.failed_since,
            jobs,
            i64::try_from(workers).unwrap_or(i64::MAX),
        ];
        columns.iter_mut().zip(values).for_each(|(column, value)| column.push(value));
    }
    let arrays = columns.iter().map(|column| Param::from(column.as_slice()));
    let params: Vec<Param> = [Param::from(queue), now.into()].into_iter().chain(arrays).collect();
    session.look(&STATS, &params).map(Some)
}

/// The running jobs of a queue, and who has them.
#[derive(Default)]
struct Running {
    jobs: i64,
    workers: HashSet<Vec<u8>>,
}

/// What is collected of the running jobs; None when it is not known where they are. `collect` runs under the lock of a page.
fn running<T: Default>(collect: impl Fn(&mut T, &Row<'_>)) -> Result<Option<T>, Error> {
    /// A look of the maintainer that takes longer is one at all blocks.
    const TRIES: usize = 20;
    direct([jobs(Use::Read)], |[jobs]| {
        for _ in 0..TRIES {
            let mut found = T::default();
            let is_all = blocks::peek(jobs, |row| {
                if row.letter(job::state) == Some(b'r') {
                    collect(&mut found, row);
                }
            });
            if is_all {
                return Ok(Some(found));
            }
            pg::process::nap();
        }
        Ok(None)
    })
}

/// Rows of jobq.queue_stats, counted.
pub fn stats<'s>(session: &'s Session, queue: Option<i32>, now: Timestamp) -> Result<Rows<'s>, Error> {
    statement!(STATS, "stats", [Int, Timestamp], Free);
    session.look(&STATS, &[queue.into(), now.into()])
}

/// Rows of jobq.workers, from what the transactions keep up. False when that is not known now.
pub fn workers_known(sink: &RowSink) -> Result<bool, Error> {
    struct Held {
        id: Uuid,
        lease: i64,
        worker: Vec<u8>,
        seen_at: Timestamp,
    }
    if !roster::is_known() {
        return Ok(false);
    }
    let collect = |found: &mut Vec<Held>, row: &Row<'_>| {
        let seen_at = row.timestamp(job::seen_at).or_else(|| row.timestamp(job::claimed_at));
        let all = (row.uuid(job::id), row.bigint(job::lease), row.text(job::worker), seen_at);
        if let (Some(id), Some(lease), Some(worker), Some(seen_at)) = all {
            found.push(Held { id, lease, worker: worker.bytes().to_vec(), seen_at });
        }
    };
    // Before the others: a job that ends meanwhile is rather told twice than not at all.
    let Some(running) = running(collect)? else { return Ok(false) };
    let mut workers: BTreeMap<Vec<u8>, (i32, Record)> = BTreeMap::new();
    for (name, record) in roster::tell() {
        workers.entry(name.bytes().to_vec()).or_default().1.add(&record);
    }
    for job in running {
        let seen_at = Some(job.seen_at).max(leases::known(job.id, job.lease).map(|known| known.1)).unwrap_or(job.seen_at);
        let (running, record) = workers.entry(job.worker).or_default();
        *running = running.saturating_add(1);
        record.finished_at = record.finished_at.max(seen_at.0);
    }
    for (name, (running, Record { completed, failed, finished_at })) in workers {
        // Who deletes a job may be told before who finished it.
        if running > 0 || completed > 0 || failed > 0 {
            let seen_at = Timestamp(finished_at);
            sink.put(&[Param::bytes(&name), running.into(), seen_at.into(), completed.max(0).into(), failed.max(0).into()]);
        }
    }
    Ok(true)
}

/// Rows of jobq.workers, counted; with the running jobs, or without.
pub fn workers<'s>(session: &'s Session, with_running: bool) -> Result<Rows<'s>, Error> {
    statement!(WORKERS, "workers", [Bool], Free);
    session.look(&WORKERS, &[with_running.into()])
}

/// What the server knows besides the tables.
pub struct Facts<'a> {
    pub now: Timestamp,
    pub preloaded: bool,
    pub ticked_at: Option<Timestamp>,
    pub tick_interval_ms: i64,
    pub enabled: bool,
    pub original: bool,
    pub library_version: &'a str,
    pub schema_version: &'a str,
    pub checkpoints_timed: i64,
    pub checkpoints_requested: i64,
    pub in_recovery: bool,
    pub dispatch: bool,
    /// Candidates in shared memory, and how many it has room for.
    pub slots_used: i64,
    pub slots: i64,
    /// Jobs that only sweeps found.
    pub swept: i64,
    /// Waits that ended with jobs although nobody was woken.
    pub unwoken: i64,
}

/// Rows of jobq.check_result.
pub fn diagnose<'s>(session: &'s Session, facts: &Facts<'_>) -> Result<Rows<'s>, Error> {
    statement!(
        DIAGNOSE,
        "diagnose",
        [Timestamp, Bool, Timestamp, BigInt, Bool, Bool, Text, Text, BigInt, BigInt, Bool, Bool, BigInt, BigInt, BigInt, BigInt],
        Free
    );
    session.look(
        &DIAGNOSE,
        &[
            facts.now.into(),
            facts.preloaded.into(),
            facts.ticked_at.into(),
            facts.tick_interval_ms.into(),
            facts.enabled.into(),
            facts.original.into(),
            facts.library_version.into(),
            facts.schema_version.into(),
            facts.checkpoints_timed.into(),
            facts.checkpoints_requested.into(),
            facts.in_recovery.into(),
            facts.dispatch.into(),
            facts.slots_used.into(),
            facts.slots.into(),
            facts.swept.into(),
            facts.unwoken.into(),
        ],
    )
}

/// Checkpoints by time and by request.
pub fn checkpoints(session: &Session) -> Result<(i64, i64), Error> {
    #[cfg(any(feature = "pg15", feature = "pg16"))]
    statement!(CHECKPOINTS, "checkpoints_before_17", [], Free);
    #[cfg(not(any(feature = "pg15", feature = "pg16")))]
    statement!(CHECKPOINTS, "checkpoints", [], Free);
    let rows = session.look(&CHECKPOINTS, &[])?;
    Ok((rows.bigint(0, 1).unwrap_or(0), rows.bigint(0, 2).unwrap_or(0)))
}

/// The installed extension: oid and version.
pub fn extension(session: &Session) -> Result<Option<(Oid, String)>, Error> {
    statement!(EXTENSION, "extension", []);
    let rows = session.look(&EXTENSION, &[])?;
    Ok(rows.int(0, 1).zip(rows.string(0, 2)).map(|(oid, version)| (Oid::from(oid as u32), version)))
}

/// Is this the database the data came from, and not a restored or copied one?
pub fn is_original(session: &Session, database: Oid) -> Result<bool, Error> {
    statement!(ORIGIN, "origin", [Oid, Timestamp]);
    // Not with the transaction's first snapshot: a restore may have begun since.
    Ok(session.run(&ORIGIN, &[database.into(), Timestamp::now().into()])?.boolean(0, 1).unwrap_or(false))
}

/// How many rights on objects of jobq were granted to a role itself.
pub fn rights(session: &Session, role: Oid) -> Result<i64, Error> {
    statement!(RIGHTS, "rights", [Oid], Free);
    Ok(session.run(&RIGHTS, &[role.into()])?.bigint(0, 1).unwrap_or(0))
}
