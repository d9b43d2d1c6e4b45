//! The dispatcher's shared memory: stripes of queues (crate::dispatch), each under one lock.
//!
//! Its size is a setting. What runs under a lock is bounded, raises nothing and calls nothing of the server: the functions used by
//! the callbacks after commit must not fail. Without preload there is no such memory, and everything here answers "nothing is known".

use super::{doorbell, server, shmem};
use crate::dispatch::stripe::{Counts, Entry, Found, QueueKey, Search, Side, Stripe};
use crate::dispatch::tree::{Free, Slot};
use crate::dispatch::waiters::{Places, Waiter, Wakes};
use crate::dispatch::{Candidate, Key};
use crate::settings;
use pgrx::pg_sys;
use std::cell::Cell;
use std::ffi::CStr;

const STRIPES: usize = 8;
/// Queues a stripe can know of at once; the one that was claimed from the longest ago gives way.
const QUEUES_PER_STRIPE: usize = 64;
/// A side with fewer candidates than this is refilled by the maintainer before it runs dry.
pub const LOW_WATER: usize = 256;
/// Candidates taken or merged in one hold of the lock.
pub const CHUNK: usize = 256;
const TRANCHE: &CStr = c"jobq";
/// Locks of super::leases, in the same tranche.
pub(super) const LEASE_LOCKS: usize = 8;
/// Locks of super::counts, too.
pub(super) const COUNT_LOCKS: usize = 8;
/// And the one of super::pools.
const POOL_LOCKS: usize = 1;

#[repr(C, align(128))]
struct Head {
    /// Set while somebody changes the stripe. Found set: he died halfway, and the stripe is emptied.
    in_update: bool,
    free: Free,
    counts: Counts,
    /// Jobs that only a sweep found.
    swept: u64,
    places: Places,
}

#[derive(Clone, Copy)]
struct Memory {
    locks: *mut pg_sys::LWLockPadded,
    heads: *mut Head,
    entries: *mut Entry,
    slots: *mut Slot,
    slots_per_stripe: usize,
    waiters: *mut Waiter,
    waiters_per_stripe: usize,
}

/// Set in the postmaster and inherited by every process it forks; None without preload.
struct Attached(Cell<Option<Memory>>);
static ATTACHED: Attached = Attached(Cell::new(None));
// SAFETY: a process of the server runs on one thread.
unsafe impl Sync for Attached {}

unsafe extern "C-unwind" {
    // Postgres's own, without pgrx's guard: they raise nothing here, and callbacks after commit must not depend on one.
    pub(super) fn LWLockAcquire(lock: *mut pg_sys::LWLock, mode: pg_sys::LWLockMode::Type) -> bool;
    pub(super) fn LWLockRelease(lock: *mut pg_sys::LWLock);
}

/// All entries, of all stripes.
const ENTRIES: usize = STRIPES * QUEUES_PER_STRIPE;

fn slots_per_stripe() -> usize {
    settings::dispatch_slots().div_ceil(STRIPES)
}

/// Each part begins at a multiple of this.
const ALIGNMENT: usize = 128;

pub(super) fn part<T>(count: usize) -> usize {
    size_of::<T>().saturating_mul(count).next_multiple_of(ALIGNMENT)
}

fn bytes() -> usize {
    let slots = part::<Slot>(slots_per_stripe().saturating_mul(STRIPES));
    // All may wait for the queues of one stripe.
    let waiters = part::<Waiter>(settings::max_waiters().saturating_mul(STRIPES));
    part::<Head>(STRIPES).saturating_add(part::<Entry>(ENTRIES)).saturating_add(slots).saturating_add(waiters)
}

/// Asks for the memory and the locks; when the postmaster's hook says that it is time.
pub(super) fn request() {
    // SAFETY: called from shmem_request_hook.
    unsafe {
        pg_sys::RequestAddinShmemSpace(bytes());
        pg_sys::RequestNamedLWLockTranche(TRANCHE.as_ptr(), (STRIPES + LEASE_LOCKS + COUNT_LOCKS + POOL_LOCKS) as i32);
    }
}

