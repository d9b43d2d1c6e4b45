//! The windows of several queues on one pool of slots.
//!
//! Each queue has two windows: ready jobs in the order of claims, and jobs ahead of their time in the order in which they fall due.
//! When the pool is full a window below its share takes a slot from the fullest one; any other gives up its own last candidate.

use super::tree::{Free, Pool, Slot};
use super::window::Window;
use super::{Candidate, Key};

/// Which queue of which installation; `queue` alone is not unique in the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct QueueKey {
    pub database: u32,
    pub extension: u32,
    pub queue: i32,
}

#[derive(Clone, Copy)]
#[repr(C)]
pub struct Entry {
    key: QueueKey,
    in_use: bool,
    ready: Window,
    due: Window,
    /// The latest clock reading used.
    clock: i64,
}

impl Entry {
    pub const EMPTY: Entry = Entry {
        key: QueueKey { database: 0, extension: 0, queue: 0 },
        in_use: false,
        ready: Window::EMPTY,
        due: Window::EMPTY,
        clock: i64::MIN,
    };
}

/// Which window of a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Ready,
    Due,
}

/// What a claim found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    Candidate(Candidate),
    /// Nothing is known below the horizon; behind it there may be more: refill this side.
    Short(Side),
    /// There is no ready job (none that is wanted, for a claim with a filter), and none falls due before then.
    Nothing {
        until: i64,
    },
}

/// A clock seen to step back by more than this empties what was sorted by it.
const STEP_BACK_MICROS: i64 = 1_000_000;

pub struct Stripe<'m> {
    pub entries: &'m mut [Entry],
    pub slots: &'m mut [Slot],
    pub free: &'m mut Free,
    /// Numbers refills; never goes back.
    pub refills: &'m mut u64,
}

