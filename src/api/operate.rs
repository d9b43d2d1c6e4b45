//! What operators do to single jobs and to many: cancel, reschedule, retry, delete, purge, rescue.

use super::{batch, history_slot, label, priority, queue_name, required, run_at, within};
use crate::background::{is_original, maintainer, rescue};
use crate::clock::Timestamp;
use crate::error::Error;
use crate::pg;
use crate::pg::call::{Answer, Call, Outcome};
use crate::pg::spi::{Param, Session};
use crate::pg::switch::as_owner;
use crate::rules::limits::{AHEAD_MAX_MS, ATTEMPTS_MAX, PASS_DEFAULT, PURGE_DEFAULT, PURGE_MAX};
use crate::rules::state::State;
use crate::store;
use crate::store::finish::Cancelled;
use crate::store::operate::Retried;
use uuid::Uuid;

/// The state of a finished job; JQ003 when there is none.
fn finished_state(session: &Session, id: Uuid, now: Timestamp) -> Result<State, Error> {
    store::operate::whereabouts(session, id, now)?.map(|job| job.state).ok_or(Error::NoSuchJob { id })
}

fn illegal(id: Uuid, verb: &'static str, state: State, hint: &'static str) -> Error {
    Error::IllegalMove { id, verb, state: state.to_string(), hint }
}

/// `jobq.cancel(id)`
pub fn cancel(call: &Call) -> Outcome {
    let id = required(call.uuid(0), "id")?;
    let now = Timestamp::now();
    let state = as_owner(|session| match store::operate::lock_unfinished(session, id)? {
        None => finished_state(session, id, now),
        Some(job) if job.state == State::Running => {
            store::operate::request_cancel(session, id)?;
            Ok(State::Running)
        }
        Some(job) => {
            let how = Cancelled { error: Param::NULL, crashes_added: 0, slot: history_slot(session, now)? };
            // Nobody finished it: whoever held it before must not read so.
            let fence = rescue::fence(job.lease, now);
            store::finish::archive_cancelled(session, id, fence, &how, now)?;
            Ok(State::Cancelled)
        }
    })?;
    Ok(Answer::Text(state.word().into()))
}

/// `jobq.reschedule(id, run_at, priority, max_attempts)`
pub fn reschedule(call: &Call) -> Outcome {
    const HINT: &str = "Only pending jobs can be rescheduled. Failed and cancelled ones: jobq.retry.";
    let id = required(call.uuid(0), "id")?;
    let now = Timestamp::now();
    let at = run_at(now, call.timestamp(1), None)?;
    let priority = priority(call.int(2), "priority")?;
    let max_attempts = call.int(3).map(|n| within(n, "max_attempts", 1, ATTEMPTS_MAX)).transpose()?;
    as_owner(|session| match store::operate::lock_unfinished(session, id)? {
        None => Err(illegal(id, "reschedule", finished_state(session, id, now)?, HINT)),
        Some(job) if job.state == State::Running => Err(illegal(id, "reschedule", State::Running, HINT)),
        Some(job) if max_attempts.is_some_and(|max| max < job.attempt.saturating_add(1)) => {
            let rule = format!("be more than the {} attempts already made", job.attempt);
            Err(Error::invalid("max_attempts", rule))
        }
        Some(_) => store::operate::reschedule(session, id, at, at > now, priority, max_attempts),
    })?;
    Ok(Answer::Text(State::Pending.word().into()))
}

/// `jobq.retry(id)`
pub fn retry(call: &Call) -> Outcome {
    const HINT: &str = "Only failed and cancelled jobs can be retried. A pending one: jobq.reschedule.";
    let id = required(call.uuid(0), "id")?;
    let now = Timestamp::now();
    as_owner(|session| {
        let job = store::operate::whereabouts(session, id, now)?.ok_or(Error::NoSuchJob { id })?;
        let state = job.state;
        if state.is_final() && job.queue_dropped {
            return Err(illegal(id, "retry", state, "Its queue was dropped."));
        }
        let retried = match state {
            State::Failed => store::operate::retry_failed_job(session, id, now)?,
            State::Cancelled => store::operate::retry_cancelled_job(session, id, now)?,
            other => return Err(illegal(id, "retry", other, HINT)),
        };
        match retried {
            Retried::Done => Ok(()),
            Retried::KeyTaken => {
                Err(illegal(id, "retry", state, "Another unfinished job has its unique_key: finish or cancel that one first."))
            }
            // Somebody else was faster: retried, deleted or purged it.
            Retried::Gone => Err(illegal(id, "retry", finished_state(session, id, Timestamp::now())?, HINT)),
        }
    })?;
    Ok(Answer::Text(State::Pending.word().into()))
}

