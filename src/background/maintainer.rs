//! The maintainer: one process per database, running the duties.

use super::doorbell::Doorbell;
use super::pools::Pools;
use super::pools::keep_leases;
use super::proposals::Proposals;
use super::releases::Releases;
use super::schedules::Schedules;
use super::{KNOWN_SCHEMAS, rescue, retention, schedules, tombstones};
use crate::clock::Timestamp;
use crate::error::Error;
use crate::pg::process::{self, Database, bare_transaction, transaction};
use crate::pg::shmem::{self, Maintainer};
use crate::pg::spi::Session;
use crate::pg::{blocks, counts, server};
use crate::rules::limits::PASS_DEFAULT;
use crate::{settings, store};
use pgrx::pg_sys;
use std::ffi::{CStr, c_int};
use std::sync::atomic::Ordering::SeqCst;

/// A sleeping maintainer looks at its database this often, whatever jobq.tick_interval says: DROP DATABASE waits 5 s for us.
const LOOK_MS: i64 = 1_000;
/// After a pass that used much processor time, the pause before the next one is this many times as long.
const PAUSE_FACTOR: i64 = 10;
/// Deleting row by row needs no hurry.
const SLOW_DUTY_MS: i64 = 60_000;
/// The pause after an error, doubled for each further one.
const ERROR_PAUSE_MS: i64 = 1_000;
const ERROR_PAUSE_MAX_MS: i64 = 60_000;
const STAND_DOWN_MS: i64 = 60_000;

/// A duty with its own next due time.
struct Duty {
    activity: &'static CStr,
    every_ms: fn() -> i64,
    run: fn(&Session) -> Result<usize, Error>,
    /// None: now.
    due_at: Option<Timestamp>,
}

impl Duty {
    fn new(activity: &'static CStr, every_ms: fn() -> i64, run: fn(&Session) -> Result<usize, Error>) -> Duty {
        Duty { activity, every_ms, run, due_at: None }
    }

    /// Runs it if it is due. A pass that was full is repeated at once, up to a bound.
    fn run_if_due(&mut self) -> Result<(), String> {
        let started = Timestamp::now();
        // A due time further ahead than the interval means that the clock was set back.
        if self.due_at.is_some_and(|due| {
            due > started && due.ms_since(started) <= (self.every_ms)().max(ERROR_PAUSE_MAX_MS).saturating_mul(PAUSE_FACTOR)
        }) {
            return Ok(());
        }
        let cpu_before = server::cpu_micros();
        let done = transaction(self.activity, |session| run_unless_restoring(session, self.run))?;
        let used_ms = server::cpu_micros().saturating_sub(cpu_before) / 1_000;
        let pause_ms =
            if done >= PASS_DEFAULT as usize { 0 } else { (self.every_ms)().max(used_ms.saturating_mul(PAUSE_FACTOR)) };
        self.due_at = Some(Timestamp::now().plus_ms(pause_ms));
        Ok(())
    }
}

/// Runs a duty; undoes it if the data turns out to be those of a restore that has begun meanwhile.
fn run_unless_restoring(session: &Session, run: fn(&Session) -> Result<usize, Error>) -> Result<usize, Error> {
    let done = run(session)?;
    if done > 0 && !super::is_original(session)? {
        return Err(Error::internal("this database is being restored: what a duty did was undone"));
    }
    Ok(done)
}

/// A tombstone goes in the second pass that sees it, a partition in the first in which nobody else uses it.
fn soon() -> i64 {
    LOOK_MS.saturating_mul(5)
}

fn slow() -> i64 {
    SLOW_DUTY_MS
}

fn duties() -> [Duty; 6] {
    [
        Duty::new(c"rescue", settings::tick_interval_ms, |session| rescue::keep_up(session, PASS_DEFAULT)),
        Duty::new(c"count", settings::tick_interval_ms, store::counts::keep_up),
        Duty::new(c"tombstones", soon, tombstones::run),
        Duty::new(c"retention: partitions", soon, retention::empty_partitions),
        Duty::new(c"leases", slow, rescue::forget_stray_leases),
        Duty::new(c"retention: queues", slow, retention::delete_expired),
    ]
}

/// What a look at the database finds.
enum Look {
    Serve,
    /// A restored copy: tick, but do nothing.
    Wait,
    Leave,
}

/// Entry point of the process; the argument is the database's oid.
#[pgrx::pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn jobq_maintainer_main(argument: pg_sys::Datum) {
    let database = pg_sys::Oid::from(argument.value() as u32);
    process::listen_to_signals();
    process::connect(database);
    process::at_exit(clean_up);
    match serve(database) {
        Ok(()) => process::exit(0),
        Err(message) => {
            pgrx::log!("jobq maintainer stops: {message}");
            process::exit(1)
        }
    }
}

extern "C-unwind" fn clean_up(_: c_int, _: pg_sys::Datum) {
    shmem::maintainer_exits();
}

