//! Everything a lease holder may do, and what rescue does in its place.

use super::candidates::made_ready;
use super::counts::{self, Kept};
use super::statement;
use crate::clock::Timestamp;
use crate::error::Error;
use crate::pg::blocks;
use crate::pg::datum::Jsonb;
use crate::pg::spi::{Param, Rows, Session};
use uuid::Uuid;

/// Completes without history; false when the lease is stale or the queue keeps completed jobs.
pub fn complete_and_forget(session: &Session, id: Uuid, lease: i64) -> Result<bool, Error> {
    statement!(COMPLETE, "complete_drop", [Uuid, BigInt]);
    let rows = session.run(&COMPLETE, &[id.into(), lease.into()])?;
    counts::ended(rows.int(0, 1), None);
    Ok(rows.count() == 1)
}

/// Completes with history; false when the lease is stale or the queue keeps none.
pub fn complete_and_keep(
    session: &Session,
    id: Uuid,
    lease: i64,
    now: Timestamp,
    result: Option<Jsonb>,
    slot: i16,
) -> Result<bool, Error> {
    statement!(COMPLETE, "complete_keep", [Uuid, BigInt, Timestamp, Jsonb, Int]);
    let params = [id.into(), lease.into(), now.into(), result.into(), i32::from(slot).into()];
    let rows = session.run(&COMPLETE, &params)?;
    counts::ended(rows.int(0, 1), Some(Kept { state: b'c', at: now, worker: rows.text(0, 2) }));
    Ok(rows.count() == 1)
}

/// The ids that were completed.
pub fn complete_many(
    session: &Session,
    ids: &[Uuid],
    leases: &[i64],
    results: Option<Jsonb>,
    now: Timestamp,
    slot: i16,
) -> Result<Vec<Uuid>, Error> {
    statement!(COMPLETE, "complete_many", [UuidArray, BigIntArray, Jsonb, Timestamp, Int]);
    let params = [ids.into(), leases.into(), results.into(), now.into(), i32::from(slot).into()];
    let rows = session.run(&COMPLETE, &params)?;
    for row in 0..rows.count() {
        let is_kept = rows.boolean(row, 3) == Some(true);
        counts::ended(rows.int(row, 2), is_kept.then(|| Kept { state: b'c', at: now, worker: rows.text(row, 4) }));
    }
    Ok((0..rows.count()).filter_map(|row| rows.uuid(row, 1)).collect())
}

/// A running job, locked for its lease holder.
pub struct Held {
    pub attempt: i32,
    pub max_attempts: i32,
    pub cancel_requested: bool,
    /// The queue's policy as text; None: the built-in one.
    pub backoff: Option<String>,
}

/// Locks a job for its lease holder; None when the lease is stale.
pub fn hold(session: &Session, id: Uuid, lease: i64) -> Result<Option<Held>, Error> {
    statement!(HOLD, "hold", [Uuid, BigInt]);
    let rows = session.run(&HOLD, &[id.into(), lease.into()])?;
    let held = || -> Option<Held> {
        Some(Held {
            attempt: rows.int(0, 1)?,
            max_attempts: rows.int(0, 2)?,
            cancel_requested: rows.boolean(0, 3)?,
            backoff: rows.jsonb(0, 4).map(Jsonb::to_text),
        })
    };
    Ok(held())
}

/// How a running job becomes pending again.
pub struct Requeue {
    /// None: it keeps its place.
    pub run_at: Option<Timestamp>,
    pub scheduled: bool,
    pub attempts_given_back: i32,
    pub crashes_added: i32,
}

/// For a job this transaction has locked. `lease` is the one it keeps.
pub fn requeue(session: &Session, id: Uuid, lease: i64, how: &Requeue, error: Param, now: Timestamp) -> Result<(), Error> {
    statement!(REQUEUE, "requeue", [Uuid, BigInt, Timestamp, Bool, Int, Int, Text, Timestamp]);
    let params = [
        id.into(),
        lease.into(),
        how.run_at.into(),
        how.scheduled.into(),
        how.attempts_given_back.into(),
        how.crashes_added.into(),
        error,
        now.into(),
    ];
    exactly_one(made_ready(&session.run(&REQUEUE, &params)?, 1))
}

/// For a job this transaction has locked.
pub fn bury(session: &Session, id: Uuid, lease: i64, crashes_added: i32, error: Param, now: Timestamp) -> Result<(), Error> {
    statement!(BURY, "bury", [Uuid, BigInt, Int, Text, Timestamp]);
    let rows = session.run(&BURY, &[id.into(), lease.into(), crashes_added.into(), error, now.into()])?;
    counts::ended(rows.int(0, 1), Some(Kept { state: b'f', at: now, worker: rows.text(0, 2) }));
    exactly_one(rows.count())
}

/// How an unfinished job ends as cancelled.
pub struct Cancelled {
    pub error: Param,
    pub crashes_added: i32,
    pub slot: i16,
}

/// For an unfinished job this transaction has locked.
pub fn archive_cancelled(session: &Session, id: Uuid, lease: i64, how: &Cancelled, now: Timestamp) -> Result<(), Error> {
    statement!(ARCHIVE, "archive_cancelled", [Uuid, BigInt, Text, Timestamp, Int, Int]);
    let slot = i32::from(how.slot);
    let params = [id.into(), lease.into(), how.error, now.into(), slot.into(), how.crashes_added.into()];
    let rows = session.run(&ARCHIVE, &params)?;
    counts::ended(rows.int(0, 1), None);
    exactly_one(rows.count())
}

fn exactly_one(count: usize) -> Result<(), Error> {
    if count == 1 { Ok(()) } else { Err(Error::internal("a locked job is gone")) }
}

/// Marks the block that a statement has written a running job into.
pub(super) fn mark(rows: &Rows<'_>, row: usize, column: std::ffi::c_int) {
    if let Some(block) = rows.bigint(row, column) {
        blocks::mark(u32::try_from(block).unwrap_or(u32::MAX));
    }
}

/// What a heartbeat says.
pub struct Sign {
    pub now: Timestamp,
    /// None: as long as before.
    pub lease_ms: Option<i64>,
    pub progress: Option<f64>,
    pub note: Param,
}

/// Whether cancellation was asked for; None when the lease is stale.
pub fn heartbeat(session: &Session, id: Uuid, lease: i64, sign: &Sign) -> Result<Option<bool>, Error> {
    statement!(HEARTBEAT, "heartbeat", [Uuid, BigInt, Timestamp, BigInt, Double, Text]);
    let params = [id.into(), lease.into(), sign.now.into(), sign.lease_ms.into(), sign.progress.into(), sign.note];
    let rows = session.run(&HEARTBEAT, &params)?;
    mark(&rows, 0, 2);
    Ok(rows.boolean(0, 1))
}

/// Ids whose lease is current, with whether cancellation was asked for.
pub fn heartbeat_many(
    session: &Session,
    ids: &[Uuid],
    leases: &[i64],
    now: Timestamp,
    lease_ms: Option<i64>,
) -> Result<Vec<(Uuid, bool)>, Error> {
    statement!(HEARTBEAT, "heartbeat_many", [UuidArray, BigIntArray, Timestamp, BigInt]);
    let rows = session.run(&HEARTBEAT, &[ids.into(), leases.into(), now.into(), lease_ms.into()])?;
    (0..rows.count()).for_each(|row| mark(&rows, row, 3));
    Ok((0..rows.count()).filter_map(|row| Some((rows.uuid(row, 1)?, rows.boolean(row, 2)?))).collect())
}
