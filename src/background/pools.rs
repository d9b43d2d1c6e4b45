//! The duty that supervises the pools: it starts, watches, stops and replaces their workers (rules::pool), keeps the leases of the
//! jobs they run, and cancels those whose cancellation was asked for.

use crate::clock::Timestamp;
use crate::dispatch::leases::JobKey;
use crate::pg::pools::{self, Seat};
use crate::pg::process::{self, Asked, transaction};
use crate::pg::shmem::{self, Maintainer};
use crate::pg::{leases, server};
use crate::rules::pool::{Act, Policy, Process, Reason, Restart, Seen, State, Worker};
use crate::store;
use crate::store::pools::Pool;
use std::collections::HashMap;
use std::sync::atomic::Ordering::SeqCst;
use uuid::Uuid;

/// Without news the pools are looked at this often: somebody may have changed the tables by hand, or a role.
const LOOK_MICROS: i64 = 1_000_000;
#[derive(Default)]
pub struct Pools {
    /// The processes this maintainer has asked for, by place and ticket.
    asked: HashMap<(usize, u32), Asked>,
    news_seen: u32,
    cancels_seen: u32,
    /// By the clock that nobody sets.
    look_at: i64,
    has_complained: bool,
    lacks_seats: bool,
}

fn ours() -> Vec<(usize, Seat)> {
    let database = server::database_oid().to_u32();
    let listed = |seats: &mut [Seat]| {
        let seats = seats.iter().enumerate().filter(|(_, seat)| seat.database == database);
        seats.map(|(place, seat)| (place, *seat)).collect()
    };
    pools::with(listed).unwrap_or_default()
}

impl Pools {
    /// Microseconds until there is something to do.
    pub fn due_in(&self, slot: &Maintainer) -> i64 {
        if slot.pool_news.load(SeqCst) != self.news_seen || (shmem::cancels() != self.cancels_seen && self.are_busy()) {
            return 0;
        }
        self.look_at.saturating_sub(server::monotonic_micros()).max(0)
    }

    fn are_busy(&self) -> bool {
        ours().iter().any(|(_, seat)| seat.job != 0)
    }

    pub fn keep_up(&mut self, slot: &Maintainer) -> Result<(), String> {
        self.news_seen = slot.pool_news.load(SeqCst);
        keep_leases();
        let wanted = transaction(c"pools", |session| store::pools::pools(session, server::started_at()))?;
        self.supervise(&wanted);
        end_stubborn();
        self.pass_on_cancels()
    }

    /// Nothing runs here now: a restored copy, jobq.enabled is off, the extension is gone.
    pub fn stand_by(&mut self, slot: &Maintainer) {
        self.news_seen = slot.pool_news.load(SeqCst);
        keep_leases();
        self.supervise(&[]);
    }

    fn supervise(&mut self, wanted: &[Pool]) {
        let now = server::monotonic_micros();
        let mut due_at = now.saturating_add(LOOK_MICROS);
        self.lacks_seats = false;
        self.seat_all(wanted);
        for (place, seat) in ours() {
            let pool = wanted.iter().find(|pool| pool.id == seat.pool);
            let has_place = pool.is_some_and(|pool| seat.number <= pool.size);
            let seen = Seen {
                now,
                process: self.process_of(place, &seat),
                wanted: has_place && pool.is_some_and(|pool| pool.wanted),
                starts: pool.map_or(0, |pool| pool.starts),
                restarts: pool.map_or(0, |pool| pool.restarts),
            };
            // One of a pool that is gone, or not to run, stops as it would have stopped.
            let left_over =
                Policy { restart: Restart::Never, start_micros: 0, start_retries: 0, stop_wait_micros: seat.stop_wait_micros };
            let policy = pool.map_or(left_over, |pool| pool.policy);
            let mut worker = seat.worker;
            let act = worker.step(&seen, &policy);
            if act == Act::Start {
                if let Some(pool) = pool {
                    self.start(place, &seat, pool, worker, &seen);
                }
            } else {
                self.apply(place, &seat, worker, act, &seen, pool);
            }
            let after = pools::with(|seats| seats.get(place).map(|seat| seat.worker)).flatten();
            let at = after.and_then(|worker| worker.due_at(&policy)).filter(|at| *at > now);
            due_at = at.map_or(due_at, |at| due_at.min(at));
        }
        self.has_complained &=
            self.lacks_seats || ours().iter().any(|(_, seat)| matches!(seat.worker.state, State::Backoff | State::Fatal));
        self.asked.retain(|_, asked| !asked.has_ended());
        self.look_at = due_at.max(now.saturating_add(1_000));
    }

    /// Each worker that is wanted has a seat.
    fn seat_all(&mut self, wanted: &[Pool]) {
        let database = server::database_oid().to_u32();
        for pool in wanted.iter().filter(|pool| pool.wanted) {
            for number in 1..=pool.size {
                let seated = pools::with(|seats| {
                    let is_it = |seat: &Seat| seat.database == database && seat.pool == pool.id && seat.number == number;
                    if seats.iter().any(is_it) {
                        return true;
                    }
                    let Some(free) = seats.iter_mut().find(|seat| seat.database == 0) else { return false };
                    free.give_to(database, pool.id, number, pool.role.to_u32());
                    true
                });
                if seated == Some(false) {
                    self.lacks_seats = true;
                    self.complain(&pool.name, Reason::NoSeat);
                }
            }
        }
    }

    fn process_of(&self, place: usize, seat: &Seat) -> Process {
        let has_ended = || self.asked.get(&(place, seat.ticket)).is_some_and(Asked::has_ended);
        if seat.has_ended {
            Process::Ended { by_plan: seat.by_plan, in_a_job: seat.in_a_job }
        } else if seat.pid != 0 {
            Process::Alive
        } else if has_ended() {
            Process::Ended { by_plan: false, in_a_job: false }
        } else {
            Process::Coming
        }
    }

