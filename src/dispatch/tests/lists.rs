//! A queue and those who wait for its jobs, in sorted maps and lists: what `Stripe` does, without regard to memory. Slots never run
//! out, and refills are read in one go.

use crate::dispatch::stripe::{Found, Side};
use crate::dispatch::{Candidate, Key};
use std::collections::BTreeMap;

const SECOND: i64 = 1_000_000;
/// Sessions that are woken in one hold of the lock.
pub const WAKES: usize = 64;
/// Candidates that are looked at for somebody to pass them on to.
const LOOKS: usize = 32;
/// Jobs that are moved in one go when they have fallen due.
const MOVED: usize = 256;

#[derive(Debug, Clone)]
pub struct Standing {
    pub n: u32,
    pub owner: u64,
    pub kinds: Vec<u32>,
    pub woken: bool,
    /// He was woken since he last went to sleep.
    pub owes: bool,
}

impl Standing {
    pub fn wants(&self, kind: u32) -> bool {
        self.kinds.is_empty() || self.kinds.contains(&kind)
    }
}

/// What is vouched for: all jobs before the horizon are in the set.
#[derive(Debug)]
pub struct Window {
    pub set: BTreeMap<Key, Candidate>,
    pub horizon: Key,
}

impl Window {
    pub const EMPTY: Window = Window { set: BTreeMap::new(), horizon: Key::MIN };

    pub fn offer(&mut self, key: Key, job: &Candidate) -> bool {
        key < self.horizon && self.set.insert(key, *job).is_none()
    }

    pub fn first_run_at(&self) -> i64 {
        self.set.keys().next().map_or(i64::MAX, |key| key.run_at)
    }

    /// All that there is up to `next` has been read.
    pub fn refilled(&mut self, rows: impl Iterator<Item = (Key, Candidate)>, next: Key) {
        self.set.extend(rows);
        self.horizon = self.horizon.max(next);
        self.set.retain(|key, _| *key < self.horizon);
    }
}

#[derive(Debug)]
pub struct Queue {
    pub ready: Window,
    pub due: Window,
    pub clock: i64,
    pub looked_at: u64,
    /// In the order in which they came.
    pub line: Vec<Standing>,
    pub unwoken: bool,
}

impl Queue {
    pub fn unknown() -> Queue {
        Queue { ready: Window::EMPTY, due: Window::EMPTY, clock: i64::MIN, looked_at: 0, line: vec![], unwoken: false }
    }

    pub fn wake(&mut self, wakes: &mut Vec<u64>, fit: impl Fn(&Standing) -> bool) -> bool {
        if wakes.len() == WAKES {
            self.unwoken |= !self.line.is_empty();
            return false;
        }
        let first = self.line.iter_mut().find(|standing| !standing.woken && fit(standing));
        first.map(|first| (first.woken, _) = (true, wakes.push(first.owner))).is_some()
    }

    /// The first who takes any job, and all those who want certain kinds.
    pub fn wake_for_anything(&mut self, wakes: &mut Vec<u64>) {
        self.wake(wakes, |standing| standing.kinds.is_empty());
        while self.wake(wakes, |standing| !standing.kinds.is_empty()) {}
    }

    pub fn wake_the_rest(&mut self, wakes: &mut Vec<u64>) {
        if std::mem::take(&mut self.unwoken) {
            self.wake_for_anything(wakes);
        }
    }

    pub fn forget(&mut self, wakes: &mut Vec<u64>) {
        (self.ready, self.due) = (Window::EMPTY, Window::EMPTY);
        self.wake_for_anything(wakes);
    }

    pub fn clock(&mut self, now: i64, wakes: &mut Vec<u64>) -> i64 {
        let is_back = self.clock > now.saturating_add(SECOND);
        if is_back {
            self.forget(wakes);
        }
        self.clock = if is_back { now } else { self.clock.max(now) };
        self.clock
    }

    pub fn offer(&mut self, job: &Candidate, now: i64, wakes: &mut Vec<u64>) -> bool {
        if job.run_at > self.clock(now, wakes) {
            self.due.set.remove(&job.due_key());
            return self.due.offer(job.due_key(), job);
        }
        self.wake(wakes, |standing| standing.wants(job.kind));
        self.ready.offer(job.ready_key(), job)
    }

    /// Whatever is due, or as much as is moved in one go; false: this may not be all.
    pub fn move_due(&mut self, now: i64, wakes: &mut Vec<u64>) -> bool {
        for _ in 0..MOVED {
            if self.due.first_run_at() > now {
                return true;
            }
            let Some((_, job)) = self.due.set.pop_first() else { return true };
            self.wake(wakes, |standing| standing.wants(job.kind));
            self.ready.offer(job.ready_key(), &job);
        }
        false
    }

