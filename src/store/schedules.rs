//! Schedules: what is enqueued when.

use super::statement;
use crate::clock::Timestamp;
use crate::error::Error;
use crate::pg::datum::Jsonb;
use crate::pg::spi::{Param, Rows, Session};
use uuid::Uuid;

/// What a schedule is made of, besides its name. Documents live as long as the rows or arguments they came from.
#[derive(Clone)]
pub struct Definition {
    /// Intervals count from here.
    pub anchor_at: Timestamp,
    pub starts_at: Option<Timestamp>,
    pub ends_at: Option<Timestamp>,
    /// None: the queue's; as priority and max_attempts.
    pub timeout_ms: Option<i64>,
    pub jitter_ms: i64,
    pub priority: Option<i32>,
    pub max_attempts: Option<i32>,
    pub catch_up_max: i32,
    pub cron: String,
    pub timezone: String,
    pub catch_up: String,
    pub overlap: String,
    pub queue: String,
    pub kind: String,
    pub headers: Option<Jsonb>,
    pub payload: Jsonb,
}

/// A row that is locked.
pub struct Schedule {
    pub id: Uuid,
    pub name: String,
    /// The next tick.
    pub next_at: Option<Timestamp>,
    /// Vain attempts to enqueue it.
    pub failures: i32,
    pub paused: bool,
    pub definition: Definition,
}

impl Definition {
    fn params(&self) -> [Param; 16] {
        [
            self.anchor_at.into(),
            self.starts_at.into(),
            self.ends_at.into(),
            self.timeout_ms.into(),
            self.jitter_ms.into(),
            self.priority.into(),
            self.max_attempts.into(),
            self.catch_up_max.into(),
            self.cron.as_str().into(),
            self.timezone.as_str().into(),
            self.catch_up.as_str().into(),
            self.overlap.as_str().into(),
            self.queue.as_str().into(),
            self.kind.as_str().into(),
            self.headers.into(),
            self.payload.into(),
        ]
    }
}

/// False when the name is taken.
pub fn create(
    session: &Session,
    id: Uuid,
    name: &str,
    now: Timestamp,
    next: Option<Timestamp>,
    definition: &Definition,
) -> Result<bool, Error> {
    statement!(
        CREATE,
        "create_schedule",
        [
            Uuid, Timestamp, Text, Timestamp, Timestamp, Timestamp, Timestamp, BigInt, BigInt, Int, Int, Int, Text, Text, Text,
            Text, Text, Text, Jsonb, Jsonb
        ]
    );
    let head: [Param; 4] = [id.into(), now.into(), name.into(), next.into()];
    let params: Vec<Param> = head.into_iter().chain(definition.params()).collect();
    Ok(session.run(&CREATE, &params)?.count() == 1)
}

pub fn alter(session: &Session, id: Uuid, next: Option<Timestamp>, definition: &Definition) -> Result<(), Error> {
    statement!(
        ALTER,
        "alter_schedule",
        [
            Uuid, Timestamp, Timestamp, Timestamp, Timestamp, BigInt, BigInt, Int, Int, Int, Text, Text, Text, Text, Text, Text,
            Jsonb, Jsonb
        ]
    );
    let head: [Param; 2] = [id.into(), next.into()];
    let params: Vec<Param> = head.into_iter().chain(definition.params()).collect();
    session.run(&ALTER, &params)?;
    Ok(())
}

/// The row of a schedule, locked; `read` it while it lives.
pub fn lock<'s>(session: &'s Session, name: &str) -> Result<Rows<'s>, Error> {
    statement!(LOCK, "lock_schedule", [Text]);
    session.run(&LOCK, &[name.into()])
}

/// The same of one that is due; no row if somebody else has it locked.
pub fn lock_due<'s>(session: &'s Session, id: Uuid, now: Timestamp) -> Result<Rows<'s>, Error> {
    statement!(LOCK, "lock_due_schedule", [Uuid, Timestamp]);
    session.run(&LOCK, &[id.into(), now.into()])
}

pub fn read(rows: &Rows<'_>) -> Option<Schedule> {
    Some(Schedule {
        id: rows.uuid(0, 1)?,
        name: rows.string(0, 2)?,
        next_at: rows.timestamp(0, 3),
        failures: rows.int(0, 4)?,
        paused: rows.boolean(0, 5)?,
        definition: Definition {
            anchor_at: rows.timestamp(0, 6)?,
            starts_at: rows.timestamp(0, 7),
            ends_at: rows.timestamp(0, 8),
            timeout_ms: rows.bigint(0, 9),
            jitter_ms: rows.bigint(0, 10)?,
            priority: rows.int(0, 11),
            max_attempts: rows.int(0, 12),
            catch_up_max: rows.int(0, 13)?,
            cron: rows.string(0, 14)?,
            timezone: rows.string(0, 15)?,
            catch_up: rows.string(0, 16)?,
            overlap: rows.string(0, 17)?,
            queue: rows.string(0, 18)?,
            kind: rows.string(0, 19)?,
            headers: rows.jsonb(0, 20),
            payload: rows.jsonb(0, 21)?,
        },
    })
}