    fn start(&mut self, place: usize, seat: &Seat, pool: &Pool, mut worker: Worker, seen: &Seen) {
        let policy = &pool.policy;
        let mut ticket = seat.ticket;
        if pool.problem == Reason::Nothing {
            pools::with(|seats| {
                if let Some(seat) = seats.get_mut(place) {
                    seat.ask_for();
                    // Of another installation, if the ids are the same.
                    seat.role = pool.role.to_u32();
                    ticket = seat.ticket;
                }
            });
            let asked = u16::try_from(place).ok().and_then(|at| process::start_pool_worker(&pool.name, seat.number, at, ticket));
            if let Some(asked) = asked {
                worker.begin(seen);
                self.asked.insert((place, ticket), asked);
            } else {
                worker.cannot_start(Reason::NoProcess, seen, policy);
            }
        } else {
            worker.cannot_start(pool.problem, seen, policy);
        }
        if worker.state != State::Starting {
            self.complain(&pool.name, worker.reason);
        }
        pools::with(|seats| {
            if let Some(seat) = seats.get_mut(place).filter(|seat| seat.ticket == ticket) {
                seat.worker = worker;
                if worker.state != State::Starting {
                    seat.is_gone();
                }
                give_limits(seat, pool);
            }
        });
    }

    fn apply(&mut self, place: usize, seat: &Seat, worker: Worker, act: Act, seen: &Seen, pool: Option<&Pool>) {
        if seat.worker.state != worker.state && matches!(worker.state, State::Backoff | State::Fatal) {
            self.complain(pool.map_or("", |pool| pool.name.as_str()), worker.reason);
        }
        let is_over = worker.state == State::Stopped && pool.is_none_or(|pool| seat.number > pool.size || !pool.wanted);
        let has_no_place = pool.is_none_or(|pool| seat.number > pool.size);
        pools::with(|seats| {
            let Some(seat) = seats.get_mut(place).filter(|now| now.ticket == seat.ticket && now.database == seat.database) else {
                return;
            };
            seat.worker = worker;
            // One that comes too late is not let in.
            let is_given_up =
                seen.process == Process::Coming && matches!(worker.state, State::Backoff | State::Fatal | State::Stopped);
            if (is_given_up && seat.pid == 0) || matches!(seen.process, Process::Ended { .. }) {
                seat.is_gone();
            }
            if let Some(pool) = pool {
                give_limits(seat, pool);
            }
            match act {
                Act::Stop => {
                    seat.orders.stop = true;
                    seat.wake();
                }
                Act::Cancel => {
                    seat.orders.release = true;
                    seat.interrupt();
                    seat.wake();
                }
                Act::Terminate => seat.terminate(),
                Act::Nothing | Act::Start => {}
            }
            if is_over && has_no_place {
                seat.free();
            }
        });
    }

    /// To the log, once for a trouble: the views and diagnose() tell it as long as it lasts.
    fn complain(&mut self, pool: &str, reason: Reason) {
        if !std::mem::replace(&mut self.has_complained, true) {
            pgrx::log!("jobq maintainer: a worker of pool {pool} does not run: {}; see jobq.pool_workers", reason.words());
        }
    }

    /// Cancels the calls whose jobs somebody has cancelled.
    fn pass_on_cancels(&mut self) -> Result<(), String> {
        let cancels = shmem::cancels();
        if cancels == self.cancels_seen {
            return Ok(());
        }
        let busy: Vec<Uuid> =
            ours().iter().filter(|(_, seat)| seat.job != 0).map(|(_, seat)| Uuid::from_u128(seat.job)).collect();
        if !busy.is_empty() {
            let cancelled = transaction(c"cancelled jobs", |session| store::pools::cancelled_among(session, &busy))?;
            pools::with(|seats| {
                for seat in seats.iter_mut().filter(|seat| cancelled.iter().any(|id| id.as_u128() == seat.job && seat.job != 0)) {
                    if seat.orders.cancelled != seat.lease {
                        seat.orders.cancelled = seat.lease;
                        seat.end_at = server::monotonic_micros();
                        seat.interrupt();
                    }
                }
            });
        }
        self.cancels_seen = cancels;
        Ok(())
    }
}

/// Ends the processes of jobs that go on although their time is over, or they were cancelled: their handlers have caught it, or are in
/// code that does not look. They have crashed.
fn end_stubborn() {
    const PATIENCE_MICROS: i64 = 5_000_000;
    let (database, now) = (server::database_oid().to_u32(), server::monotonic_micros());
    pools::with(|seats| {
        let is_late = |seat: &&Seat| seat.database == database && seat.job != 0 && seat.end_at != 0;
        seats.iter().filter(is_late).filter(|seat| now.saturating_sub(seat.end_at) > PATIENCE_MICROS).for_each(Seat::terminate);
    });
}

fn give_limits(seat: &mut Seat, pool: &Pool) {
    seat.stop_wait_micros = pool.policy.stop_wait_micros;
    let orders = &mut seat.orders;
    orders.max_runtime_ms = pool.max_runtime_ms;
    orders.max_memory_bytes = pool.max_memory_bytes;
    orders.job_timeout_ms = pool.job_timeout_ms;
}

/// A worker of a pool runs its handler and cannot send heartbeats: its process being there is the sign of life. Needs no transaction.
pub fn keep_leases() {
    let now = Timestamp::now();
    for (_, seat) in ours().iter().filter(|(_, seat)| seat.job != 0 && seat.pid != 0) {
        let key = JobKey { database: seat.database, installation: seat.installation, id: seat.job };
        leases::keep(&key, seat.lease, &leases::sign(now, None, None));
    }
}
