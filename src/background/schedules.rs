//! The duty that enqueues what schedules say, each tick once: the job is added and the schedule moved on in one transaction, under the
//! lock of its row. Ticks only go forward, whatever the clock does.

use super::is_original;
use crate::clock::Timestamp;
use crate::error::Error;
use crate::pg::datum::Text;
use crate::pg::process::transaction;
use crate::pg::server;
use crate::pg::shmem::Maintainer;
use crate::pg::spi::Session;
use crate::pg::switch::without_long_waits;
use crate::rules::cron::Rhythm;
use crate::rules::timetable::{CatchUp, Timetable, jitter_ms, zone};
use crate::settings;
use crate::store::enqueue::{NewJob, UniqueKey, add_or_find};
use crate::store::queues;
use crate::store::schedules::{self, Definition, Run, Schedule};
use std::sync::atomic::Ordering::SeqCst;
use uuid::Uuid;

/// Schedules and jobs of one transaction.
const BATCH: i32 = 50;
const JOBS: usize = 100;
/// Transactions in one go; other duties wait.
const PASSES: usize = 10;
/// When all that is due is locked by others.
const LOCKED_PAUSE_MICROS: i64 = 100_000;
/// What no session told of, a restore or a transaction prepared before its commit, is found so soon.
const LOOK_MICROS: i64 = 1_000_000;
const ERROR_CHARS: usize = 1_000;
const ERROR_REST_MICROS: i64 = 10_000_000;

/// The timetable that a schedule's texts say.
pub fn timetable(
    cron: &str,
    timezone: &str,
    anchor_at: Timestamp,
    starts_at: Option<Timestamp>,
    ends_at: Option<Timestamp>,
) -> Result<Timetable, Error> {
    Ok(Timetable {
        rhythm: Rhythm::parse(cron)?,
        zone: zone(timezone)?,
        anchor: anchor_at.0,
        starts_at: starts_at.map(|at| at.0),
        ends_at: ends_at.map(|at| at.0),
    })
}

impl Definition {
    pub fn timetable(&self) -> Result<Timetable, Error> {
        timetable(&self.cron, &self.timezone, self.anchor_at, self.starts_at, self.ends_at)
    }

    fn catch_up(&self) -> CatchUp {
        match self.catch_up.as_str() {
            "skip" => CatchUp::Skip,
            "all" => CatchUp::All { most: self.catch_up_max },
            _ => CatchUp::Last,
        }
    }
}

impl Schedule {
    /// The key that keeps a job from being enqueued beside another one; none for run_now beside everything.
    fn unique(&self, tick: Option<Timestamp>) -> Option<UniqueKey> {
        let (key, while_pending) = match (self.definition.overlap.as_str(), tick) {
            ("skip", _) => (format!("schedule/{}", self.name), false),
            ("queue", _) => (format!("schedule/{}", self.name), true),
            (_, Some(tick)) => (format!("schedule/{}/{}", self.name, tick.0), false),
            (_, None) => return None,
        };
        Some(UniqueKey { key: Text::of(&key), while_pending })
    }

    /// Enqueues the job of a tick, or the one of run_now: its id, and whether it is new.
    fn enqueue(&self, session: &Session, tick: Option<Timestamp>, now: Timestamp) -> Result<(Uuid, bool), Error> {
        let Definition { priority, max_attempts, timeout_ms, headers, payload, ref kind, .. } = self.definition;
        let (bytes, limit) = (payload.bytes(), settings::max_payload_bytes());
        if bytes > limit {
            let (limit, size) = (format!("{limit} bytes"), format!("{bytes} bytes"));
            return Err(Error::TooLong { argument: "payload", limit, size });
        }
        let queue = queues::by_name(session, &self.definition.queue)?;
        let run_at = tick.map_or(now, |tick| tick.plus_ms(jitter_ms(&self.name, tick.0, self.definition.jitter_ms)));
        let headers = schedules::headers(session, headers, &self.name, tick)?;
        let job = NewJob {
            enqueued_at: now,
            run_at,
            scheduled: run_at > now,
            timeout_ms,
            queue: queue.id,
            priority: priority.unwrap_or(queue.default_priority),
            max_attempts: max_attempts.unwrap_or(queue.max_attempts),
            headers: headers.jsonb(0, 1),
            kind,
        };
        add_or_find(session, &queue, Uuid::now_v7(), &job, payload.into(), self.unique(tick))
    }
}

