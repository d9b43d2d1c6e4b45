//! One stripe of shared memory, as src/pg/stripes.rs lays it out, and how to look into it.

use crate::dispatch::stripe::{Counts, Entry, QueueKey, Stripe};
use crate::dispatch::tree::{Free, Pool, Slot, Tree};
use crate::dispatch::waiters::{Line, Places, Room, Waiter, Wakes};
use crate::dispatch::{Candidate, Key};

#[derive(Clone)]
pub struct Memory {
    entries: Vec<Entry>,
    slots: Vec<Slot>,
    free: Free,
    counts: Counts,
    waiters: Vec<Waiter>,
    places: Places,
}

/// `Entry` as it lies in memory. Its fields are private; what is equal in here behaves the same.
#[repr(C)]
pub struct EntryView {
    key: QueueKey,
    pub in_use: bool,
    pub ready: WindowView,
    pub due: WindowView,
    pub clock: i64,
    pub looked_at: u64,
    asked: bool,
    pub line: Line,
    unwoken: bool,
    came_due: bool,
}

#[repr(C)]
pub struct WindowView {
    pub set: Tree,
    pub horizon: Key,
    pub floor: Key,
    pub refill: u64,
}

const _: () = assert!(size_of::<Entry>() == size_of::<EntryView>() && align_of::<Entry>() == align_of::<EntryView>());

pub fn queue_key(queue: u8) -> QueueKey {
    QueueKey { database: 1, installation: 1, queue: i32::from(queue) }
}

impl Memory {
    pub fn new(entries: usize, slots: usize, waiters: usize) -> Memory {
        Memory {
            entries: vec![Entry::EMPTY; entries],
            slots: vec![Slot::EMPTY; slots],
            free: Free::default(),
            counts: Counts::default(),
            waiters: vec![Waiter::EMPTY; waiters],
            places: Places::default(),
        }
    }

    /// The same, with nothing in it.
    pub fn emptied(&self) -> Memory {
        Memory::new(self.entries.len(), self.slots.len(), self.waiters.len())
    }

    /// Runs `body` under the stripe's lock; then whom to wake.
    pub fn hold<T>(&mut self, body: impl FnOnce(&mut Stripe<'_>) -> T) -> (T, Vec<u64>) {
        let mut wakes = Wakes::none();
        let mut stripe = Stripe {
            entries: &mut self.entries,
            slots: &mut self.slots,
            free: &mut self.free,
            counts: &mut self.counts,
            waiters: &mut self.waiters,
            places: &mut self.places,
            wakes: &mut wakes,
        };
        let outcome = body(&mut stripe);
        (outcome, wakes.owners().to_vec())
    }

    /// What is known of a queue.
    pub fn view(&self, queue: u8) -> Option<&EntryView> {
        let key = queue_key(queue);
        // SAFETY: both are repr(C) with the same fields in the same order; their sizes are compared above, and what is seen through
        // the one is compared with what the other tells by `is_seen_right`.
        self.entries
            .iter()
            .map(|entry| unsafe { &*std::ptr::from_ref(entry).cast::<EntryView>() })
            .find(|entry| entry.in_use && entry.key == key)
    }

    /// What a window holds, in order.
    pub fn content(&self, window: &WindowView) -> Vec<(Key, Candidate)> {
        let (mut slots, mut free) = (self.slots.clone(), self.free);
        let pool = Pool { slots: &mut slots, free: &mut free };
        let (mut content, mut key) = (Vec::new(), Key::MIN);
        while let Some((next, candidate)) = pool.after(&window.set, &key) {
            content.push((next, candidate));
            key = next;
        }
        content
    }

    pub fn slots_used(&self) -> usize {
        self.free.used()
    }

    pub fn is_woken(&self, place: u32) -> bool {
        let (mut waiters, mut places) = (self.waiters.clone(), self.places);
        Room { waiters: &mut waiters, places: &mut places }.is_woken(place)
    }

    /// Was he woken since he last went to sleep?
    pub fn owes(&self, place: u32) -> bool {
        let (mut waiters, mut places) = (self.waiters.clone(), self.places);
        Room { waiters: &mut waiters, places: &mut places }.lie_down(place).is_some()
    }

    /// How many more could join a line.
    pub fn places_free(&self) -> usize {
        let (mut waiters, mut places) = (self.waiters.clone(), self.places);
        let mut room = Room { waiters: &mut waiters, places: &mut places };
        let mut line = Line::EMPTY;
        std::iter::from_fn(|| room.join(&mut line, 1, &[])).take(1_000).count()
    }
}

/// Does `view` show what `Stripe` tells? If not, `EntryView` is no longer laid out like `Entry`.
pub fn is_seen_right() -> bool {
    use crate::dispatch::stripe::Side;
    let mut memory = Memory::new(2, 8, 2);
    let job = Candidate { priority: 1, run_at: 5, id: 7, kind: 2 };
    let (horizons, _) = memory.hold(|stripe| {
        let at = stripe.entry(&queue_key(3)).unwrap_or(0);
        let begun = stripe.begin(at, Side::Ready, 6);
        stripe.offer(at, &job, 6);
        stripe.begin(at, Side::Due, 6);
        stripe.join(at, 9, &[]);
        (stripe.horizon(at, Side::Ready), stripe.horizon(at, Side::Due), begun.map_or(0, |(number, _)| number))
    });
    memory.view(3).is_some_and(|entry| {
        (entry.ready.horizon, entry.due.horizon, entry.ready.refill) == horizons
            && entry.ready.floor == Key::MIN
            && entry.due.floor == Key::MAX
            && entry.clock == 6
            && entry.line.count == 1
            && entry.looked_at == 1
            && memory.content(&entry.ready) == vec![(job.ready_key(), job)]
            && memory.content(&entry.due).is_empty()
    })
}
