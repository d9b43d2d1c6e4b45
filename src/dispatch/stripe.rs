//! The windows of several queues on one pool of slots.
//!
//! Each queue has two windows: ready jobs in the order of claims, and jobs ahead of their time in the order in which they fall due.
//! When the pool is full a window below its share takes a slot from the fullest one; any other gives up its own last candidate.

use super::tree::{Free, Pool, Slot};
use super::waiters::{Line, Places, Room, Waiter, Wakes};
use super::window::{Pick, Window};
use super::{Candidate, Key};

/// Which queue of which installation; `queue` alone is not unique in the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct QueueKey {
    pub database: u32,
    /// The oid of its job table: another one after DROP and CREATE EXTENSION.
    pub installation: u32,
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
    /// When a claim last looked, in the stripe's count of looks.
    looked_at: u64,
    /// Somebody was asked to refill it since the last refill began.
    asked: bool,
    line: Line,
    /// There were more to wake than could be: those who were will see to it.
    unwoken: bool,
    /// Jobs have fallen due since somebody asked.
    came_due: bool,
}

impl Entry {
    pub const EMPTY: Entry = Entry {
        key: QueueKey { database: 0, installation: 0, queue: 0 },
        in_use: false,
        ready: Window::EMPTY,
        due: Window::EMPTY,
        clock: i64::MIN,
        looked_at: 0,
        asked: false,
        line: Line::EMPTY,
        unwoken: false,
        came_due: false,
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
    /// There may be one that is wanted, too far back to be looked for here: look in the table.
    TooFar,
    /// More jobs have fallen due than could be taken over in one go: ask again.
    Again,
}

/// How a claim goes through the candidates of a queue.
pub struct Search {
    /// The place of the last one that was taken: those before it were not wanted.
    after: Key,
    /// Candidates that may still be looked at in vain.
    looks: usize,
}

impl Search {
    /// Bounds how long a claim of rare kinds holds the lock.
    const LOOKS: usize = 1_024;

    pub fn begin() -> Search {
        Search { after: Key::MIN, looks: Search::LOOKS }
    }
}

/// What `Stripe::move_due` did.
enum Moved {
    All(usize),
    Some,
}

/// A clock seen to step back by more than this empties what was sorted by it.
const STEP_BACK_MICROS: i64 = 1_000_000;

/// Numbers that never go back.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub struct Counts {
    refills: u64,
    looks: u64,
}

pub struct Stripe<'m> {
    pub entries: &'m mut [Entry],
    pub slots: &'m mut [Slot],
    pub free: &'m mut Free,
    pub counts: &'m mut Counts,
    pub waiters: &'m mut [Waiter],
    pub places: &'m mut Places,
    pub wakes: &'m mut Wakes,
}