/// Takes the memory; from shmem_startup_hook.
pub(super) fn startup() {
    // SAFETY: called by the postmaster, before any other process exists. The memory is as large as was asked for, zero is a valid
    // start value of all of it, and the parts begin at multiples of ALIGNMENT: Postgres aligns what it gives to cache lines.
    unsafe {
        let mut found = false;
        let memory: *mut u8 = pg_sys::ShmemInitStruct(c"jobq dispatch".as_ptr(), bytes(), &mut found).cast();
        if !found {
            memory.write_bytes(0, bytes());
        }
        let entries = memory.add(part::<Head>(STRIPES));
        let slots = entries.add(part::<Entry>(ENTRIES));
        ATTACHED.0.set(Some(Memory {
            locks: pg_sys::GetNamedLWLockTranche(TRANCHE.as_ptr()),
            heads: memory.cast(),
            entries: entries.cast(),
            slots: slots.cast(),
            slots_per_stripe: slots_per_stripe(),
            waiters: slots.add(part::<Slot>(slots_per_stripe().saturating_mul(STRIPES))).cast(),
            waiters_per_stripe: settings::max_waiters(),
        }));
    }
}

/// The lock of a part of the leases.
///
/// # Safety
/// The memory is attached, and n is below LEASE_LOCKS.
pub(super) unsafe fn lease_lock(n: usize) -> *mut pg_sys::LWLock {
    // SAFETY: the tranche has so many locks.
    unsafe { lock(STRIPES.saturating_add(n)) }
}

/// The lock of a part of the counts.
///
/// # Safety
/// The memory is attached, and n is below COUNT_LOCKS.
pub(super) unsafe fn count_lock(n: usize) -> *mut pg_sys::LWLock {
    // SAFETY: the tranche has so many locks.
    unsafe { lock(STRIPES.saturating_add(LEASE_LOCKS).saturating_add(n)) }
}

/// The lock of the pools' seats.
///
/// # Safety
/// The memory is attached.
pub(super) unsafe fn pool_lock() -> *mut pg_sys::LWLock {
    // SAFETY: the last of the tranche.
    unsafe { lock(STRIPES.saturating_add(LEASE_LOCKS).saturating_add(COUNT_LOCKS)) }
}

/// # Safety
/// The memory is attached, and the tranche has more than n locks.
unsafe fn lock(n: usize) -> *mut pg_sys::LWLock {
    let locks = ATTACHED.0.get().map_or(std::ptr::null_mut(), |memory| memory.locks);
    // SAFETY: the caller's promise.
    unsafe { &raw mut (*locks.add(n)).lock }
}

pub fn attached() -> bool {
    ATTACHED.0.get().is_some()
}

