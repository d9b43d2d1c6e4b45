//! Statements of the functions that only look. They use the caller's snapshot and run on a standby.

use super::statement;
use crate::clock::Timestamp;
use crate::error::Error;
use crate::pg::spi::{Rows, Session};
use pgrx::pg_sys::Oid;
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

/// Rows of jobq.queue_stats.
pub fn stats<'s>(session: &'s Session, queue: Option<i32>, now: Timestamp) -> Result<Rows<'s>, Error> {
    statement!(STATS, "stats", [Int, Timestamp], Free);
    session.look(&STATS, &[queue.into(), now.into()])
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
