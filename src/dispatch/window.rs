//! One ordered set of candidates with what is known about the jobs that are not in it.
//!
//! Invariant: every job whose key is below the horizon is in the set, or is held by a live transaction that will offer it when it
//! ends. Adding to the set and lowering the horizon are always safe. Only the end of a refill raises the horizon, and not past
//! anything that was let go since the refill began.

use super::tree::{Pool, Tree};
use super::{Candidate, Key};

#[derive(Clone, Copy)]
#[repr(C)]
pub struct Window {
    set: Tree,
    horizon: Key,
    /// The smallest key let go since the refill began.
    floor: Key,
    /// The refill that is under way; 0: none.
    refill: u64,
}

/// What `Window::take` found.
pub enum Pick {
    Candidate(Candidate),
    /// None below the horizon.
    Short,
    /// None among those that there was time to look at.
    TooFar,
}

impl Window {
    /// Nothing is known.
    pub const EMPTY: Window = Window { set: Tree::EMPTY, horizon: Key::MIN, floor: Key::MAX, refill: 0 };

    pub fn len(&self) -> usize {
        self.set.len()
    }

    pub fn is_empty(&self) -> bool {
        self.set.is_empty()
    }

    pub fn horizon(&self) -> Key {
        self.horizon
    }

    pub fn is_being_refilled(&self) -> bool {
        self.refill != 0
    }

    /// The key is no longer vouched for.
    pub fn let_go(&mut self, key: Key) {
        self.horizon = self.horizon.min(key);
        self.floor = self.floor.min(key);
    }

    /// Would the window keep this key? While a refill is under way every key: nobody knows how far it will get.
    pub fn wants(&self, pool: &Pool<'_>, key: &Key) -> bool {
        (self.refill != 0 || *key < self.horizon) && !pool.contains(&self.set, key)
    }

    /// For a key that is wanted. False without a free slot.
    pub fn add(&mut self, pool: &mut Pool<'_>, key: Key, candidate: &Candidate) -> bool {
        pool.insert(&mut self.set, key, candidate)
    }

    pub fn last(&self, pool: &Pool<'_>) -> Option<Key> {
        pool.last(&self.set)
    }

    /// Gives one slot free; false when the window is empty.
    pub fn evict_last(&mut self, pool: &mut Pool<'_>) -> bool {
        let Some(key) = pool.last(&self.set) else { return false };
        pool.remove(&mut self.set, &key);
        self.let_go(key);
        true
    }

    /// Takes out the first candidate behind a key and below the horizon that is `wanted`. Each one looked at costs one of `looks`.
    pub fn take(&mut self, pool: &mut Pool<'_>, after: Key, looks: &mut usize, wanted: impl Fn(&Candidate) -> bool) -> Pick {
        let mut key = after;
        loop {
            let Some((next, candidate)) = pool.after(&self.set, &key).filter(|(next, _)| *next < self.horizon) else {
                return Pick::Short;
            };
            if wanted(&candidate) {
                pool.remove(&mut self.set, &next);
                return Pick::Candidate(candidate);
            }
            *looks = looks.saturating_sub(1);
            if *looks == 0 {
                return Pick::TooFar;
            }
            key = next;
        }
    }

    /// Takes out this one, if it is there.
    pub fn remove(&mut self, pool: &mut Pool<'_>, key: &Key) {
        pool.remove(&mut self.set, key);
    }

    /// The first candidate behind a key.
    pub fn after(&self, pool: &Pool<'_>, key: &Key) -> Option<(Key, Candidate)> {
        pool.after(&self.set, key)
    }

    /// Takes out the first candidate, below the horizon or not, if its time has come.
    pub fn take_due(&mut self, pool: &mut Pool<'_>, now: i64) -> Option<Candidate> {
        pool.first(&self.set).filter(|key| key.run_at <= now)?;
        pool.take_first(&mut self.set)
    }

    /// When the first candidate falls due.
    pub fn first_run_at(&self, pool: &Pool<'_>) -> Option<i64> {
        pool.first(&self.set).map(|key| key.run_at)
    }

    /// Begins a refill under this number, which is never used again: where to read from. None when one is under way.
    pub fn begin(&mut self, refill: u64) -> Option<Key> {
        if self.refill != 0 {
            return None;
        }
        (self.refill, self.floor) = (refill, Key::MAX);
        Some(self.horizon)
    }

    /// May this refill go on?
    pub fn is_refilled_by(&self, refill: u64) -> bool {
        refill != 0 && self.refill == refill
    }

    /// Ends a refill whose rows were offered: it has read everything from where it began up to `next`. False when it was ended
    /// meanwhile.
    pub fn end(&mut self, pool: &mut Pool<'_>, refill: u64, next: Key) -> bool {
        if !self.is_refilled_by(refill) {
            return false;
        }
        self.horizon = self.horizon.max(next.min(self.floor));
        self.stop(pool);
        true
    }

    /// Ends a refill, whoever makes it, as if it had failed.
    pub fn interrupt(&mut self, pool: &mut Pool<'_>) {
        if self.refill != 0 {
            self.stop(pool);
        }
    }

    /// Gives a refill up.
    pub fn abandon(&mut self, pool: &mut Pool<'_>, refill: u64) {
        if self.is_refilled_by(refill) {
            self.stop(pool);
        }
    }

    fn stop(&mut self, pool: &mut Pool<'_>) {
        self.refill = 0;
        while pool.last(&self.set).is_some_and(|key| key >= self.horizon) {
            pool.take_last(&mut self.set);
        }
    }

    /// Forgets everything, and ends a refill that is under way.
    pub fn forget(&mut self, pool: &mut Pool<'_>) {
        pool.clear(&mut self.set);
        *self = Window::EMPTY;
    }
}