/// Runs `body` with a stripe under its lock; None without preload. `body` must be short and raise nothing.
fn with<T>(n: usize, body: impl FnOnce(&mut Stripe<'_>, &mut u64) -> T) -> Option<T> {
    let memory = ATTACHED.0.get().filter(|_| n < STRIPES)?;
    // SAFETY: n is below STRIPES, and the parts are as large as `bytes` says. The lock makes this process the only one that uses
    // this stripe's part of them. Should `body` unwind, the abort of the transaction releases the lock.
    unsafe {
        let lock = &raw mut (*memory.locks.add(n)).lock;
        LWLockAcquire(lock, pg_sys::LWLockMode::LW_EXCLUSIVE);
        let head = &mut *memory.heads.add(n);
        let entries = std::slice::from_raw_parts_mut(memory.entries.add(n.saturating_mul(QUEUES_PER_STRIPE)), QUEUES_PER_STRIPE);
        let slots =
            std::slice::from_raw_parts_mut(memory.slots.add(n.saturating_mul(memory.slots_per_stripe)), memory.slots_per_stripe);
        let waiters = std::slice::from_raw_parts_mut(
            memory.waiters.add(n.saturating_mul(memory.waiters_per_stripe)),
            memory.waiters_per_stripe,
        );
        if std::mem::replace(&mut head.in_update, true) {
            entries.fill(Entry::EMPTY);
            waiters.fill(Waiter::EMPTY);
            (head.free, head.places) = (Free::default(), Places::default());
        }
        let mut wakes = Wakes::none();
        let (free, counts, places) = (&mut head.free, &mut head.counts, &mut head.places);
        let mut stripe = Stripe { entries, slots, free, counts, waiters, places, wakes: &mut wakes };
        let outcome = body(&mut stripe, &mut head.swept);
        head.in_update = false;
        LWLockRelease(lock);
        for owner in wakes.owners() {
            shmem::set_latch(*owner as usize as *mut pg_sys::Latch);
        }
        Some(outcome)
    }
}

fn stripe_of(key: &QueueKey) -> usize {
    // Queues are numbered one after the other: so are their stripes.
    let n = (key.queue as u32).wrapping_add(key.database.wrapping_mul(5));
    n as usize % STRIPES
}

/// The queue of the installation in this session's database whose job table has this oid.
pub fn key(job_table: pg_sys::Oid, queue: i32) -> QueueKey {
    QueueKey { database: server::database_oid().to_u32(), installation: job_table.to_u32(), queue }
}

/// What a claim gets.
pub struct Taken {
    pub candidates: Vec<Candidate>,
    /// When there are fewer than were wanted: why.
    pub found: Found,
    /// How far the ready side is vouched for.
    pub horizon: Key,
    /// The clock that decided what is due.
    pub now: i64,
}

/// Takes out up to `batch` ready candidates (at most CHUNK), of these kinds if any are given. None: nothing can be known here.
pub fn take(key: &QueueKey, batch: usize, kinds: Option<&[u32]>) -> Option<Taken> {
    let mut candidates = Vec::with_capacity(batch.min(CHUNK));
    let wanted = |candidate: &Candidate| kinds.is_none_or(|kinds| kinds.contains(&candidate.kind));
    let taken = with(stripe_of(key), |stripe, _| {
        let at = stripe.entry(key)?;
        let now = stripe.clock(at, server::wall_clock_micros());
        let mut search = Search::begin();
        let found = loop {
            match stripe.take(at, now, &mut search, wanted) {
                Found::Candidate(candidate) => candidates.push(candidate),
                other => break other,
            }
            if candidates.len() >= batch.min(CHUNK) {
                break Found::Short(Side::Ready);
            }
        };
        let low = stripe.ask_for_refill(at, LOW_WATER);
        Some((Taken { candidates, found, horizon: stripe.horizon(at, Side::Ready), now }, low))
    });
    let (taken, low) = taken??;
    if low {
        shmem::wake_maintainer(key.database);
    }
    Some(taken)
}

/// Jobs that became ready, or will be. Neither allocates nor raises.
pub fn offer<'c>(key: &QueueKey, candidates: impl Iterator<Item = &'c Candidate>) {
    let always = doorbell::is_listened(key.database);
    let earlier = with(stripe_of(key), |stripe, _| {
        let Some(at) = stripe.find(key) else { return false };
        let now = server::wall_clock_micros();
        let before = stripe.timer(at, always);
        candidates.for_each(|candidate| {
            stripe.offer(at, candidate, now);
        });
        stripe.timer(at, always) < before
    });
    // Somebody waits or listens, and his job comes earlier than the maintainer has set his alarm for.
    if earlier == Some(true) {
        shmem::wake_maintainer(key.database);
    }
}

/// Jobs that a claim has found in the table: they need not be proposed any more.
pub fn withdraw(key: &QueueKey, candidates: &[Candidate]) {
    for chunk in candidates.chunks(CHUNK) {
        with(stripe_of(key), |stripe, _| {
            if let Some(at) = stripe.find(key) {
                stripe.withdraw(at, chunk);
            }
        });
    }
}