/// Enqueues a schedule's job now, apart from its ticks: its id, or that of the one that is there already.
pub fn run_now(session: &Session, name: &str) -> Result<Uuid, Error> {
    let now = Timestamp::now();
    let rows = schedules::lock(session, name)?;
    let schedule = schedules::read(&rows).ok_or_else(|| Error::UnknownSchedule { schedule: name.into() })?;
    let (job, is_new) = schedule.enqueue(session, None, now)?;
    if is_new {
        schedules::ran(session, schedule.id, now, job)?;
    }
    Ok(job)
}

/// What one transaction has done.
#[derive(Default)]
struct Pass {
    schedules: usize,
    jobs: usize,
    /// For the log, when it has committed: once, not at each try.
    failures: Vec<String>,
    next_due: Option<Timestamp>,
}

/// Runs what is due, some at a time.
fn pass(session: &Session) -> Result<Pass, Error> {
    let now = Timestamp::now();
    let due = schedules::due(session, BATCH)?;
    let mut pass = Pass::default();
    for (id, _) in due.iter().filter(|(_, due_at)| *due_at <= now) {
        tick(session, *id, now, &mut pass)?;
        if pass.jobs >= JOBS {
            break;
        }
        server::check_for_interrupts();
    }
    let due = if pass.schedules > 0 { schedules::due(session, 1)? } else { due };
    pass.next_due = due.first().map(|(_, due_at)| *due_at);
    Ok(pass)
}

/// Runs the due ticks of one schedule, some at a time; nothing if somebody else has it.
fn tick(session: &Session, id: Uuid, now: Timestamp, pass: &mut Pass) -> Result<(), Error> {
    let rows = schedules::lock_due(session, id, now)?;
    let Some((schedule, mut next)) = schedules::read(&rows).and_then(|schedule| schedule.next_at.map(|next| (schedule, next)))
    else {
        return Ok(());
    };
    let mut last = None;
    let mut run = || -> Result<Option<Timestamp>, Error> {
        let table = schedule.definition.timetable()?;
        let due = table.due(next.0, now.0, schedule.definition.catch_up(), JOBS);
        for at in due.ticks.into_iter().map(Timestamp) {
            next = at;
            let (job, _) = schedule.enqueue(session, Some(at), now)?;
            last = Some(Run { tick: at, at: now, job });
            pass.jobs = pass.jobs.saturating_add(1);
        }
        Ok(due.then.map(Timestamp))
    };
    match run() {
        Ok(then) => schedules::ticked(session, id, then, last)?,
        Err(refusal) => {
            if last.is_some() {
                schedules::ticked(session, id, Some(next), last)?;
            }
            note_failure(session, &schedule, now, &refusal.message(), pass)?;
        }
    }
    pass.schedules = pass.schedules.saturating_add(1);
    Ok(())
}

fn note_failure(session: &Session, schedule: &Schedule, now: Timestamp, message: &str, pass: &mut Pass) -> Result<(), Error> {
    if schedule.failures == 0 {
        pass.failures.push(format!("schedule {} could not enqueue: {message}; it is tried again", schedule.name));
    }
    let keeps_unicode = server::keeps_unicode();
    let shown = message.chars().take(ERROR_CHARS).map(|c| if c.is_ascii() || keeps_unicode { c } else { '?' });
    schedules::failed(session, schedule.id, now, &shown.collect::<String>())
}

/// All that is due, for jobq.tick(): how many schedules.
pub fn run_once(session: &Session) -> Result<usize, Error> {
    let mut done = 0usize;
    for _ in 0..PASSES {
        let pass = pass(session)?;
        done = done.saturating_add(pass.schedules);
        if pass.schedules == 0 {
            break;
        }
    }
    Ok(done)
}

