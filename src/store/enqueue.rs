//! Adding jobs and handing them out.

use super::counts;
use super::queues::Queue;
use super::statement;
use crate::clock::Timestamp;
use crate::dispatch::{Candidate, kind_hash};
use crate::error::Error;
use crate::pg::call::RowSink;
use crate::pg::datum::{Jsonb, Text};
use crate::pg::spi::{Param, Rows, Session};
use crate::pg::{blocks, leases, notes, server, stripes};
use uuid::Uuid;

/// What a new job's row holds besides its id and payload.
pub struct NewJob<'a> {
    pub enqueued_at: Timestamp,
    pub run_at: Timestamp,
    /// run_at is ahead.
    pub scheduled: bool,
    /// None: the queue's.
    pub timeout_ms: Option<i64>,
    pub queue: i32,
    pub priority: i32,
    pub max_attempts: i32,
    pub headers: Option<Jsonb>,
    pub kind: &'a str,
}

/// A unique_key and whether it counts only until the job is claimed.
#[derive(Clone, Copy)]
pub struct UniqueKey {
    pub key: Text,
    pub while_pending: bool,
}

impl NewJob<'_> {
    fn made_ready(&self, id: Uuid) {
        notes::made_ready(&notes::key(self.queue), self.candidate(id));
    }

    /// What the dispatcher is to know of it.
    pub fn candidate(&self, id: Uuid) -> Candidate {
        Candidate { priority: self.priority, run_at: self.run_at.0, id: id.as_u128(), kind: kind_hash(self.kind.as_bytes()) }
    }

    fn params(&self, id: Uuid, payload: Param) -> [Param; 11] {
        [
            id.into(),
            self.enqueued_at.into(),
            self.run_at.into(),
            self.timeout_ms.into(),
            self.queue.into(),
            self.priority.into(),
            self.max_attempts.into(),
            self.scheduled.into(),
            self.headers.into(),
            self.kind.into(),
            payload,
        ]
    }
}

pub fn add(session: &Session, id: Uuid, job: &NewJob<'_>, payload: Param) -> Result<(), Error> {
    statement!(ADD, "enqueue", [Uuid, Timestamp, Timestamp, BigInt, Int, Int, Int, Bool, Jsonb, Text, Jsonb]);
    session.run(&ADD, &job.params(id, payload))?;
    counts::added(job.queue, 1);
    job.made_ready(id);
    Ok(())
}

/// False when an unfinished job of the queue has the key.
pub fn add_unique(session: &Session, id: Uuid, job: &NewJob<'_>, payload: Param, unique: UniqueKey) -> Result<bool, Error> {
    statement!(ADD, "enqueue_unique", [Uuid, Timestamp, Timestamp, BigInt, Int, Int, Int, Bool, Jsonb, Text, Jsonb, Bool, Text]);
    let params: Vec<Param> =
        job.params(id, payload).into_iter().chain([unique.while_pending.into(), unique.key.into()]).collect();
    let added = session.run(&ADD, &params)?.count() == 1;
    if added {
        counts::added(job.queue, 1);
        job.made_ready(id);
    }
    Ok(added)
}

pub fn by_unique_key(session: &Session, queue: i32, unique: UniqueKey) -> Result<Option<Uuid>, Error> {
    statement!(FIND, "job_by_unique_key", [Int, Text]);
    statement!(FIND_PENDING, "pending_by_unique_key", [Int, Text]);
    let statement = if unique.while_pending { &FIND_PENDING } else { &FIND };
    Ok(session.run(statement, &[queue.into(), unique.key.into()])?.uuid(0, 1))
}

/// 53400 when the queue has no room for `more` jobs.
pub fn check_depth(session: &Session, queue: &Queue, more: i64) -> Result<(), Error> {
    let room = queue.max_depth.saturating_sub(more).saturating_add(1);
    if queue.max_depth > 0 && (room <= 0 || super::queues::is_as_deep_as(session, queue.id, room)?) {
        return Err(Error::QueueFull { queue: queue.name.clone(), max_depth: queue.max_depth });
    }
    Ok(())
}

/// Adds a job: its id, or that of the unfinished job with the same key, and whether it is new.
pub fn add_or_find(
    session: &Session,
    queue: &Queue,
    id: Uuid,
    job: &NewJob<'_>,
    payload: Param,
    unique: Option<UniqueKey>,
) -> Result<(Uuid, bool), Error> {
    /// How often to look again for a key that is taken one moment and gone the next.
    const TRIES: usize = 100;
    let Some(unique) = unique else {
        check_depth(session, queue, 1)?;
        add(session, id, job, payload)?;
        return Ok((id, true));
    };
    for _ in 0..TRIES {
        if let Some(existing) = by_unique_key(session, queue.id, unique)? {
            return Ok((existing, false));
        }
        check_depth(session, queue, 1)?;
        if add_unique(session, id, job, payload, unique)? {
            return Ok((id, true));
        }
        // Somebody had the key a moment ago; his job is there to be found, or finished already.
        server::check_for_interrupts();
    }
    Err(Error::Contended)
}

