//! The duty that keeps shared memory's proposals up with the tables: refills queues that are running low, and sweeps for jobs that no
//! transaction has offered. It only reads, and goes on in a database that waits for resume_after_restore.

use crate::clock::Timestamp;
use crate::pg::process::{self, transaction};
use crate::pg::shmem::Maintainer;
use crate::pg::{server, stripes};
use crate::settings;
use crate::store::candidates::{self, Sweep};
use std::sync::atomic::Ordering::SeqCst;

/// After a pass that used much processor time, the pause before the next one is this many times as long.
const PAUSE_FACTOR: i64 = 50;

/// A sweep that is asked for comes at once, but not more often than this.
const REST_MICROS: i64 = 100_000;
/// Jobs that fall due are looked for no more often than this.
const MOMENT_MICROS: i64 = 1_000;
/// Refills in one go; other duties wait.
const REFILLS: usize = 16;

#[derive(Default)]
pub struct Proposals {
    /// None: now.
    sweep_at: Option<Timestamp>,
    sweeps_seen: u32,
    /// By the clock that nobody sets.
    rest_until: i64,
    /// The last refill got nowhere: not again before the next tick.
    in_vain: bool,
}

fn is_low() -> bool {
    stripes::known_queues().iter().any(|queue| queue.low.is_some())
}

impl Proposals {
    /// Sleeps, at most so long, until there is something to do; jobs that fall due meanwhile go to those who wait for them.
    /// `other`: microseconds until something else is to be done.
    pub fn wait(&self, slot: &Maintainer, milliseconds: i64, other: impl Fn() -> i64) {
        let until = server::monotonic_micros().saturating_add(milliseconds.saturating_mul(1_000));
        loop {
            let now = server::monotonic_micros();
            let dispatch = settings::dispatch();
            // What is due was offered just now.
            let due = stripes::next_due().filter(|_| dispatch);
            let due_in = due.map_or(i64::MAX, |due| due.saturating_sub(server::wall_clock_micros()).max(MOMENT_MICROS));
            let sweep_in = if dispatch && self.is_asked_to_sweep(slot) { self.rest_until.saturating_sub(now) } else { i64::MAX };
            let left = until.saturating_sub(now).min(due_in).min(sweep_in).min(other());
            if left <= 0 || (dispatch && !self.in_vain && is_low()) {
                return;
            }
            process::wait(left.saturating_add(999) / 1_000);
        }
    }

    fn is_asked_to_sweep(&self, slot: &Maintainer) -> bool {
        slot.sweeps_wanted.load(SeqCst) != self.sweeps_seen
    }

    pub fn keep_up(&mut self, slot: &Maintainer) -> Result<(), String> {
        if !stripes::attached() || !settings::dispatch() {
            return Ok(());
        }
        self.in_vain = false;
        for _ in 0..REFILLS {
            if !is_low() {
                break;
            }
            if transaction(c"refill", |_| candidates::refill_all())? == 0 {
                self.in_vain = true;
                break;
            }
        }
        let now = Timestamp::now();
        // A time further ahead than that means that the clock was set back.
        let is_early = |at: Timestamp| at > now && at.ms_since(now) <= settings::sweep_interval_ms().saturating_mul(PAUSE_FACTOR);
        let is_asked = self.is_asked_to_sweep(slot) && server::monotonic_micros() >= self.rest_until;
        if is_asked || !self.sweep_at.is_some_and(is_early) {
            self.sweep(slot)?;
        }
        Ok(())
    }

    fn sweep(&mut self, slot: &Maintainer) -> Result<(), String> {
        let wanted = slot.sweeps_wanted.load(SeqCst);
        let cpu_before = server::cpu_micros();
        let mut sweep = Sweep::begin();
        while transaction(c"sweep", |_| sweep.go_on())? {}
        let used_ms = server::cpu_micros().saturating_sub(cpu_before) / 1_000;
        let pause_ms = settings::sweep_interval_ms().max(used_ms.saturating_mul(PAUSE_FACTOR));
        self.sweep_at = Some(Timestamp::now().plus_ms(pause_ms));
        self.sweeps_seen = wanted;
        self.rest_until = server::monotonic_micros().saturating_add(REST_MICROS);
        Ok(())
    }
}