/// The maintainer's.
#[derive(Default)]
pub struct Schedules {
    next_due: Option<Timestamp>,
    changes_seen: u32,
    /// By the clock that nobody sets.
    look_at: i64,
    not_before: i64,
}

impl Schedules {
    /// Microseconds until there is something to do; the end of time when there is not.
    pub fn due_in(&self, slot: &Maintainer) -> i64 {
        let rest = self.not_before.saturating_sub(server::monotonic_micros());
        if slot.schedules_changed.load(SeqCst) != self.changes_seen {
            return rest;
        }
        self.next_due.map_or(i64::MAX, |due| due.0.saturating_sub(Timestamp::now().0).max(rest))
    }

    pub fn keep_up(&mut self, slot: &Maintainer) -> Result<(), String> {
        match self.run(slot) {
            // The other duties have nothing to do with it, unless the extension is gone, or the data are those of a restore.
            Err(message) if matches!(transaction(c"look", is_original), Ok(true)) => {
                pgrx::log!("jobq maintainer: {message}; schedules go on in {} s", ERROR_REST_MICROS / 1_000_000);
                self.not_before = server::monotonic_micros().saturating_add(ERROR_REST_MICROS);
                self.next_due = Some(Timestamp::now());
                Ok(())
            }
            outcome => outcome,
        }
    }

    fn run(&mut self, slot: &Maintainer) -> Result<(), String> {
        let now = server::monotonic_micros();
        if now < self.not_before || (self.due_in(slot) > 0 && now < self.look_at) {
            return Ok(());
        }
        self.changes_seen = slot.schedules_changed.load(SeqCst);
        self.look_at = now.saturating_add(LOOK_MICROS);
        for _ in 0..PASSES {
            let done = match committed(pass) {
                Ok(pass) => pass,
                // One of them has met an error of the server: the others have not.
                Err(_) => one_by_one()?,
            };
            self.next_due = done.next_due;
            let is_due = done.next_due.is_some_and(|due| due <= Timestamp::now());
            if is_due && done.schedules == 0 {
                self.not_before = server::monotonic_micros().saturating_add(LOCKED_PAUSE_MICROS);
            }
            if !is_due || done.schedules == 0 {
                break;
            }
        }
        Ok(())
    }

    /// Nothing runs in this database for now.
    pub fn rest(&mut self, slot: &Maintainer) {
        *self = Schedules { changes_seen: slot.schedules_changed.load(SeqCst), ..Schedules::default() };
    }
}

/// A transaction of the maintainer's; undone if the data turn out to be those of a restore.
fn committed(body: impl FnOnce(&Session) -> Result<Pass, Error>) -> Result<Pass, String> {
    let pass = transaction(c"schedules", |session| {
        let done = without_long_waits(|| body(session))?;
        if done.schedules > 0 && !is_original(session)? {
            return Err(Error::internal("this database is being restored: what schedules did was undone"));
        }
        Ok(done)
    })?;
    pass.failures.iter().for_each(|failure| pgrx::log!("jobq maintainer: {failure}"));
    Ok(pass)
}

/// Each schedule that is due in a transaction of its own; one that fails is tried again later.
fn one_by_one() -> Result<Pass, String> {
    let now = Timestamp::now();
    let due = transaction(c"schedules", |session| schedules::due(session, BATCH))?;
    let mut done = Pass::default();
    for (id, _) in due.iter().filter(|(_, due_at)| *due_at <= now) {
        let outcome = committed(|session| {
            let mut pass = Pass::default();
            tick(session, *id, now, &mut pass).map(|()| pass)
        });
        let pass = match outcome {
            Ok(pass) => pass,
            Err(message) => committed(|session| {
                let mut pass = Pass::default();
                let rows = schedules::lock_due(session, *id, now)?;
                if let Some(schedule) = schedules::read(&rows) {
                    note_failure(session, &schedule, now, &message, &mut pass)?;
                    pass.schedules = 1;
                }
                Ok(pass)
            })?,
        };
        done.schedules = done.schedules.saturating_add(pass.schedules);
    }
    let next = transaction(c"schedules", |session| schedules::due(session, 1))?;
    Ok(Pass { next_due: next.first().map(|(_, due_at)| *due_at), ..done })
}