/// Serves the database until it should not; every error inside a duty is survived.
fn serve(database: pg_sys::Oid) -> Result<(), String> {
    let Some(extension) = extension()? else { return Ok(()) };
    // Another one that is still there goes on alone.
    let Some(slot) = shmem::become_maintainer(database) else { return Ok(()) };
    if !KNOWN_SCHEMAS.contains(&extension.1.as_str()) {
        stand_down(database, &extension.1);
        return Ok(());
    }
    let mut duties = duties();
    let mut proposals = Proposals::default();
    let mut releases = Releases::default();
    let mut doorbell = Doorbell::default();
    let mut pools = Pools::default();
    let mut schedules = Schedules::default();
    let mut error_pause_ms = 0;
    let mut clock = Clock { offset: shmem::clock_offset(), served: false };
    loop {
        let outcome = clock.mind_a_step_back().and_then(|()| look(database, extension.0)).and_then(|look| match look {
            Look::Serve => {
                clock.served = true;
                // Before the rescue: nobody else sends heartbeats for their jobs.
                keep_leases();
                releases.keep_up()?;
                schedules.keep_up(slot)?;
                duties.iter_mut().try_for_each(Duty::run_if_due)?;
                proposals.keep_up(slot)?;
                pools.keep_up(slot)?;
                doorbell.keep_up().map(|()| true)
            }
            Look::Wait => {
                releases.rest();
                schedules.rest(slot);
                // What is being restored is marked by nobody.
                blocks::mark_all();
                counts::ask();
                // When it is over, all at once.
                duties.iter_mut().for_each(|duty| duty.due_at = None);
                proposals.keep_up(slot)?;
                pools.stand_by(slot);
                doorbell.keep_up().map(|()| true)
            }
            Look::Leave => {
                pools.stand_by(slot);
                Ok(false)
            }
        });
        match outcome {
            Ok(false) => return Ok(()),
            Ok(true) => {
                ticked(slot);
                error_pause_ms = 0;
                let other = || releases.due_in().min(doorbell.due_in()).min(schedules.due_in(slot)).min(pools.due_in(slot));
                proposals.wait(slot, settings::tick_interval_ms().min(LOOK_MS), other);
            }
            // A restore has begun while we were at it: the next look waits.
            Err(_) if matches!(transaction(c"look", super::is_original), Ok(false)) => process::wait(LOOK_MS),
            // It was dropped while we were at it.
            Err(_) if !matches!(installed(), Ok(Some(oid)) if oid == extension.0) => return Ok(()),
            Err(message) => {
                error_pause_ms = i64::saturating_mul(error_pause_ms, 2).clamp(ERROR_PAUSE_MS, ERROR_PAUSE_MAX_MS);
                pgrx::log!("jobq maintainer: {message}; next try in {} s", error_pause_ms / 1_000);
                rest(database, error_pause_ms);
            }
        }
    }
}

/// Jobs older than the installation mean a restore, unless the clock was set back since this maintainer last served.
struct Clock {
    offset: i64,
    served: bool,
}

impl Clock {
    fn mind_a_step_back(&mut self) -> Result<(), String> {
        const STEP_MICROS: i64 = 1_000_000;
        let before = std::mem::replace(&mut self.offset, shmem::clock_offset());
        if self.served && before.saturating_sub(self.offset) > STEP_MICROS {
            transaction(c"clock was set back", |session| store::maintenance::adopt(session, server::database_oid()))?;
        }
        Ok(())
    }
}

/// A schema of another version: say so once, keep out of the way, and look again in a minute.
fn stand_down(database: pg_sys::Oid, version: &str) {
    let known = KNOWN_SCHEMAS.join(", ");
    pgrx::log!(
        "jobq maintainer stands down: the schema is version {version}, this library knows {known}. ALTER EXTENSION jobq UPDATE, or restart the server if the library was replaced"
    );
    rest(database, STAND_DOWN_MS);
}

/// Waits out an error in short steps, so that DROP DATABASE is not kept waiting.
fn rest(database: pg_sys::Oid, pause_ms: i64) {
    let mut left_ms = pause_ms;
    while left_ms > 0 {
        process::wait(left_ms.min(LOOK_MS));
        left_ms = left_ms.saturating_sub(LOOK_MS);
        if !matches!(bare_transaction(c"look", || process::database_is_free(database)), Ok(true)) {
            return;
        }
    }
}

fn ticked(slot: &Maintainer) {
    slot.ticked_at.store(Timestamp::now().0, SeqCst);
}

fn installed() -> Result<Option<pg_sys::Oid>, String> {
    bare_transaction(c"look", process::extension)
}

fn extension() -> Result<Option<(pg_sys::Oid, String)>, String> {
    match installed()? {
        Some(oid) => transaction(c"look", store::inspect::extension).map(|found| found.filter(|found| found.0 == oid)),
        None => Ok(None),
    }
}

/// Is the database still ours to serve? Asked before each tick: the extension may have been dropped, or made anew.
fn look(database: pg_sys::Oid, extension: pg_sys::Oid) -> Result<Look, String> {
    let (free, installed) = bare_transaction(c"look", || (process::database_is_free(database), process::extension()))?;
    if !free || installed != Some(extension) || !settings::enabled() {
        return Ok(Look::Leave);
    }
    let original = transaction(c"look", super::is_original)?;
    Ok(if original { Look::Serve } else { Look::Wait })
}

/// All duties once, for jobq.tick(): how many jobs were rescued, timed out or cancelled as late arrivals.
pub fn run_once(session: &Session) -> Result<usize, Error> {
    let rescued = rescue::run(session, None, true, PASS_DEFAULT)?;
    let late = tombstones::run(session)?;
    schedules::run_once(session)?;
    // A transaction that goes on might be reading the history, and would keep the lock on it.
    if !server::in_transaction_block() {
        retention::empty_partitions(session)?;
    }
    retention::delete_expired(session)?;
    rescue::release(session)?;
    rescue::forget_stray_leases(session)?;
    store::candidates::Sweep::begin().run()?;
    counts::ask();
    Ok(rescued.saturating_add(late))
}

/// Did the last one here begin to serve after `since`?
pub fn has_served_since(database: &Database, since: Timestamp) -> bool {
    shmem::maintainer(database.oid).is_some_and(|slot| slot.began_at.load(SeqCst) >= since.0)
}

/// Is one here now?
pub fn runs_in(database: &Database) -> bool {
    shmem::maintainer(database.oid).is_some_and(|slot| slot.pid.load(SeqCst) != 0)
}
