//! A worker of a pool: a background worker that claims jobs and runs their handlers, one after the other, as the pool's role.
//!
//! A job's handler, its completion and the claim of the next one are one transaction. The claim was committed, and is on disk, before
//! the handler begins: a job that takes its worker along has been counted. A worker is a client that lives in the server: it
//! finishes jobs as any other does (crate::api::finish).

use crate::api::finish::{complete_job, fail_job, release_job};
use crate::clock::Timestamp;
use crate::dispatch::kind_hash;
use crate::dispatch::stripe::QueueKey;
use crate::dispatch::waiters::KINDS;
use crate::error::Error;
use crate::pg::handler::{self, Ended, Failure, with_snapshot};
use crate::pg::pools::{self, Orders};
use crate::pg::spi::Param;
use crate::pg::switch::as_owner;
use crate::pg::{leases, notes, process, server, shmem, waiting, xact};
use crate::rules::limits::{AHEAD_MAX_MS, DAY_MS, ERROR_BYTES};
use crate::store::pools::{Claimed, Errand};
use crate::{settings, store};
use pgrx::pg_sys;
use std::ffi::c_int;
use uuid::Uuid;

/// The longest sleep: after it the worker looks by itself.
const SLEEP_MAX_MS: i64 = 30_000;
/// Without a place in the lines it looks this often.
const LOOK_MS: i64 = 1_000;
/// There may be jobs that could not be had just now, or the queue is paused: the first pause, doubled each time.
const NAP_MS: i64 = 5;
/// After an error that was no job's, doubled each time.
const TROUBLE_MS: i64 = 1_000;
const TROUBLE_MAX_MS: i64 = 60_000;
/// How often the end of a job is tried to be told.
const TELL_TRIES: i64 = 3;
/// The longest timeout of a server process.
pub const TIMER_MAX_MS: i64 = 24 * DAY_MS;
const MEMORY_LOOK_MICROS: i64 = 1_000_000;

/// Entry point of the process.
#[pgrx::pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn jobq_pool_worker_main(argument: pg_sys::Datum) {
    let (place, ticket) = process::place_and_ticket(argument);
    process::listen_to_cancels();
    let Some(seat) = pools::take(place, ticket) else { process::exit(0) };
    process::connect_as(seat.database, seat.role);
    let now = server::monotonic_micros();
    let mut worker = Worker {
        pool: seat.pool,
        number: seat.number,
        role: pg_sys::Oid::from(seat.role),
        errand: Errand { pool: String::new(), queues: String::new(), kinds: Vec::new() },
        has_looked: false,
        installation: 0,
        news_seen: 0,
        has_run: false,
        puts_back: false,
        started_at: now,
        memory_bytes: 0,
        memory_at: 0,
        nap_ms: NAP_MS,
        trouble_ms: 0,
        out_of_time_at: None,
    };
    match worker.work() {
        Leave::ByPlan => {
            pools::leave_by_plan();
            process::exit(0)
        }
        Leave::InTrouble(message) => {
            pgrx::log!("jobq pool worker {}: {message}", worker.name());
            process::exit(1)
        }
    }
}

enum Leave {
    ByPlan,
    InTrouble(String),
}

/// What became of a job that did not complete.
enum End {
    Failed { error: String, retry: bool },
    Released { delay_ms: Option<i64> },
}

struct Worker {
    pool: i32,
    number: i32,
    role: pg_sys::Oid,
    errand: Errand,
    /// It has looked for jobs without an error.
    has_looked: bool,
    /// The job table's oid.
    installation: u32,
    /// Changes of handlers and pools when the errand was read.
    news_seen: u32,
    has_run: bool,
    puts_back: bool,
    started_at: i64,
    memory_bytes: i64,
    memory_at: i64,
    nap_ms: i64,
    trouble_ms: i64,
    /// When the last call's time was over.
    out_of_time_at: Option<i64>,
}

impl Worker {
    fn name(&self) -> String {
        format!("pool/{}/{}", self.errand.pool, self.number)
    }

