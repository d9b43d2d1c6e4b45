//! Statements of the background duties.

use super::direct::{job, jobs};
use super::{candidates, counts, statement};
use crate::clock::Timestamp;
use crate::error::Error;
use crate::pg::datum::Jsonb;
use crate::pg::heap::{Use, direct};
use crate::pg::row::Row;
use crate::pg::spi::{Rows, Session};
use crate::pg::{blocks, leases, notes};
use pgrx::pg_sys::Oid;
use uuid::Uuid;

/// A running job without a living worker, or past its deadline; locked.
pub struct Zombie {
    pub id: Uuid,
    pub lease: i64,
    pub attempt: i32,
    pub max_attempts: i32,
    pub crashes: i32,
    pub cancel_requested: bool,
    pub worker: String,
    pub seen_at: Timestamp,
    pub max_crashes: i32,
    pub backoff: Option<String>,
    /// False: the worker may live, but the attempt has run past its deadline.
    pub lost: bool,
}

/// Which zombies.
pub struct Search {
    pub now: Timestamp,
    pub grace_from: Timestamp,
    pub grace_ms: i64,
    /// Also jobs without a sign of life since then.
    pub not_seen_since: Option<Timestamp>,
    pub deadlines: bool,
    pub batch: i32,
    /// Jobs bound to a session that were claimed before have lost it with the server's last run.
    pub writable_at: Option<Timestamp>,
}

/// The jobs of sessions that have ended, locked; those that somebody else has locked are left out.
pub fn released(session: &Session, ids: &[Uuid], leases: &[i64]) -> Result<Vec<Zombie>, Error> {
    statement!(RELEASED, "released", [UuidArray, BigIntArray]);
    notes::unsure_of_one(|| read_zombies(&session.run(&RELEASED, &[ids.into(), leases.into()])?))
}

/// Those of the jobs that are held under these leases.
pub fn still_held(session: &Session, ids: &[Uuid], leases: &[i64]) -> Result<Vec<Uuid>, Error> {
    statement!(HELD, "still_held", [UuidArray, BigIntArray]);
    let rows = session.look_at_the_latest(&HELD, &[ids.into(), leases.into()])?;
    Ok((0..rows.count()).filter_map(|row| rows.uuid(row, 1)).collect())
}

/// Ids of running jobs that are lost or past their deadline, by looking at all rows.
pub fn suspects(session: &Session, search: &Search) -> Result<Vec<Uuid>, Error> {
    statement!(SUSPECTS, "suspects", [Timestamp, Timestamp, BigInt, Timestamp, Bool, Timestamp], Free);
    let rows = session.run(
        &SUSPECTS,
        &[
            search.now.into(),
            search.grace_from.into(),
            search.grace_ms.into(),
            search.not_seen_since.into(),
            search.deadlines.into(),
            search.writable_at.into(),
        ],
    )?;
    Ok((0..rows.count()).filter_map(|row| rows.uuid(row, 1)).collect())
}

/// The same from the blocks that are known to hold running jobs, for a search without `not_seen_since`; None: these are not known.
pub fn suspects_nearby(search: &Search) -> Result<Option<Vec<Uuid>>, Error> {
    let Search { now, grace_from, grace_ms, deadlines, writable_at, .. } = *search;
    let is_over = |from: Timestamp, ms: i64| from.plus_ms(ms) < now;
    direct([jobs(Use::Read)], |[jobs]| {
        let mut overdue: Vec<Uuid> = Vec::new();
        let mut expired: Vec<(Uuid, i64)> = Vec::new();
        // As in suspects.sql.
        let each = |row: &Row<'_>| {
            let (id, lease) = (row.uuid(job::id).unwrap_or_default(), row.bigint(job::lease).unwrap_or(0));
            let Some(claimed_at) = row.timestamp(job::claimed_at) else { return };
            let seen_at = row.timestamp(job::seen_at).unwrap_or(claimed_at);
            let grace = grace_ms.max(row.int(job::lease_ms).map_or(0, i64::from));
            let has_expired = row.timestamp(job::lease_expires_at).is_some_and(|at| at < now)
                && (seen_at >= grace_from || is_over(grace_from, grace));
            let has_lost_session = row.boolean(job::bound) == Some(true) && writable_at.is_some_and(|at| claimed_at < at);
            if has_expired || has_lost_session {
                expired.push((id, lease));
            }
            if let Some(deadline_at) = row.timestamp(job::deadline_at).filter(|at| deadlines && *at < now)
                && (claimed_at >= grace_from || is_over(grace_from, deadline_at.ms_since(claimed_at)))
            {
                overdue.push(id);
            }
        };
        if !blocks::look(jobs, |row| row.letter(job::state) == Some(b'r'), each) {
            return Ok(None);
        }
        let lost = expired.into_iter().filter(|(id, lease)| !leases::is_kept(*id, *lease, true, None)).map(|(id, _)| id);
        overdue.extend(lost);
        overdue.sort_unstable();
        overdue.dedup();
        Ok(Some(overdue))
    })
}