/// The next schedules to look at, due or not: ids and when.
pub fn due(session: &Session, limit: i32) -> Result<Vec<(Uuid, Timestamp)>, Error> {
    statement!(DUE, "due_schedules", [Int]);
    let rows = session.run(&DUE, &[limit.into()])?;
    Ok((0..rows.count()).filter_map(|row| rows.uuid(row, 1).zip(rows.timestamp(row, 2))).collect())
}

/// What preview needs of a schedule.
pub struct Times {
    pub next_at: Option<Timestamp>,
    pub anchor_at: Timestamp,
    pub starts_at: Option<Timestamp>,
    pub ends_at: Option<Timestamp>,
    pub cron: String,
    pub timezone: String,
}

pub fn times(session: &Session, name: &str) -> Result<Times, Error> {
    statement!(TIMES, "schedule_times", [Text]);
    let rows = session.look(&TIMES, &[name.into()])?;
    let times = || -> Option<Times> {
        Some(Times {
            next_at: rows.timestamp(0, 1),
            anchor_at: rows.timestamp(0, 2)?,
            starts_at: rows.timestamp(0, 3),
            ends_at: rows.timestamp(0, 4),
            cron: rows.string(0, 5)?,
            timezone: rows.string(0, 6)?,
        })
    };
    times().ok_or_else(|| Error::UnknownSchedule { schedule: name.into() })
}

/// A tick that was run.
#[derive(Clone, Copy)]
pub struct Run {
    pub tick: Timestamp,
    pub at: Timestamp,
    pub job: Uuid,
}

/// Moves a schedule that is locked on to its next tick.
pub fn ticked(session: &Session, id: Uuid, next: Option<Timestamp>, last: Option<Run>) -> Result<(), Error> {
    statement!(TICKED, "schedule_ticked", [Uuid, Timestamp, Timestamp, Timestamp, Uuid]);
    let (tick, at, job) = (last.map(|run| run.tick), last.map(|run| run.at), last.map(|run| run.job));
    session.run(&TICKED, &[id.into(), next.into(), tick.into(), at.into(), job.into()])?;
    Ok(())
}

/// The next tick could not be enqueued.
pub fn failed(session: &Session, id: Uuid, now: Timestamp, error: &str) -> Result<(), Error> {
    statement!(FAILED, "schedule_failed", [Uuid, Timestamp, Text]);
    session.run(&FAILED, &[id.into(), now.into(), error.into()])?;
    Ok(())
}

/// run_now has enqueued a job.
pub fn ran(session: &Session, id: Uuid, now: Timestamp, job: Uuid) -> Result<(), Error> {
    statement!(RAN, "schedule_ran", [Uuid, Timestamp, Uuid]);
    session.run(&RAN, &[id.into(), now.into(), job.into()])?;
    Ok(())
}

pub fn set_paused(session: &Session, id: Uuid, paused: bool, next: Option<Timestamp>) -> Result<bool, Error> {
    statement!(SET_PAUSED, "set_schedule_paused", [Uuid, Bool, Timestamp]);
    Ok(session.run(&SET_PAUSED, &[id.into(), paused.into(), next.into()])?.count() == 1)
}

/// False when there was none.
pub fn drop(session: &Session, name: &str) -> Result<bool, Error> {
    statement!(DROP, "drop_schedule", [Text]);
    Ok(session.run(&DROP, &[name.into()])?.count() == 1)
}

/// How many schedules enqueue to a queue, and the first of them.
pub fn of_queue(session: &Session, queue: &str) -> Result<(i64, Option<String>), Error> {
    statement!(OF_QUEUE, "schedules_of_queue", [Text], Free);
    let rows = session.run(&OF_QUEUE, &[queue.into()])?;
    Ok((rows.bigint(0, 1).unwrap_or(0), rows.string(0, 2)))
}

/// The headers of a job: one row with one document.
pub fn headers<'s>(session: &'s Session, own: Option<Jsonb>, name: &str, tick: Option<Timestamp>) -> Result<Rows<'s>, Error> {
    statement!(HEADERS, "tick_headers", [Jsonb, Text, Timestamp], Free);
    session.run(&HEADERS, &[own.into(), name.into(), tick.into()])
}