    fn work(&mut self) -> Leave {
        let mut next: Option<Claimed> = None;
        loop {
            server::check_for_interrupts();
            process::reload_if_asked();
            // Without a seat nobody wants this worker any more.
            let orders = pools::with_mine(|seat| seat.orders);
            if orders.is_none_or(|orders| self.is_to_leave(&orders)) {
                if let Some(Err(leave)) = next.map(|job| self.tell(&job, &End::Released { delay_ms: None }, false)) {
                    return leave;
                }
                waiting::leave();
                return Leave::ByPlan;
            }
            let outcome = match next.take() {
                Some(job) => self.run(&job),
                None => self.look(),
            };
            match outcome {
                Ok(job) => next = job,
                Err(leave) => return leave,
            }
        }
    }

    /// Its time or its memory is over, or it was asked to.
    fn is_to_leave(&mut self, orders: &Orders) -> bool {
        let now = server::monotonic_micros();
        let age_ms = now.saturating_sub(self.started_at) / 1_000;
        if (orders.max_memory_bytes > 0 && self.has_run) || now.saturating_sub(self.memory_at) >= MEMORY_LOOK_MICROS {
            self.memory_bytes = handler::memory_bytes();
            self.memory_at = now;
        }
        orders.stop
            || (orders.max_runtime_ms > 0 && age_ms >= orders.max_runtime_ms)
            // One that has too much before its first job would never do one.
            || (orders.max_memory_bytes > 0 && self.has_run && self.memory_bytes > orders.max_memory_bytes)
    }

    // ---- looking for a job

    /// Claims a job, or sleeps until there may be one.
    fn look(&mut self) -> Result<Option<Claimed>, Leave> {
        let mut is_clean = false;
        let outcome = handler::transaction("jobq: looks for a job", || {
            handler::remove_leftovers();
            is_clean = true;
            with_snapshot(|| self.join_and_claim()).map_err(|refusal| Failure::from(&refusal))
        });
        match outcome {
            Ended::Committed(None) => Err(Leave::ByPlan),
            Ended::Committed(Some(Looked::Claimed(job))) => {
                pools::with_mine(|seat| (seat.job, seat.lease) = (job.id.as_u128(), job.lease));
                self.will_put_back();
                waiting::leave();
                self.is_well();
                self.nap_ms = NAP_MS;
                Ok(Some(job))
            }
            Ended::Committed(Some(Looked::Nothing { in_line })) => {
                self.is_well();
                self.sleep(in_line);
                Ok(None)
            }
            Ended::Aborted(failure) => {
                // Classes 40, 53 and 55: it may go better the next time.
                let may_pass = matches!(failure.sqlstate, [b'4', b'0', ..] | [b'5', b'3' | b'5', ..]);
                if !is_clean || (!self.has_looked && !may_pass) {
                    return Err(Leave::InTrouble(failure.message));
                }
                self.rest_in_trouble(&failure);
                Ok(None)
            }
        }
    }

    /// None: there is nothing to look for any more.
    fn join_and_claim(&mut self) -> Result<Option<Looked>, Error> {
        if !process::hold_extension() {
            return Ok(None);
        }
        self.installation = leases::key(Uuid::nil()).installation;
        self.news_seen = shmem::handlers();
        let Some(errand) = as_owner(|session| store::pools::errand(session, self.pool, self.role))? else { return Ok(None) };
        if errand != self.errand {
            waiting::leave();
            self.errand = errand;
        }
        if self.errand.kinds.is_empty() {
            waiting::leave();
            return Ok(Some(Looked::Nothing { in_line: false }));
        }
        let in_line = self.join()?;
        Ok(Some(match self.claim()? {
            Some(job) => Looked::Claimed(job),
            None => Looked::Nothing { in_line },
        }))
    }

    /// Stands in the lines of its queues; false: it must look by itself.
    fn join(&self) -> Result<bool, Error> {
        let kinds: Vec<u32> = self.errand.kinds.iter().map(|kind| kind_hash(kind.as_bytes())).collect();
        if kinds.len() > KINDS {
            return Ok(false);
        }
        if waiting::is_in_line() && waiting::rejoin() {
            return Ok(true);
        }
        waiting::leave();
        let key = |session: &_, name| Ok(notes::key(store::queues::by_name(session, name)?.id));
        let keys: Vec<QueueKey> = as_owner(|session| self.errand.queues.split(',').map(|name| key(session, name)).collect())?;
        let joined = waiting::join(&keys, &kinds);
        if !joined {
            waiting::leave();
        }
        Ok(joined)
    }

