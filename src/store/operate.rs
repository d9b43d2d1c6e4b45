//! Operators' statements: cancel, reschedule, retry, delete, purge.

use super::{candidates, counts, statement};
use crate::clock::Timestamp;
use crate::error::Error;
use crate::pg::datum::Text;
use crate::pg::spi::{Rows, Session};
use crate::pg::{leases, notes};
use crate::rules::state::State;
use uuid::Uuid;

/// What is known of a job by its id.
pub struct Whereabouts {
    pub state: State,
    pub lease: i64,
    pub worker: String,
    pub queue_dropped: bool,
}

/// As it is now, whatever the caller's snapshot shows. None: never existed, deleted, or past its retention.
pub fn whereabouts(session: &Session, id: Uuid, now: Timestamp) -> Result<Option<Whereabouts>, Error> {
    statement!(WHEREABOUTS, "whereabouts", [Uuid, Timestamp]);
    let rows = session.look_at_the_latest(&WHEREABOUTS, &[id.into(), now.into()])?;
    // A statement that waited for the row and then found that it does not fit has it locked all the same.
    if rows.letter(0, 1) == Some(b'p') {
        candidates::locked(&rows, 0, 5);
    }
    let found = || -> Option<Whereabouts> {
        Some(Whereabouts {
            state: State::from_letter(rows.letter(0, 1)?)?,
            lease: rows.bigint(0, 2)?,
            worker: rows.string(0, 3)?,
            queue_dropped: rows.boolean(0, 4)?,
        })
    };
    Ok(found())
}

/// An unfinished job, locked.
pub struct Unfinished {
    pub state: State,
    pub lease: i64,
    pub attempt: i32,
}

/// None: it is finished or unknown.
pub fn lock_unfinished(session: &Session, id: Uuid) -> Result<Option<Unfinished>, Error> {
    statement!(LOCK, "lock_unfinished", [Uuid]);
    let rows = notes::unsure_of_one(|| {
        let rows = session.run(&LOCK, &[id.into()])?;
        if rows.letter(0, 1) == Some(b'p') {
            candidates::locked(&rows, 0, 4);
        }
        Ok(rows)
    })?;
    let found = || -> Option<Unfinished> {
        Some(Unfinished { state: State::from_letter(rows.letter(0, 1)?)?, lease: rows.bigint(0, 2)?, attempt: rows.int(0, 3)? })
    };
    Ok(found())
}

/// Statements that left some of these jobs alone may have locked them all the same, after waiting for them: pending ones are noted.
pub fn note_left_alone(session: &Session, ids: &[Uuid]) -> Result<(), Error> {
    statement!(PENDING, "pending_among", [UuidArray]);
    let rows = session.run(&PENDING, &[ids.into()])?;
    (0..rows.count()).for_each(|row| candidates::locked(&rows, row, 1));
    Ok(())
}

pub fn request_cancel(session: &Session, id: Uuid) -> Result<(), Error> {
    statement!(REQUEST, "request_cancel", [Uuid]);
    super::finish::mark(&session.run(&REQUEST, &[id.into()])?, 0, 1);
    leases::unsettles();
    Ok(())
}

/// For a pending job this transaction has locked.
pub fn reschedule(
    session: &Session,
    id: Uuid,
    run_at: Timestamp,
    scheduled: bool,
    priority: Option<i32>,
    max_attempts: Option<i32>,
) -> Result<(), Error> {
    statement!(RESCHEDULE, "reschedule", [Uuid, Timestamp, Bool, Int, Int]);
    let params = [id.into(), run_at.into(), scheduled.into(), priority.into(), max_attempts.into()];
    candidates::made_ready(&session.run(&RESCHEDULE, &params)?, 1);
    Ok(())
}

pub fn delete_pending(session: &Session, id: Uuid) -> Result<bool, Error> {
    statement!(DELETE, "delete_pending", [Uuid]);
    let rows = session.run(&DELETE, &[id.into()])?;
    counts::ended(rows.int(0, 1), None);
    Ok(rows.count() == 1)
}

pub fn delete_finished(session: &Session, id: Uuid) -> Result<bool, Error> {
    statement!(DELETE, "delete_finished", [Uuid]);
    let rows = session.run(&DELETE, &[id.into()])?;
    counts::deleted(&rows);
    Ok(rows.count() > 0)
}

/// What became of an attempt to retry one job.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Retried {
    Done,
    /// It was not there any more.
    Gone,
    /// Another unfinished job has its unique_key. The caller must raise, to undo the half that was done.
    KeyTaken,
}

fn retried(rows: &Rows<'_>) -> Retried {
    match (rows.bigint(0, 1), candidates::made_ready(rows, 2)) {
        (Some(1), 1) => Retried::Done,
        (Some(1), _) => Retried::KeyTaken,
        _ => Retried::Gone,
    }
}

pub fn retry_failed_job(session: &Session, id: Uuid, now: Timestamp) -> Result<Retried, Error> {
    statement!(RETRY, "retry_dead", [Uuid, Timestamp]);
    let rows = session.run(&RETRY, &[id.into(), now.into()])?;
    counts::retried(&rows);
    Ok(retried(&rows))
}

pub fn retry_cancelled_job(session: &Session, id: Uuid, now: Timestamp) -> Result<Retried, Error> {
    statement!(RETRY, "retry_history", [Uuid, Timestamp]);
    let rows = session.run(&RETRY, &[id.into(), now.into()])?;
    if let Some(queue) = rows.int(0, 2) {
        counts::added(queue, 1);
    }
    Ok(retried(&rows))
}

/// How many. 40001 when somebody took the unique_key of one of them meanwhile.
pub fn retry_failed(session: &Session, queue: Option<i32>, kind: Option<Text>, batch: i32, now: Timestamp) -> Result<i64, Error> {
    statement!(RETRY, "retry_failed", [Int, Text, Int, Timestamp], Free);
    let rows = session.run(&RETRY, &[queue.into(), kind.into(), batch.into(), now.into()])?;
    counts::retried(&rows);
    let (taken, retried) = (rows.bigint(0, 1).unwrap_or(0), i64::try_from(candidates::made_ready(&rows, 2)).unwrap_or(0));
    if taken == retried { Ok(retried) } else { Err(Error::Contended) }
}

pub fn purge_failed(session: &Session, queue: i32, before: Timestamp, batch: i32) -> Result<usize, Error> {
    statement!(PURGE, "purge_dead", [Int, Timestamp, Int]);
    let rows = session.run(&PURGE, &[queue.into(), before.into(), batch.into()])?;
    counts::deleted(&rows);
    Ok(rows.count())
}

/// `state` is completed or cancelled.
pub fn purge_history(session: &Session, queue: i32, state: State, before: Timestamp, batch: i32) -> Result<usize, Error> {
    statement!(PURGE, "purge_history", [Int, Timestamp, Int, Text], Free);
    let letter = if state == State::Completed { "c" } else { "x" };
    let rows = session.run(&PURGE, &[queue.into(), before.into(), batch.into(), letter.into()])?;
    counts::deleted(&rows);
    Ok(rows.count())
}