/// `ids` and the elements of `payloads` are of the same number.
pub fn add_many(session: &Session, ids: &[Uuid], job: &NewJob<'_>, payloads: Jsonb) -> Result<usize, Error> {
    statement!(ADD, "enqueue_many", [UuidArray, Jsonb, Timestamp, Timestamp, BigInt, Int, Int, Int, Bool, Jsonb, Text]);
    let params = [
        ids.into(),
        payloads.into(),
        job.enqueued_at.into(),
        job.run_at.into(),
        job.timeout_ms.into(),
        job.queue.into(),
        job.priority.into(),
        job.max_attempts.into(),
        job.scheduled.into(),
        job.headers.into(),
        job.kind.into(),
    ];
    let added = session.run(&ADD, &params)?.count();
    counts::added(job.queue, added);
    ids.iter().for_each(|id| job.made_ready(*id));
    Ok(added)
}

/// The elements of enqueue_jobs' array; columns as in the statement's file.
pub fn job_specs<'s>(session: &'s Session, jobs: Jsonb) -> Result<Rows<'s>, Error> {
    statement!(SPECS, "job_specs", [Jsonb]);
    session.run(&SPECS, &[jobs.into()])
}

/// How a claim is made.
#[derive(Clone, Copy)]
pub struct Claim<'a> {
    pub batch: i32,
    pub now: Timestamp,
    /// None: the queue's.
    pub lease_ms: Option<i64>,
    pub clock_part: i64,
    pub worker: &'a str,
    pub kinds: Option<&'a [Text]>,
    /// To this session: released when it ends.
    pub bound: bool,
}

/// Rows of jobq.claimed_job, in no order: see `hand_out`.
pub fn claim<'s>(session: &'s Session, queue: &Queue, claim: &Claim<'_>, random_part: i32) -> Result<Rows<'s>, Error> {
    #[cfg(feature = "pg18")]
    statement!(CLAIM, "claim", [Int, Int, Timestamp, BigInt, BigInt, Int, Text, TextArray, BigInt, Text, Bool]);
    #[cfg(not(feature = "pg18"))]
    statement!(CLAIM, "claim_before_18", [Int, Int, Timestamp, BigInt, BigInt, Int, Text, TextArray, BigInt, Text, Bool]);
    let key = notes::key(queue.id);
    let params = [
        queue.id.into(),
        claim.batch.into(),
        claim.now.into(),
        claim.lease_ms.unwrap_or(queue.lease_ms).into(),
        claim.clock_part.into(),
        random_part.into(),
        claim.worker.into(),
        claim.kinds.into(),
        queue.timeout_ms.into(),
        queue.name.as_str().into(),
        claim.bound.into(),
    ];
    notes::unsure_of(&key, || {
        let rows = session.run(&CLAIM, &params)?;
        if rows.count() > 0 {
            blocks::mark_all();
        }
        let taken: Vec<Candidate> = (0..rows.count()).filter_map(|row| claimed(&rows, row)).collect();
        for (row, candidate) in taken.iter().enumerate() {
            notes::takes(&key, *candidate);
            if claim.bound {
                let lease_ms = claim.lease_ms.unwrap_or(queue.lease_ms);
                leases::bind(Uuid::from_u128(candidate.id), rows.bigint(row, 2).unwrap_or(0), lease_ms, claim.now)?;
            }
        }
        stripes::withdraw(&key, &taken);
        Ok(rows)
    })
}

/// What the dispatcher knew of a job that the claim statement returns.
fn claimed(rows: &Rows<'_>, row: usize) -> Option<Candidate> {
    Some(Candidate {
        priority: rows.int(row, 9)?,
        run_at: rows.timestamp(row, 11)?.0,
        id: rows.uuid(row, 1)?.as_u128(),
        kind: kind_hash(rows.text(row, 4)?.bytes()),
    })
}

/// A claim with the rights of the session's user: how many jobs, and they as jsonb.
pub fn claim_as_jsonb(session: &Session, queues: &str, claim: &Claim<'_>) -> Result<(i64, Vec<u8>), Error> {
    statement!(CLAIM, "claim_as_jsonb", [Text, Int, Text, BigInt, TextArray, Text], Free);
    let bind = if claim.bound { "session" } else { "lease" };
    let params = [queues.into(), claim.batch.into(), claim.worker.into(), claim.lease_ms.into(), claim.kinds.into(), bind.into()];
    let rows = session.run(&CLAIM, &params)?;
    let count = rows.bigint(0, 1).unwrap_or(0);
    Ok((count, rows.jsonb(0, 2).map_or_else(Vec::new, |jobs| jobs.content().to_vec())))
}

/// Hands claimed rows to the calling query by (priority, run_at, id).
pub fn hand_out(rows: &Rows<'_>, sink: &RowSink) {
    let mut order: Vec<usize> = (0..rows.count()).collect();
    order.sort_by_cached_key(|row| (rows.int(*row, 9), rows.timestamp(*row, 11), rows.uuid(*row, 1)));
    rows.pass_in_order(&order, sink);
}