    pub fn take(&mut self, now: i64, wanted: impl Fn(u32) -> bool, wakes: &mut Vec<u64>) -> Found {
        let now = self.clock(now, wakes);
        if !self.move_due(now, wakes) {
            return Found::Again;
        }
        if self.due.horizon.run_at <= now {
            return Found::Short(Side::Due);
        }
        let first = self.known().find(|job| wanted(job.kind));
        match first {
            Some(job) => {
                self.ready.set.remove(&job.ready_key());
                Found::Candidate(job)
            }
            None if self.ready.horizon < Key::MAX => Found::Short(Side::Ready),
            None => Found::Nothing { until: self.due.first_run_at().min(self.due.horizon.run_at) },
        }
    }

    pub fn known(&self) -> impl Iterator<Item = Candidate> {
        self.ready.set.range(..self.ready.horizon).map(|(_, job)| *job)
    }

    pub fn rejoin(&mut self, n: u32, owner: u64, wakes: &mut Vec<u64>) -> bool {
        let his = self.line.iter_mut().find(|standing| (standing.n, standing.owner) == (n, owner));
        let is_there = his.map(|standing| standing.owes |= std::mem::take(&mut standing.woken)).is_some();
        self.wake_the_rest(wakes);
        is_there
    }

    pub fn leave(&mut self, owner: u64, wakes: &mut Vec<u64>) {
        let his = self.line.iter().find(|standing| standing.owner == owner).cloned();
        self.line.retain(|standing| standing.owner != owner);
        self.wake_the_rest(wakes);
        let Some(his) = his else { return };
        let owes = his.woken || his.owes;
        self.pass_on(owes, 0, wakes, |_| true);
        if owes {
            self.pass_on(true, 0, wakes, |job| his.wants(job.kind));
        }
    }

    fn pass_on(&mut self, unsure: bool, behind: u64, wakes: &mut Vec<u64>, owed: impl Fn(&Candidate) -> bool) {
        // The first who can use what there is.
        let known: Vec<Candidate> = self.known().take(LOOKS).collect();
        let mut wake = |job: &Candidate| self.wake(wakes, |standing| standing.owner > behind && standing.wants(job.kind));
        let passed_on = known.iter().any(|job| owed(job) && wake(job));
        if !passed_on && known.len() == LOOKS {
            self.wake(wakes, |standing| standing.owner > behind);
        } else if !passed_on && self.ready.horizon < Key::MAX {
            self.wake(wakes, |standing| standing.owner > behind && (unsure || standing.kinds.is_empty()));
        }
    }

    pub fn may_wait(&mut self, owner: u64, now: i64, wakes: &mut Vec<u64>) -> Option<i64> {
        let his = self.line.iter_mut().find(|standing| standing.owner == owner);
        let his = his.and_then(|standing| (std::mem::take(&mut standing.owes) && !standing.woken).then(|| standing.clone()));
        if let Some(his) = his {
            self.pass_on(true, owner, wakes, |job| !his.wants(job.kind));
        }
        let now = self.clock(now, wakes);
        let behind = self.due.horizon.run_at;
        (behind > now).then(|| behind.min(self.due.first_run_at()))
    }

    pub fn timer(&self) -> i64 {
        if self.line.is_empty() { i64::MAX } else { self.due.first_run_at() }
    }

    pub fn next_due(&mut self, now: i64, wakes: &mut Vec<u64>) -> Option<i64> {
        if self.line.is_empty() {
            return None;
        }
        self.wake_the_rest(wakes);
        let now = self.clock(now, wakes);
        self.move_due(now, wakes);
        let is_known = self.ready.horizon > Key::MIN;
        let behind = if is_known { self.due.horizon.run_at } else { i64::MAX };
        if self.unwoken {
            return Some(now);
        }
        Some(self.due.first_run_at().min(behind)).filter(|until| *until < i64::MAX)
    }

    /// Begins a refill: where to read from.
    pub fn begin(&mut self, side: Side, now: i64, wakes: &mut Vec<u64>) -> Key {
        let now = self.clock(now, wakes);
        let from = self.window(side).horizon;
        if side == Side::Ready || from.run_at > now {
            return from;
        }
        self.ready.horizon = Key::MIN;
        self.wake_for_anything(wakes);
        Key { rank: 0, run_at: now + 1, id: 0 }
    }

    pub fn let_go(&mut self, side: Side, key: Key, wakes: &mut Vec<u64>) {
        let window = self.window(side);
        window.horizon = window.horizon.min(key);
        self.wake_for_anything(wakes);
    }

    pub fn window(&mut self, side: Side) -> &mut Window {
        match side {
            Side::Ready => &mut self.ready,
            Side::Due => &mut self.due,
        }
    }
}
