//! create_queue, alter_queue, drop_queue, pause, resume.

use super::{options, priority, required, within};
use crate::clock::Timestamp;
use crate::error::Error;
use crate::pg::call::{Answer, Call, Outcome};
use crate::pg::datum::{JsonKind, Jsonb};
use crate::pg::spi::Session;
use crate::pg::switch::as_owner;
use crate::rules::backoff::Backoff;
use crate::rules::limits::{
    ATTEMPTS_MAX, CRASHES_MAX, LEASE_MAX_MS, LEASE_MIN_MS, RETENTION_MAX_MS, RETENTION_MIN_MS, TIMEOUT_MAX_MS,
};
use crate::rules::names::{self, DEFAULT_QUEUE};
use crate::store;
use crate::store::queues::Options;

/// Below 2^53, as every number that leaves jobq.
const DEPTH_MAX: i64 = (1 << 53) - 1;

/// The queue named by the first argument.
fn name(call: &Call, argument: &'static str) -> Result<String, Error> {
    let text = required(call.text(0), argument)?;
    let name = text.utf8(argument)?;
    names::queue(argument, name)?;
    Ok(name.to_string())
}

fn backoff(given: Option<Jsonb>) -> Result<Option<Jsonb>, Error> {
    let Some(document) = given else { return Ok(None) };
    if document.kind() != JsonKind::Object {
        return Err(Error::invalid("backoff", "be a JSON object"));
    }
    Backoff::parse(&document.to_text()).map(|_| Some(document))
}

/// The option arguments, which create_queue and alter_queue share.
fn given_options(call: &Call) -> Result<Options, Error> {
    options(call.jsonb(10), &[])?;
    Ok(Options {
        default_priority: priority(call.int(1), "default_priority")?,
        max_attempts: call.int(2).map(|n| within(n, "max_attempts", 1, ATTEMPTS_MAX)).transpose()?,
        lease_ms: call.interval(3).map(|span| span.millis("lease_for", LEASE_MIN_MS, LEASE_MAX_MS)).transpose()?,
        timeout_ms: call.interval(4).map(|span| span.millis("timeout", 0, TIMEOUT_MAX_MS)).transpose()?,
        backoff: backoff(call.jsonb(5))?,
        max_crashes: call.int(6).map(|n| within(n, "max_crashes", 1, CRASHES_MAX)).transpose()?,
        retention_ms: call.interval(7).map(|span| span.millis("retention", RETENTION_MIN_MS, RETENTION_MAX_MS)).transpose()?,
        keep_completed: call.boolean(8),
        max_depth: call.bigint(9).map(|n| within(n, "max_depth", 0, DEPTH_MAX)).transpose()?,
    })
}

const NOTHING_GIVEN: Options = Options {
    default_priority: None,
    max_attempts: None,
    lease_ms: None,
    timeout_ms: None,
    backoff: None,
    max_crashes: None,
    retention_ms: None,
    keep_completed: None,
    max_depth: None,
};

/// `jobq.create_queue(name, default_priority, max_attempts, lease_for, timeout, backoff, max_crashes, retention, keep_completed,
/// max_depth, options)`
pub fn create_queue(call: &Call) -> Outcome {
    let name = name(call, "name")?;
    let options = given_options(call)?;
    let exists = || Error::QueueExists { queue: name.clone() };
    if name == DEFAULT_QUEUE {
        return Err(exists());
    }
    as_owner(
        |session| {
            if store::queues::create(session, None, &name, Timestamp::now(), &options)? { Ok(()) } else { Err(exists()) }
        },
    )?;
    Ok(Answer::Bool(true))
}

/// The id of a queue whose row is locked; "default" gets its row here.
fn lock(session: &Session, name: &str) -> Result<i32, Error> {
    if let Some(id) = store::queues::lock(session, name)? {
        return Ok(id);
    }
    if name == DEFAULT_QUEUE {
        store::queues::create(session, Some(0), name, Timestamp::now(), &NOTHING_GIVEN)?;
        if let Some(id) = store::queues::lock(session, name)? {
            return Ok(id);
        }
    }
    Err(Error::UnknownQueue { queue: name.into() })
}

/// `jobq.alter_queue(...)`: arguments as in create_queue
pub fn alter_queue(call: &Call) -> Outcome {
    let name = name(call, "name")?;
    let options = given_options(call)?;
    let changed = as_owner(|session| {
        let id = lock(session, &name)?;
        store::queues::alter(session, id, &options)
    })?;
    Ok(Answer::Bool(changed))
}

/// `jobq.drop_queue(name, force)`
pub fn drop_queue(call: &Call) -> Outcome {
    let name = name(call, "name")?;
    let force = call.boolean(1).unwrap_or(false);
    if name == DEFAULT_QUEUE {
        return Err(Error::invalid("name", "not be default: that queue is always there"));
    }
    let dropped = as_owner(|session| {
        let id = lock(session, &name)?;
        let unfinished = store::queues::count_unfinished(session, id)?;
        if unfinished > 0 && !force {
            return Err(Error::QueueInUse { queue: name.clone(), unfinished });
        }
        if let (schedules @ 1.., first) = store::schedules::of_queue(session, &name)?
            && !force
        {
            return Err(Error::QueueScheduled { queue: name.clone(), schedules, first: first.unwrap_or_default() });
        }
        store::queues::drop(session, id, Timestamp::now(), force)
    })?;
    Ok(Answer::BigInt(dropped))
}

fn set_paused(call: &Call, paused: bool) -> Outcome {
    let name = name(call, "queue")?;
    let changed = as_owner(|session| {
        let id = lock(session, &name)?;
        store::queues::set_paused(session, id, paused)
    })?;
    Ok(Answer::Bool(changed))
}

/// `jobq.pause(queue)`
pub fn pause(call: &Call) -> Outcome {
    set_paused(call, true)
}

/// `jobq.resume(queue)`
pub fn resume(call: &Call) -> Outcome {
    set_paused(call, false)
}