impl Stripe<'_> {
    /// The queue's place, made if there is room. None: the queue is served from the heap.
    pub fn entry(&mut self, key: QueueKey) -> Option<usize> {
        if let Some(at) = self.entries.iter().position(|entry| entry.in_use && entry.key == key) {
            return Some(at);
        }
        let at = self.entries.iter().position(|entry| !entry.in_use)?;
        *self.entries.get_mut(at)? = Entry { key, in_use: true, ..Entry::EMPTY };
        Some(at)
    }

    /// Forgets a queue and gives its place free.
    pub fn remove(&mut self, at: usize) {
        self.forget(at);
        if let Some(entry) = self.entries.get_mut(at) {
            *entry = Entry::EMPTY;
        }
    }

    fn parts(&mut self, at: usize, side: Side) -> Option<(&mut Window, Pool<'_>)> {
        let entry = self.entries.get_mut(at)?;
        let window = match side {
            Side::Ready => &mut entry.ready,
            Side::Due => &mut entry.due,
        };
        Some((window, Pool { slots: self.slots, free: self.free }))
    }

    /// A job became ready, or will be: it belongs to one of the sides, by the clock.
    pub fn offer(&mut self, at: usize, candidate: &Candidate, now: i64) {
        let now = self.clock(at, now);
        if candidate.run_at <= now {
            self.offer_to(at, Side::Ready, candidate);
        } else {
            self.offer_to(at, Side::Due, candidate);
        }
    }

    fn offer_to(&mut self, at: usize, side: Side, candidate: &Candidate) {
        let key = match side {
            Side::Ready => candidate.ready_key(),
            Side::Due => candidate.due_key(),
        };
        let share = self.share();
        let fullest = self.fullest();
        let Some((window, mut pool)) = self.parts(at, side) else { return };
        if !window.wants(&pool, &key) {
            return;
        }
        if pool.is_full() {
            if window.len() < share && fullest != Some((at, side)) {
                if let Some((from, its)) = fullest
                    && let Some((window, mut pool)) = self.parts(from, its)
                {
                    window.evict_last(&mut pool);
                }
            } else if window.last(&pool).is_some_and(|last| key < last) {
                window.evict_last(&mut pool);
            }
        }
        let Some((window, mut pool)) = self.parts(at, side) else { return };
        if !window.add(&mut pool, key, candidate) {
            window.let_go(key);
        }
    }

    /// Slots a window may always have; one at least, so that no refill is in vain.
    fn share(&self) -> usize {
        let windows = self.entries.iter().filter(|entry| entry.in_use).count().saturating_mul(2);
        self.slots.len().checked_div(windows).unwrap_or(0).max(1)
    }

    fn fullest(&self) -> Option<(usize, Side)> {
        let sides = self
            .entries
            .iter()
            .enumerate()
            .filter(|(_, entry)| entry.in_use)
            .flat_map(|(at, entry)| [(entry.ready.len(), at, Side::Ready), (entry.due.len(), at, Side::Due)]);
        sides.max_by_key(|(len, _, _)| *len).map(|(_, at, side)| (at, side))
    }

    /// A job that a transaction will not offer one by one: whatever lies from this key on is unknown.
    pub fn let_go(&mut self, at: usize, side: Side, key: Key) {
        if let Some((window, _)) = self.parts(at, side) {
            window.let_go(key);
        }
    }

    /// The clock as it counts for this queue, for refills too: small steps back are ignored, a large one empties the entry.
    pub fn clock(&mut self, at: usize, now: i64) -> i64 {
        let Some(entry) = self.entries.get_mut(at) else { return now };
        if now >= entry.clock {
            entry.clock = now;
        } else if entry.clock.saturating_sub(now) > STEP_BACK_MICROS {
            self.forget(at);
            if let Some(entry) = self.entries.get_mut(at) {
                entry.clock = now;
            }
            return now;
        }
        self.entries.get(at).map_or(now, |entry| entry.clock)
    }

    /// Takes out the first ready candidate that is `wanted`.
    pub fn take(&mut self, at: usize, now: i64, wanted: impl Fn(&Candidate) -> bool) -> Found {
        let now = self.clock(at, now);
        self.move_due(at, now);
        let Some((due, pool)) = self.parts(at, Side::Due) else { return Found::Short(Side::Due) };
        // Jobs that nobody knows of may have fallen due, and come first.
        if due.horizon().run_at <= now {
            return Found::Short(Side::Due);
        }
        let until = due.first_run_at(&pool).unwrap_or(i64::MAX).min(due.horizon().run_at);
        let Some((ready, mut pool)) = self.parts(at, Side::Ready) else { return Found::Short(Side::Ready) };
        match ready.take(&mut pool, wanted) {
            Some(candidate) => Found::Candidate(candidate),
            None if ready.horizon() < Key::MAX => Found::Short(Side::Ready),
            None => Found::Nothing { until },
        }
    }

    /// Jobs whose time has come go over to the ready ones.
    fn move_due(&mut self, at: usize, now: i64) {
        loop {
            let Some((due, mut pool)) = self.parts(at, Side::Due) else { return };
            let Some(candidate) = due.take_due(&mut pool, now) else { return };
            self.offer_to(at, Side::Ready, &candidate);
        }
    }

    /// Begins a refill of one side: its number, and the key to read from. None when one is under way.
    pub fn begin(&mut self, at: usize, side: Side) -> Option<(u64, Key)> {
        let number = self.refills.saturating_add(1);
        let (window, _) = self.parts(at, side)?;
        let from = window.begin(number)?;
        *self.refills = number;
        Some((number, from))
    }

    /// Rows that a refill has read, some at a time. False when it was ended meanwhile.
    pub fn merge(&mut self, at: usize, side: Side, refill: u64, rows: &[Candidate]) -> bool {
        if !self.parts(at, side).is_some_and(|(window, _)| window.is_refilled_by(refill)) {
            return false;
        }
        for candidate in rows {
            self.offer_to(at, side, candidate);
        }
        true
    }

    /// Ends a refill that has read everything up to `next` (`Key::MAX`: to the end).
    pub fn end(&mut self, at: usize, side: Side, refill: u64, next: Key) -> bool {
        self.parts(at, side).is_some_and(|(window, mut pool)| window.end(&mut pool, refill, next))
    }

    pub fn abandon(&mut self, at: usize, side: Side, refill: u64) {
        if let Some((window, mut pool)) = self.parts(at, side) {
            window.abandon(&mut pool, refill);
        }
    }

    /// Forgets what is known of a queue; refills that are under way end.
    pub fn forget(&mut self, at: usize) {
        for side in [Side::Ready, Side::Due] {
            if let Some((window, mut pool)) = self.parts(at, side) {
                window.forget(&mut pool);
            }
        }
    }
}