/// Has refills of this database end without effect: their snapshots are older than what the caller knows of.
pub fn interrupt_refills() {
    let database = server::database_oid().to_u32();
    for n in 0..STRIPES {
        with(n, |stripe, _| {
            for at in 0..QUEUES_PER_STRIPE {
                if stripe.database_at(at) == Some(database) {
                    stripe.interrupt_refills(at);
                }
            }
        });
    }
}

/// Jobs that a sweep has read; those that were missing are counted.
pub fn sweep(key: &QueueKey, candidates: &[Candidate]) {
    for chunk in candidates.chunks(CHUNK) {
        with(stripe_of(key), |stripe, swept| {
            let Some(at) = stripe.find(key) else { return };
            let now = server::wall_clock_micros();
            let added = chunk.iter().filter(|candidate| stripe.offer(at, candidate, now)).count();
            *swept = swept.saturating_add(added as u64);
        });
    }
}

/// From here on nothing is known of a queue's jobs. Neither allocates nor raises.
pub fn let_go(key: &QueueKey, ready: Key, due: Key) {
    with(stripe_of(key), |stripe, _| {
        let Some(at) = stripe.find(key) else { return };
        stripe.let_go(at, Side::Ready, ready);
        stripe.let_go(at, Side::Due, due);
    });
}

/// Forgets all queues of a database. Neither allocates nor raises.
pub fn forget_database(database: u32) {
    for n in 0..STRIPES {
        // One at a time: of each queue somebody is to be woken.
        for at in 0..QUEUES_PER_STRIPE {
            with(n, |stripe, _| {
                if stripe.database_at(at) == Some(database) {
                    stripe.remove(at);
                }
            });
        }
    }
}

/// A refill under way.
#[derive(Clone, Copy)]
pub struct Refill {
    pub key: QueueKey,
    pub side: Side,
    pub number: u64,
    pub from: Key,
    /// The clock that decides what is ready.
    pub now: i64,
}

/// Begins a refill; None when somebody else is at it.
pub fn begin(key: &QueueKey, side: Side) -> Option<Refill> {
    with(stripe_of(key), |stripe, _| {
        let at = stripe.entry(key)?;
        let now = stripe.clock(at, server::wall_clock_micros());
        stripe.begin(at, side, now).map(|(number, from)| Refill { key: *key, side, number, from, now })
    })?
}

/// Ends a refill with what it has read: all there was up to `next`. Is more known than before?
pub fn end(refill: &Refill, rows: &[Candidate], next: Key) -> bool {
    for chunk in rows.chunks(CHUNK) {
        with(stripe_of(&refill.key), |stripe, _| {
            if let Some(at) = stripe.find(&refill.key) {
                stripe.merge(at, refill.side, refill.number, chunk);
            }
        });
    }
    let always = doorbell::is_listened(refill.key.database);
    let (more, timer) = with(stripe_of(&refill.key), |stripe, _| {
        let Some(at) = stripe.find(&refill.key) else { return (false, i64::MAX) };
        (stripe.end(at, refill.side, refill.number, next), stripe.timer(at, always))
    })
    .unwrap_or((false, i64::MAX));
    if refill.side == Side::Due && timer < i64::MAX {
        shmem::wake_maintainer(refill.key.database);
    }
    more
}

/// Gives a refill up. Neither allocates nor raises.
pub fn abandon(refill: &Refill) {
    with(stripe_of(&refill.key), |stripe, _| {
        if let Some(at) = stripe.find(&refill.key) {
            stripe.abandon(at, refill.side, refill.number);
        }
    });
}

/// A queue of which something is known.
pub struct Known {
    pub key: QueueKey,
    /// How far each side is vouched for.
    pub ready: Key,
    pub due: Key,
    /// The side that should be refilled.
    pub low: Option<Side>,
}