/// Those of the suspects that are zombies, locked.
pub fn zombies(session: &Session, search: &Search, suspects: &[Uuid]) -> Result<Vec<Zombie>, Error> {
    statement!(ZOMBIES, "zombies", [Timestamp, Timestamp, BigInt, Timestamp, Bool, Int, Timestamp, UuidArray]);
    notes::unsure_of_one(|| {
        read_zombies(&session.run(
            &ZOMBIES,
            &[
                search.now.into(),
                search.grace_from.into(),
                search.grace_ms.into(),
                search.not_seen_since.into(),
                search.deadlines.into(),
                search.batch.into(),
                search.writable_at.into(),
                suspects.into(),
            ],
        )?)
    })
}

fn read_zombies(rows: &Rows<'_>) -> Result<Vec<Zombie>, Error> {
    let zombie = |row| -> Option<Zombie> {
        if rows.letter(row, 13) == Some(b'p') {
            candidates::locked(rows, row, 14);
        }
        let (lost, overdue) = (rows.boolean(row, 11).unwrap_or(false), rows.boolean(row, 12).unwrap_or(false));
        if !lost && !overdue {
            return None;
        }
        Some(Zombie {
            id: rows.uuid(row, 1)?,
            lease: rows.bigint(row, 2)?,
            attempt: rows.int(row, 3)?,
            max_attempts: rows.int(row, 4)?,
            crashes: rows.int(row, 5)?,
            cancel_requested: rows.boolean(row, 6)?,
            worker: rows.string(row, 7)?,
            seen_at: rows.timestamp(row, 8)?,
            max_crashes: rows.int(row, 9)?,
            backoff: rows.jsonb(row, 10).map(Jsonb::to_text),
            lost,
        })
    };
    Ok((0..rows.count()).filter_map(zombie).collect())
}

/// Deletes finished jobs past their queue's retention, up to `batch`: how many.
pub fn delete_expired_history(session: &Session, now: Timestamp, batch: i32) -> Result<usize, Error> {
    statement!(EXPIRED, "expired_history", [Timestamp, Int], Free);
    let rows = session.run(&EXPIRED, &[now.into(), batch.into()])?;
    counts::deleted(&rows);
    Ok(rows.count())
}

/// Jobs added to a dropped queue by a transaction that was open then: id and lease, locked.
pub fn late_arrivals(session: &Session, batch: i32) -> Result<Vec<(Uuid, i64)>, Error> {
    statement!(LATE, "late_arrivals", [Int]);
    let rows = session.run(&LATE, &[batch.into()])?;
    Ok((0..rows.count()).filter_map(|row| rows.uuid(row, 1).zip(rows.bigint(row, 2))).collect())
}

/// Notes when dropped queues are first seen.
pub fn see_tombstones(session: &Session) -> Result<(), Error> {
    statement!(SEE, "see_tombstones", []);
    session.run(&SEE, &[])?;
    Ok(())
}

/// Forgets dropped queues seen by an earlier transaction, when nothing can refer to them any more.
pub fn remove_tombstones(session: &Session) -> Result<usize, Error> {
    statement!(REMOVE, "remove_tombstones", [], Free);
    Ok(session.run(&REMOVE, &[])?.count())
}

/// Makes this database the original.
pub fn adopt(session: &Session, database: Oid) -> Result<(), Error> {
    statement!(ADOPT, "adopt", [Oid]);
    session.run(&ADOPT, &[database.into()])?;
    Ok(())
}

/// Does this history partition hold rows, none that finished after `cutoff` and none of a restore?
pub fn slot_is_expired(session: &Session, slot: i16, cutoff: Timestamp, now: Timestamp) -> Result<bool, Error> {
    statement!(EXPIRED, "slot_is_expired", [Int, Timestamp, Timestamp], Free);
    Ok(session.run(&EXPIRED, &[i32::from(slot).into(), cutoff.into(), now.into()])?.boolean(0, 1).unwrap_or(false))
}

pub fn retentions_differ(session: &Session, longest_ms: i64) -> Result<bool, Error> {
    statement!(DIFFER, "retentions_differ", [BigInt], Free);
    Ok(session.run(&DIFFER, &[longest_ms.into()])?.boolean(0, 1).unwrap_or(false))
}