impl Stripe<'_> {
    /// The queue's place, if anything is known of it.
    pub fn find(&self, key: &QueueKey) -> Option<usize> {
        self.entries.iter().position(|entry| entry.in_use && entry.key == *key)
    }

    /// The queue's place, made if there is none: the queue that no claim has looked at for the longest time is forgotten. None when
    /// somebody waits for each of them.
    pub fn entry(&mut self, key: &QueueKey) -> Option<usize> {
        let at = match self.find(key) {
            Some(at) => at,
            None => {
                let idle =
                    self.entries.iter().enumerate().min_by_key(|(_, entry)| (entry.line.count, entry.in_use, entry.looked_at));
                let at = idle.filter(|(_, entry)| entry.line.count == 0).map(|(at, _)| at)?;
                self.remove(at);
                *self.entries.get_mut(at)? = Entry { key: *key, in_use: true, ..Entry::EMPTY };
                at
            }
        };
        self.counts.looks = self.counts.looks.saturating_add(1);
        self.entries.get_mut(at)?.looked_at = self.counts.looks;
        Some(at)
    }

    /// The queues of which something is known.
    pub fn queues(&self) -> impl Iterator<Item = (usize, &QueueKey)> {
        self.entries.iter().enumerate().filter(|(_, entry)| entry.in_use).map(|(at, entry)| (at, &entry.key))
    }

    /// Forgets a queue and, if nobody waits for it, gives its place free.
    pub fn remove(&mut self, at: usize) {
        self.forget(at);
        if let Some(entry) = self.entries.get_mut(at).filter(|entry| entry.line.count == 0) {
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

    /// A job became ready, or will be: it belongs to one of the sides, by the clock. Was it added?
    pub fn offer(&mut self, at: usize, candidate: &Candidate, now: i64) -> bool {
        let now = self.clock(at, now);
        let side = if candidate.run_at <= now { Side::Ready } else { Side::Due };
        if side == Side::Ready {
            // Whether or not it is kept: who waits for its kind may look behind the horizon.
            self.wake(at, |waiter| waiter.wants(candidate.kind));
        } else if let Some((due, mut pool)) = self.parts(at, Side::Due) {
            // The same job with another priority: this one is newer than what a reading may have brought.
            due.remove(&mut pool, &candidate.due_key());
        }
        self.offer_to(at, side, candidate)
    }

    fn offer_to(&mut self, at: usize, side: Side, candidate: &Candidate) -> bool {
        let key = match side {
            Side::Ready => candidate.ready_key(),
            Side::Due => candidate.due_key(),
        };
        let Some((window, pool)) = self.parts(at, side) else { return false };
        if !window.wants(&pool, &key) {
            return false;
        }
        if pool.is_full() {
            self.make_room(at, side, &key);
        }
        let Some((window, mut pool)) = self.parts(at, side) else { return false };
        let added = window.add(&mut pool, key, candidate);
        if !added {
            window.let_go(key);
        }
        added
    }

    /// Gives one slot free for this key, if it deserves one.
    fn make_room(&mut self, at: usize, side: Side, key: &Key) {
        let share = self.share();
        let fullest = self.fullest();
        let Some((window, mut pool)) = self.parts(at, side) else { return };
        if window.len() < share && fullest != Some((at, side)) {
            if let Some((from, its)) = fullest
                && let Some((window, mut pool)) = self.parts(from, its)
            {
                window.evict_last(&mut pool);
            }
        } else if window.last(&pool).is_some_and(|last| *key < last) {
            window.evict_last(&mut pool);
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

    /// Jobs that a transaction will not offer one by one: whatever lies from this key on is unknown.
    pub fn let_go(&mut self, at: usize, side: Side, key: Key) {
        if let Some((window, _)) = self.parts(at, side) {
            window.let_go(key);
        }
        self.wake_for_anything(at);
    }

    /// There may be jobs of all kinds: one who takes any of them finds out; those who want certain kinds must look by themselves.
    fn wake_for_anything(&mut self, at: usize) {
        self.wake(at, Waiter::wants_any);
        while self.wake(at, |waiter| !waiter.wants_any()) {}
    }

    /// Wakes the first waiter that is `fit`; false when there is none.
    fn wake(&mut self, at: usize, fit: impl Fn(&Waiter) -> bool) -> bool {
        let Some(entry) = self.entries.get_mut(at) else { return false };
        if self.wakes.is_full() {
            entry.unwoken |= entry.line.count > 0;
            return false;
        }
        let woken = Room { waiters: self.waiters, places: self.places }.wake(&mut entry.line, fit);
        if let Some(owner) = woken {
            self.wakes.add(owner);
        }
        woken.is_some()
    }

    /// Runs `body` with a queue's line.
    fn in_line<T>(&mut self, at: usize, body: impl FnOnce(&mut Room<'_>, &mut Line) -> T) -> Option<T> {
        let entry = self.entries.get_mut(at)?;
        Some(body(&mut Room { waiters: self.waiters, places: self.places }, &mut entry.line))
    }

    /// Somebody waits for jobs of these kinds, of any when none are given: his number. None when there is no place.
    pub fn join(&mut self, at: usize, owner: u64, kinds: &[u32]) -> Option<u32> {
        self.in_line(at, |room, line| room.join(line, owner, kinds))?
    }

    /// A waiter is about to look: he takes up his old place if he was woken. False: he has no place any more.
    pub fn rejoin(&mut self, at: usize, n: u32, owner: u64) -> bool {
        let rejoined = self.in_line(at, |room, line| {
            let is_his = room.is_at(n, owner);
            if is_his {
                room.rejoin(line, n);
            }
            is_his
        });
        self.wake_the_rest(at);
        rejoined == Some(true)
    }

    fn wake_the_rest(&mut self, at: usize) {
        if self.entries.get_mut(at).is_some_and(|entry| std::mem::take(&mut entry.unwoken)) {
            self.wake_for_anything(at);
        }
    }

    /// Was he woken since he last took up his place?
    pub fn is_woken(&mut self, at: usize, n: u32, owner: u64) -> bool {
        self.in_line(at, |room, _| !room.is_at(n, owner) || room.is_woken(n)).unwrap_or(true)
    }

    /// A waiter leaves for good, and the next one looks at what he leaves behind.
    pub fn leave(&mut self, at: usize, n: u32, owner: u64) {
        let left = self.in_line(at, |room, line| {
            if !room.is_at(n, owner) {
                return None;
            }
            let waiter = room.at(n);
            let owes = room.is_woken(n) || room.lie_down(n).is_some();
            room.leave(line, n);
            Some((waiter, owes))
        });
        self.wake_the_rest(at);
        let Some((waiter, owes)) = left.flatten() else { return };
        self.pass_on(at, owes, 0, |_| true);
        if owes {
            // What he was woken for may stand behind what somebody else was woken for just now.
            self.pass_on(at, true, 0, |candidate| waiter.wants(candidate.kind));
        }
    }

    /// Wakes the first waiter with a later ticket that can use what there is and is `owed`. `unsure`: also if it may be there without
    /// being known.
    fn pass_on(&mut self, at: usize, unsure: bool, ticket: u64, owed: impl Fn(&Candidate) -> bool) {
        const LOOKS: usize = 32;
        let mut key = Key::MIN;
        for _ in 0..LOOKS {
            let Some((ready, pool)) = self.parts(at, Side::Ready) else { return };
            let horizon = ready.horizon();
            match ready.after(&pool, &key).filter(|(next, _)| *next < horizon) {
                Some((next, candidate)) => {
                    let wants = |waiter: &Waiter| waiter.is_behind(ticket) && waiter.wants(candidate.kind);
                    if owed(&candidate) && self.wake(at, wants) {
                        return;
                    }
                    key = next;
                }
                None => {
                    if horizon < Key::MAX {
                        self.wake(at, |waiter| waiter.is_behind(ticket) && (unsure || waiter.wants_any()));
                    }
                    return;
                }
            }
        }
        // There is more than can be looked at.
        self.wake(at, |waiter| waiter.is_behind(ticket));
    }

    /// May somebody wait to be woken who joined the line, then looked everywhere, and found nothing? Whatever comes later wakes him,
    /// but for jobs that fall due and that nobody knows of.
    /// Until when he may sleep although nobody wakes him.
    pub fn may_wait(&mut self, at: usize, n: u32, owner: u64, now: i64) -> Option<i64> {
        let owed = self.in_line(at, |room, _| {
            let waiter = room.at(n);
            room.is_at(n, owner).then(|| room.lie_down(n)).flatten().map(|ticket| (waiter, ticket))
        });
        // What he takes himself he has not got: others cannot have it either, as in a paused queue.
        if let Some((waiter, ticket)) = owed.flatten() {
            self.pass_on(at, true, ticket, |candidate| !waiter.wants(candidate.kind));
        }
        let now = self.clock(at, now);
        let (due, pool) = self.parts(at, Side::Due)?;
        let behind = due.horizon().run_at;
        (behind > now).then(|| behind.min(due.first_run_at(&pool).unwrap_or(i64::MAX)))
    }

    /// The database of the queue at a place.
    pub fn database_at(&self, at: usize) -> Option<u32> {
        self.entries.get(at).filter(|entry| entry.in_use).map(|entry| entry.key.database)
    }

    /// When the first job falls due that somebody may wait for; the end of time when nobody does. `always`: somebody does.
    pub fn timer(&mut self, at: usize, always: bool) -> i64 {
        if self.entries.get(at).is_none_or(|entry| entry.line.count == 0 && !always) {
            return i64::MAX;
        }
        self.parts(at, Side::Due).and_then(|(due, pool)| due.first_run_at(&pool)).unwrap_or(i64::MAX)
    }

    /// When the next job falls due for which somebody waits (`always`: somebody does); what is due now goes over to the ready ones.
    pub fn next_due(&mut self, at: usize, now: i64, always: bool) -> Option<i64> {
        self.entries.get(at).filter(|entry| entry.line.count > 0 || always)?;
        self.wake_the_rest(at);
        let now = self.clock(at, now);
        self.move_due(at, now);
        let is_known = self.entries.get(at).is_some_and(|entry| entry.ready.horizon() > Key::MIN);
        let (due, pool) = self.parts(at, Side::Due)?;
        let behind = if is_known { due.horizon().run_at } else { i64::MAX };
        let until = due.first_run_at(&pool).unwrap_or(i64::MAX).min(behind);
        // There were too many to wake: once more.
        let until = if self.entries.get(at).is_some_and(|entry| entry.unwoken) { now } else { until };
        (until < i64::MAX).then_some(until)
    }

    /// The queue, if jobs have gone over to the ready ones since the last time that this was asked.
    pub fn came_due(&mut self, at: usize) -> Option<QueueKey> {
        let entry = self.entries.get_mut(at)?;
        std::mem::take(&mut entry.came_due).then_some(entry.key)
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
    pub fn take(&mut self, at: usize, now: i64, search: &mut Search, wanted: impl Fn(&Candidate) -> bool) -> Found {
        let now = self.clock(at, now);
        match self.move_due(at, now) {
            Moved::All(0) => {}
            // They may come before those that were passed over.
            Moved::All(_) => search.after = Key::MIN,
            Moved::Some => return Found::Again,
        }
        let Some((due, pool)) = self.parts(at, Side::Due) else { return Found::Short(Side::Due) };
        // Jobs that nobody knows of may have fallen due, and come first.
        if due.horizon().run_at <= now {
            return Found::Short(Side::Due);
        }
        let until = due.first_run_at(&pool).unwrap_or(i64::MAX).min(due.horizon().run_at);
        let Some((ready, mut pool)) = self.parts(at, Side::Ready) else { return Found::Short(Side::Ready) };
        match ready.take(&mut pool, search.after, &mut search.looks, wanted) {
            Pick::Candidate(candidate) => {
                search.after = candidate.ready_key();
                Found::Candidate(candidate)
            }
            Pick::TooFar => Found::TooFar,
            Pick::Short if ready.horizon() < Key::MAX => Found::Short(Side::Ready),
            Pick::Short => Found::Nothing { until },
        }
    }

    /// Jobs whose time has come go over to the ready ones, some at a time.
    fn move_due(&mut self, at: usize, now: i64) -> Moved {
        const CHUNK: usize = 256;
        for moved in 0..CHUNK {
            let Some((due, mut pool)) = self.parts(at, Side::Due) else { return Moved::All(moved) };
            let Some(candidate) = due.take_due(&mut pool, now) else { return Moved::All(moved) };
            if let Some(entry) = self.entries.get_mut(at) {
                entry.came_due = true;
            }
            self.wake(at, |waiter| waiter.wants(candidate.kind));
            self.offer_to(at, Side::Ready, &candidate);
        }
        Moved::Some
    }

    /// These were found in the table: they need not be proposed any more.
    pub fn withdraw(&mut self, at: usize, candidates: &[Candidate]) {
        if let Some((ready, mut pool)) = self.parts(at, Side::Ready) {
            candidates.iter().for_each(|candidate| ready.remove(&mut pool, &candidate.ready_key()));
        }
    }

    /// Refills that are under way have not seen what was committed just now: they end without effect.
    pub fn interrupt_refills(&mut self, at: usize) {
        for side in [Side::Ready, Side::Due] {
            if let Some((window, mut pool)) = self.parts(at, side) {
                window.interrupt(&mut pool);
            }
        }
    }

    /// How far a side is vouched for.
    pub fn horizon(&self, at: usize, side: Side) -> Key {
        self.entries.get(at).map_or(Key::MIN, |entry| match side {
            Side::Ready => entry.ready.horizon(),
            Side::Due => entry.due.horizon(),
        })
    }

    /// The side that will soon be short and that nobody refills.
    pub fn low(&self, at: usize, low_water: usize) -> Option<Side> {
        let entry = self.entries.get(at)?;
        // More than its share a side may never have.
        let low_water = low_water.min(self.share());
        let is_low = |window: &Window| window.len() < low_water && window.horizon() < Key::MAX && !window.is_being_refilled();
        // What nobody has looked for yet is not missed.
        let is_known = entry.ready.horizon() > Key::MIN;
        [(Side::Due, &entry.due), (Side::Ready, &entry.ready)]
            .into_iter()
            .find(|(_, window)| is_known && is_low(window))
            .map(|(side, _)| side)
    }

    /// True once, when a side has become low, until the next refill begins.
    pub fn ask_for_refill(&mut self, at: usize, low_water: usize) -> bool {
        let is_low = self.low(at, low_water).is_some();
        self.entries.get_mut(at).is_some_and(|entry| is_low && !std::mem::replace(&mut entry.asked, true))
    }

    /// Begins a refill of one side: its number, and the key to read from. None when one is under way.
    ///
    /// When the clock has overtaken the horizon of the due side, jobs that nobody knows of have become ready. Then nothing is vouched
    /// for on the ready side any more, and the due side begins behind the present moment.
    pub fn begin(&mut self, at: usize, side: Side, now: i64) -> Option<(u64, Key)> {
        let now = self.clock(at, now);
        let number = self.counts.refills.saturating_add(1);
        let entry = self.entries.get_mut(at)?;
        let mut from = match side {
            Side::Ready => entry.ready.begin(number)?,
            Side::Due => entry.due.begin(number)?,
        };
        if side == Side::Due && from.run_at <= now {
            entry.ready.let_go(Key::MIN);
            from = Key { rank: 0, run_at: now.saturating_add(1), id: 0 };
            self.wake_for_anything(at);
        }
        let entry = self.entries.get_mut(at)?;
        entry.asked = false;
        self.counts.refills = number;
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

    /// Ends a refill that has read everything up to `next` (`Key::MAX`: to the end). Is more known than before?
    pub fn end(&mut self, at: usize, side: Side, refill: u64, next: Key) -> bool {
        let Some((window, mut pool)) = self.parts(at, side) else { return false };
        let before = window.horizon();
        window.end(&mut pool, refill, next) && window.horizon() > before
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
        self.wake_for_anything(at);
    }
}