/// `jobq.retry_failed(queue, kind, batch)`
pub fn retry_failed(call: &Call) -> Outcome {
    let queue_argument = call.text(0);
    let queue = queue_name(&queue_argument, "queue")?;
    let kind = call.text(1);
    if let Some(kind) = &kind {
        label(kind, "kind")?;
    }
    let batch = batch(call.int(2), PASS_DEFAULT)?;
    let retried = as_owner(|session| {
        let queue = queue.map(|name| store::queues::by_name(session, name)).transpose()?;
        store::operate::retry_failed(session, queue.map(|queue| queue.id), kind, batch, Timestamp::now())
    })?;
    Ok(Answer::Int(i32::try_from(retried).unwrap_or(i32::MAX)))
}

/// `jobq.delete(id)`
pub fn delete(call: &Call) -> Outcome {
    const DELETE_TRIES: usize = 10;
    const HINT: &str = "Cancel it and wait for its worker, or for its rescue.";
    let id = required(call.uuid(0), "id")?;
    let deleted = as_owner(|session| {
        // Again while it moves from one place to another: retried or finished by somebody else just now.
        for _ in 0..DELETE_TRIES {
            let deleted = match store::operate::lock_unfinished(session, id)? {
                Some(job) if job.state == State::Running => return Err(illegal(id, "delete", State::Running, HINT)),
                Some(_) => store::operate::delete_pending(session, id)?,
                None => store::operate::delete_finished(session, id)?,
            };
            if deleted || store::operate::whereabouts(session, id, Timestamp::now())?.is_none() {
                return Ok(deleted);
            }
        }
        Err(Error::Contended)
    })?;
    Ok(Answer::Bool(deleted))
}

/// `jobq.purge(queue, state, older_than, batch)`
pub fn purge(call: &Call) -> Outcome {
    let queue_argument = call.text(0);
    let name = required(queue_name(&queue_argument, "queue")?, "queue")?;
    let state_argument = required(call.text(1), "state")?;
    let word = state_argument.utf8("state")?;
    let state = State::from_word(word)
        .filter(|state| state.is_final())
        .ok_or_else(|| Error::invalid_value("state", "be completed, cancelled or failed", word.escape_debug()))?;
    let older_than_ms = required(call.interval(2), "older_than")?.millis("older_than", 0, AHEAD_MAX_MS)?;
    let batch = call.int(3).map_or(Ok(PURGE_DEFAULT), |n| within(n, "batch", 1, PURGE_MAX))?;
    let before = Timestamp::now().minus_ms(older_than_ms);
    let purged = as_owner(|session| {
        let queue = store::queues::by_name(session, name)?;
        if state == State::Failed {
            store::operate::purge_failed(session, queue.id, before, batch)
        } else {
            store::operate::purge_history(session, queue.id, state, before, batch)
        }
    })?;
    Ok(Answer::BigInt(i64::try_from(purged).unwrap_or(i64::MAX)))
}

/// `jobq.rescue_zombies(older_than, batch)`
pub fn rescue_zombies(call: &Call) -> Outcome {
    let older_than_ms = call.interval(0).map(|span| span.millis("older_than", 1, AHEAD_MAX_MS)).transpose()?;
    let batch = batch(call.int(1), PASS_DEFAULT)?;
    let rescued = as_owner(|session| rescue::run(session, older_than_ms, false, batch))?;
    Ok(Answer::Int(i32::try_from(rescued).unwrap_or(i32::MAX)))
}

/// `jobq.resume_after_restore()`
pub fn resume_after_restore(_: &Call) -> Outcome {
    pg::server::refuse_if_read_only(c"jobq.resume_after_restore()");
    let changed = as_owner(|session| {
        let waited = !is_original(session)?;
        if waited {
            store::maintenance::adopt(session, pg::server::database_oid())?;
        }
        Ok(waited)
    })?;
    pg::notes::forget_all();
    pg::xact::announce_at_commit();
    Ok(Answer::Bool(changed))
}

/// `jobq.tick()`
pub fn tick(_: &Call) -> Outcome {
    let done = as_owner(|session| {
        if is_original(session)? {
            return maintainer::run_once(session);
        }
        pgrx::warning!("jobq: this database was restored or copied; nothing runs here until jobq.resume_after_restore()");
        Ok(0)
    })?;
    Ok(Answer::Int(i32::try_from(done).unwrap_or(i32::MAX)))
}