    fn claim(&self) -> Result<Option<Claimed>, Error> {
        let claimed = as_owner(|session| store::pools::claim(session, &self.errand, &self.name()))?;
        xact::commit_for_the_disk();
        Ok(claimed)
    }

    fn sleep(&mut self, in_line: bool) {
        let sleep_ms = if in_line && settings::dispatch() { waiting::may_sleep_ms() } else { None };
        let longest_ms = if in_line { SLEEP_MAX_MS } else { LOOK_MS };
        self.nap_ms = if sleep_ms.is_some() { NAP_MS } else { self.nap_ms.saturating_mul(2).min(longest_ms) };
        let sleep_ms = sleep_ms.map_or(self.nap_ms, |ms| ms.saturating_add(LOOK_MS).min(SLEEP_MAX_MS));
        // Its time may be over before: there is work for nobody until then.
        let left_ms = pools::with_mine(|seat| seat.orders.max_runtime_ms)
            .filter(|ms| *ms > 0)
            .map(|ms| ms.saturating_sub(server::monotonic_micros().saturating_sub(self.started_at) / 1_000).max(1));
        if !(waiting::is_in_line() && waiting::is_woken()) && pools::with_mine(|seat| seat.orders.stop) == Some(false) {
            waiting::sleep(left_ms.map_or(sleep_ms, |left| left.min(sleep_ms)));
        }
    }

    fn is_well(&mut self) {
        self.has_looked = true;
        if std::mem::take(&mut self.trouble_ms) > 0 {
            pools::with_mine(|seat| seat.in_trouble = false);
        }
    }

    fn rest_in_trouble(&mut self, failure: &Failure) {
        pools::with_mine(|seat| seat.in_trouble = true);
        self.trouble_ms = self.trouble_ms.saturating_mul(2).clamp(TROUBLE_MS, TROUBLE_MAX_MS);
        pgrx::log!("jobq pool worker {}: {}; next try in {} s", self.name(), failure.message, self.trouble_ms / 1_000);
        let until = server::monotonic_micros().saturating_add(self.trouble_ms.saturating_mul(1_000));
        while pools::with_mine(|seat| seat.orders.stop) == Some(false) {
            let left_ms = until.saturating_sub(server::monotonic_micros()) / 1_000;
            if left_ms <= 0 {
                break;
            }
            waiting::sleep(left_ms);
        }
    }

    // ---- running it