/// The queues of this database of which something is known.
pub fn known_queues() -> Vec<Known> {
    let database = server::database_oid().to_u32();
    let mut known = Vec::with_capacity(ENTRIES);
    for n in 0..STRIPES {
        with(n, |stripe, _| {
            let ours = stripe.queues().filter(|(_, key)| key.database == database);
            known.extend(ours.map(|(at, key)| Known {
                key: *key,
                ready: stripe.horizon(at, Side::Ready),
                due: stripe.horizon(at, Side::Due),
                low: stripe.low(at, LOW_WATER),
            }));
        });
    }
    known
}

/// A place in the line of a queue.
#[derive(Clone, Copy)]
pub struct Standing {
    key: QueueKey,
    n: u32,
    owner: u64,
}

impl Standing {
    pub const NOWHERE: Standing = Standing { key: QueueKey { database: 0, installation: 0, queue: 0 }, n: 0, owner: 0 };

    /// Joins the line for jobs of these kinds, of any when none are given; None when there is no place.
    pub fn join(key: &QueueKey, latch: *mut pg_sys::Latch, kinds: &[u32]) -> Option<Standing> {
        let owner = latch as usize as u64;
        let (n, timer) = with(stripe_of(key), |stripe, _| {
            let at = stripe.entry(key)?;
            stripe.join(at, owner, kinds).map(|n| (n, stripe.timer(at, false)))
        })??;
        // The maintainer sets no alarm for queues that nobody waits for.
        if timer < i64::MAX {
            shmem::wake_maintainer(key.database);
        }
        Some(Standing { key: *key, n, owner })
    }

    /// Before looking: takes up the old place if woken. False: it is lost.
    pub fn rejoin(&self) -> bool {
        self.in_line(|stripe, at| stripe.rejoin(at, self.n, self.owner)).unwrap_or(false)
    }

    /// Was he woken since he last looked?
    pub fn is_woken(&self) -> bool {
        self.in_line(|stripe, at| stripe.is_woken(at, self.n, self.owner)).unwrap_or(true)
    }

    /// Neither allocates nor raises.
    pub fn leave(&self) {
        self.in_line(|stripe, at| stripe.leave(at, self.n, self.owner));
    }

    /// May he who has just looked everywhere and found nothing go to sleep?
    /// Until when, although nobody wakes him.
    pub fn may_wait(&self) -> Option<i64> {
        let now = server::wall_clock_micros();
        self.in_line(|stripe, at| stripe.may_wait(at, self.n, self.owner, now))?
    }

    fn in_line<T>(&self, body: impl FnOnce(&mut Stripe<'_>, usize) -> T) -> Option<T> {
        with(stripe_of(&self.key), |stripe, _| stripe.find(&self.key).map(|at| body(stripe, at)))?
    }
}

/// When the next job falls due for which somebody waits or listens in this database. What is due now is offered to them.
pub fn next_due() -> Option<i64> {
    let database = server::database_oid().to_u32();
    let (now, always) = (server::wall_clock_micros(), doorbell::is_listened(database));
    let mut came_due = Vec::with_capacity(if always { ENTRIES } else { 0 });
    let of_stripe = |n| {
        with(n, |stripe, _| {
            let due = |at| {
                if stripe.database_at(at) != Some(database) {
                    return None;
                }
                let next = stripe.next_due(at, now, always);
                if always {
                    came_due.extend(stripe.came_due(at));
                }
                next
            };
            (0..QUEUES_PER_STRIPE).filter_map(due).min()
        })?
    };
    let next = (0..STRIPES).filter_map(of_stripe).min();
    came_due.iter().for_each(doorbell::ring);
    next
}

/// How the memory is used, by all databases.
#[derive(Default)]
pub struct Usage {
    pub slots: i64,
    pub used: i64,
    /// Jobs that only sweeps found since the server started.
    pub swept: i64,
}

pub fn usage() -> Usage {
    let mut usage = Usage::default();
    for n in 0..STRIPES {
        with(n, |stripe, swept| {
            let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
            usage.slots = usage.slots.saturating_add(count(stripe.slots.len()));
            usage.used = usage.used.saturating_add(count(stripe.free.used()));
            usage.swept = usage.swept.saturating_add_unsigned(*swept);
        });
    }
    usage
}
