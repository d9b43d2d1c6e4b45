//! Queues and their options.

use super::statement;
use crate::clock::Timestamp;
use crate::error::Error;
use crate::pg::datum::Jsonb;
use crate::pg::spi::{Param, Session};
use crate::pg::{counts, leases, notes};
use crate::rules::names::DEFAULT_QUEUE;

/// What enqueue and claim need of a queue.
#[derive(Debug, Clone)]
pub struct Queue {
    pub id: i32,
    pub name: String,
    pub default_priority: i32,
    pub max_attempts: i32,
    pub lease_ms: i64,
    /// 0: none.
    pub timeout_ms: i64,
    /// 0: none.
    pub max_depth: i64,
    pub paused: bool,
}

/// Option values of create_queue and alter_queue; None: not given.
pub struct Options {
    pub default_priority: Option<i32>,
    pub max_attempts: Option<i32>,
    pub lease_ms: Option<i64>,
    pub timeout_ms: Option<i64>,
    pub backoff: Option<Jsonb>,
    pub max_crashes: Option<i32>,
    pub retention_ms: Option<i64>,
    pub keep_completed: Option<bool>,
    pub max_depth: Option<i64>,
}

impl Options {
    fn params(&self) -> [Param; 9] {
        [
            self.default_priority.into(),
            self.max_attempts.into(),
            self.lease_ms.into(),
            self.timeout_ms.into(),
            self.backoff.into(),
            self.max_crashes.into(),
            self.retention_ms.into(),
            self.keep_completed.into(),
            self.max_depth.into(),
        ]
    }
}

/// A queue by name; 42704 when there is none. "default" has no row until it is altered.
pub fn by_name(session: &Session, name: &str) -> Result<Queue, Error> {
    statement!(BY_NAME, "queue_by_name", [Text]);
    let rows = session.run(&BY_NAME, &[name.into()])?;
    let queue = || -> Option<Queue> {
        Some(Queue {
            id: rows.int(0, 1)?,
            name: name.into(),
            default_priority: rows.int(0, 2)?,
            max_attempts: rows.int(0, 3)?,
            lease_ms: rows.bigint(0, 4)?,
            timeout_ms: rows.bigint(0, 5)?,
            max_depth: rows.bigint(0, 6)?,
            paused: rows.boolean(0, 7)?,
        })
    };
    Queue::or_default(queue(), name)
}

impl Queue {
    /// What was found by this name, or "default" as it is before anybody alters it.
    pub fn or_default(found: Option<Queue>, name: &str) -> Result<Queue, Error> {
        match found {
            Some(queue) => Ok(queue),
            None if name == DEFAULT_QUEUE => Ok(Queue {
                id: 0,
                name: name.into(),
                default_priority: 2,
                max_attempts: 3,
                lease_ms: 300_000,
                timeout_ms: 0,
                max_depth: 0,
                paused: false,
            }),
            None => Err(Error::UnknownQueue { queue: name.into() }),
        }
    }
}

/// Has the queue at least `depth` unfinished jobs?
pub fn is_as_deep_as(session: &Session, queue: i32, depth: i64) -> Result<bool, Error> {
    statement!(DEPTH, "queue_depth", [Int, BigInt]);
    Ok(session.run(&DEPTH, &[queue.into(), depth.into()])?.boolean(0, 1).unwrap_or(false))
}

/// Locks a queue's row against other operators: its id. None for an unknown queue and for "default" without a row.
pub fn lock(session: &Session, name: &str) -> Result<Option<i32>, Error> {
    statement!(LOCK, "lock_queue", [Text]);
    Ok(session.run(&LOCK, &[name.into()])?.int(0, 1))
}

/// Makes a queue; false when the name is taken. `id` 0 makes the row of "default".
pub fn create(session: &Session, id: Option<i32>, name: &str, now: Timestamp, options: &Options) -> Result<bool, Error> {
    statement!(CREATE, "create_queue", [Int, Text, Timestamp, Int, Int, BigInt, BigInt, Jsonb, Int, BigInt, Bool, BigInt]);
    let head: [Param; 3] = [id.into(), name.into(), now.into()];
    let params: Vec<Param> = head.into_iter().chain(options.params()).collect();
    Ok(session.run(&CREATE, &params)?.count() == 1)
}

/// Changes the options that are given; false when nothing differs.
pub fn alter(session: &Session, id: i32, options: &Options) -> Result<bool, Error> {
    statement!(ALTER, "alter_queue", [Int, Int, Int, BigInt, BigInt, Jsonb, Int, BigInt, Bool, BigInt]);
    let params: Vec<Param> = [Param::from(id)].into_iter().chain(options.params()).collect();
    Ok(session.run(&ALTER, &params)?.count() == 1)
}

pub fn set_paused(session: &Session, id: i32, paused: bool) -> Result<bool, Error> {
    statement!(SET_PAUSED, "set_paused", [Int, Bool]);
    let changed = session.run(&SET_PAUSED, &[id.into(), paused.into()])?.count() == 1;
    if changed && !paused {
        notes::resumed(&notes::key(id));
    }
    Ok(changed)
}

pub fn count_unfinished(session: &Session, id: i32) -> Result<i64, Error> {
    statement!(COUNT, "count_unfinished", [Int]);
    Ok(session.run(&COUNT, &[id.into()])?.bigint(0, 1).unwrap_or(0))
}

/// Leaves a tombstone and deletes failed jobs and, with `force`, unfinished ones: how many.
pub fn drop(session: &Session, id: i32, now: Timestamp, force: bool) -> Result<i64, Error> {
    statement!(DROP, "drop_queue", [Int, Timestamp, Bool]);
    notes::forget(&notes::key(id));
    leases::unsettles();
    counts::lose();
    Ok(session.run(&DROP, &[id.into(), now.into(), force.into()])?.bigint(0, 1).unwrap_or(0))
}

/// Notifies of the queues that are not paused and whose ids leave one of these remainders.
pub fn notify(session: &Session, channel: &str, remainders: &[i64], divisor: i64) -> Result<(), Error> {
    statement!(NOTIFY, "notify", [Text, BigIntArray, BigInt], Free);
    session.run(&NOTIFY, &[channel.into(), remainders.into(), divisor.into()])?;
    Ok(())
}

/// The longest retention of any queue, in ms.
pub fn longest_retention_ms(session: &Session) -> Result<i64, Error> {
    statement!(LONGEST, "longest_retention", [], Free);
    Ok(session.run(&LONGEST, &[])?.bigint(0, 1).unwrap_or(0))
}