    /// Runs a job and claims the next one, if there is one and this worker is to go on.
    fn run(&mut self, job: &Claimed) -> Result<Option<Claimed>, Leave> {
        pools::with_mine(|seat| {
            (seat.installation, seat.job, seat.lease) = (self.installation, job.id.as_u128(), job.lease);
            seat.job_started_at = server::wall_clock_micros();
            seat.memory_bytes = self.memory_bytes;
        });
        self.has_run = true;
        let (mut is_clean, mut called, mut unwanted) = (false, false, false);
        let outcome = handler::transaction(&format!("jobq: {} {}", job.kind, job.id), || {
            handler::remove_leftovers();
            is_clean = true;
            stay_installed()?;
            let Some(function) = self.function_for(job)? else {
                unwanted = true;
                return Err(Failure::default());
            };
            let timeout_ms = self.time_for(job)?;
            self.out_of_time_at =
                (timeout_ms > 0).then(|| server::monotonic_micros().saturating_add(timeout_ms.saturating_mul(1_000)));
            called = true;
            let end_at = self.out_of_time_at;
            pools::with_mine(|seat| seat.end_at = seat.end_at.max(end_at.unwrap_or(0)));
            let result = handler::call(&function, &job.job, timeout_ms)?;
            let complete = || complete_job(job.id, job.lease, crate::api::result(result)?);
            with_snapshot(complete).map_err(|refusal| Failure::from(&refusal))?;
            Ok(self.claim_next())
        });
        let (next, has_failed) = match outcome {
            Ended::Committed(next) => (next, Some(false)),
            // The jobs before have left what cannot be removed: another process has none of it.
            Ended::Aborted(failure) if !is_clean => {
                self.tell(job, &End::Released { delay_ms: None }, false)?;
                return Err(Leave::InTrouble(failure.message));
            }
            Ended::Aborted(failure) => {
                let end = if unwanted { End::Released { delay_ms: None } } else { self.judge(job, &failure) };
                // What a procedure has set and committed must not stand in the way of it.
                handler::forget_session(self.role);
                (self.tell(job, &end, true)?, matches!(end, End::Failed { .. }).then_some(true))
            }
        };
        pools::with_mine(|seat| {
            seat.completed = seat.completed.saturating_add(i64::from(has_failed == Some(false)));
            seat.failed = seat.failed.saturating_add(i64::from(has_failed == Some(true)));
            (seat.job, seat.lease) = next.as_ref().map_or((0, 0), |next| (next.id.as_u128(), next.lease));
            (seat.job_started_at, seat.end_at) = (0, 0);
            seat.memory_bytes = self.memory_bytes;
        });
        if !called || handler::forget_session(self.role) {
            return Ok(next);
        }
        // The job has left the session as somebody else's: a new process takes over.
        if let Some(next) = next {
            self.tell(&next, &End::Released { delay_ms: None }, false)?;
        }
        Err(Leave::ByPlan)
    }

    fn will_put_back(&mut self) {
        // After the one that was registered when the session bound its first job: the last one is the first to run.
        if !std::mem::replace(&mut self.puts_back, true) {
            process::at_exit(put_back);
        }
    }

    /// None: the handler was dropped since the job was claimed.
    fn function_for(&self, job: &Claimed) -> Result<Option<handler::Function>, Failure> {
        let found = with_snapshot(|| as_owner(|session| store::pools::handler(session, &job.kind, self.role)));
        let refuse = |what: String| {
            Failure::from(&Error::NotAllowed {
                what,
                hint: "See jobq.handlers; drop and create the handler again when it is right.",
            })
        };
        match found.map_err(|refusal| Failure::from(&refusal))? {
            Some(Ok(function)) => Ok(Some(function)),
            Some(Err(problem)) => Err(refuse(format!("the handler of kind {} cannot run: {problem}", job.kind))),
            None => Ok(None),
        }
    }

    /// Milliseconds that the handler may take; 0: as long as it likes. An error if it is not to begin at all.
    fn time_for(&self, job: &Claimed) -> Result<i64, Failure> {
        handler::forget_cancels();
        let orders = pools::with_mine(|seat| seat.orders).unwrap_or_default();
        if orders.release || orders.cancelled == job.lease {
            return Err(Failure { sqlstate: *QUERY_CANCELED, ..Failure::default() });
        }
        // A deadline that is further away than a timer reaches is the maintainer's.
        let left_ms = job.deadline_at.map(|deadline| deadline.ms_since(Timestamp::now()).max(1));
        let left_ms = left_ms.filter(|ms| *ms <= TIMER_MAX_MS);
        let limit_ms = Some(orders.job_timeout_ms).filter(|ms| *ms > 0);
        Ok(left_ms.into_iter().chain(limit_ms).min().unwrap_or(0))
    }

    /// In a job's last transaction, which must not suffer from it.
    fn claim_next(&mut self) -> Option<Claimed> {
        let orders = pools::with_mine(|seat| seat.orders)?;
        // With other handlers, or another queue, it looks anew.
        if self.is_to_leave(&orders) || shmem::handlers() != self.news_seen {
            return None;
        }
        let claimed = handler::apart(|| with_snapshot(|| self.claim()));
        handler::hold_cancels();
        claimed.ok()?
    }

    /// What an ERROR of its handler means for a job.
    fn judge(&self, job: &Claimed, failure: &Failure) -> End {
        let orders = pools::with_mine(|seat| seat.orders).unwrap_or_default();
        match &failure.sqlstate {
            QUERY_CANCELED if orders.cancelled == job.lease => End::Failed { error: "cancelled".into(), retry: true },
            QUERY_CANCELED if orders.release => End::Released { delay_ms: None },
            QUERY_CANCELED if self.out_of_time_at.is_some_and(|at| server::monotonic_micros() >= at) => {
                End::Failed { error: "timed out".into(), retry: true }
            }
            b"JQ005" => match failure.detail.as_ref().map(|detail| detail.trim().parse()) {
                Some(Ok(delay_ms)) if (0..=AHEAD_MAX_MS).contains(&delay_ms) => End::Released { delay_ms: Some(delay_ms) },
                _ => End::Failed { error: told(failure), retry: true },
            },
            b"JQ006" => End::Failed { error: failure.message.clone(), retry: false },
            _ => End::Failed { error: told(failure), retry: true },
        }
    }

    /// Ends a job that did not complete; if `go_on`, claims the next one.
    fn tell(&mut self, job: &Claimed, end: &End, go_on: bool) -> Result<Option<Claimed>, Leave> {
        for n in 1..=TELL_TRIES {
            let mut is_installed = false;
            let outcome = handler::transaction("jobq: ends a job", || {
                stay_installed()?;
                is_installed = true;
                let finish = || match end {
                    End::Failed { error, retry } => fail_job(job.id, job.lease, Param::told(error, ERROR_BYTES), None, *retry),
                    End::Released { delay_ms } => release_job(job.id, job.lease, *delay_ms),
                };
                with_snapshot(finish).map_err(|refusal| Failure::from(&refusal))?;
                Ok(if go_on { self.claim_next() } else { None })
            });
            match outcome {
                Ended::Committed(next) => return Ok(next),
                Ended::Aborted(_) if !is_installed => return Err(Leave::ByPlan),
                // Somebody else has it, or it is gone.
                Ended::Aborted(failure) if failure.sqlstate.starts_with(b"JQ") => {
                    pgrx::log!("jobq pool worker {}: {}", self.name(), failure.message);
                    return Ok(None);
                }
                Ended::Aborted(failure) => {
                    pgrx::log!("jobq pool worker {}: the end of job {} cannot be told: {}", self.name(), job.id, failure.message);
                    waiting::sleep(TROUBLE_MS.saturating_mul(n));
                }
            }
        }
        // The end of the process frees it.
        Err(Leave::InTrouble(format!("the end of job {} could not be told", job.id)))
    }
}

/// A worker that is ended by its supervisor, or with the whole server, gives the attempt at its job back. One that was terminated
/// by somebody else has crashed: it may have been its job.
extern "C-unwind" fn put_back(_: c_int, _: pg_sys::Datum) {
    let Some(seat) = pools::with_mine(|seat| *seat).filter(|seat| seat.job != 0) else { return };
    if seat.orders.stop || server::is_stopping() {
        let (id, lease) = (Uuid::from_u128(seat.job), seat.lease);
        handler::last_transaction(|| {
            // Nobody can end this process while it waits for a lock.
            let is_free = as_owner(|session| Ok(!store::maintenance::released(session, &[id], &[lease])?.is_empty()))?;
            if is_free { release_job(id, lease, None).map(|_| ()) } else { Ok(()) }
        });
    }
}

/// DROP EXTENSION waits for a job at the first lock it takes, and not in the middle of them.
fn stay_installed() -> Result<(), Failure> {
    if process::hold_extension() {
        return Ok(());
    }
    Err(Failure::from(&Error::internal("the extension was dropped")))
}

const QUERY_CANCELED: &[u8; 5] = b"57014";

enum Looked {
    Claimed(Claimed),
    Nothing { in_line: bool },
}

/// As psql shows an error with VERBOSITY verbose.
fn told(failure: &Failure) -> String {
    let mut text = format!("{}: {}", String::from_utf8_lossy(&failure.sqlstate), failure.message);
    for (word, part) in [("DETAIL", &failure.detail), ("HINT", &failure.hint), ("CONTEXT", &failure.context)] {
        if let Some(part) = part {
            text.push_str(&format!("\n{word}:  {part}"));
        }
    }
    text
}
