//! How many jobs there are (crate::dispatch::tally): what a transaction changes it notes here, and adds when it has committed.
//!
//! The tables are counted when a maintainer starts, when something was not noted (a prepared transaction, a dropped queue, too many
//! queues in one transaction, a restore), and now and then for what others than jobq have written. The snapshot of the last count stays
//! here: a transaction that ends can tell by its number whether it was counted.
//!
//! What runs at the end of a transaction neither allocates nor raises.

use super::stripes::{self, COUNT_LOCKS};
use super::{server, shmem};
use crate::dispatch::stripe::QueueKey;
use crate::dispatch::tally::{NO_QUEUE, Tallies, Tally, Told, What};
use pgrx::pg_sys;
use std::cell::{Cell, UnsafeCell};
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering::SeqCst};

const PARTS: usize = COUNT_LOCKS;
const QUEUES_PER_PART: usize = 256;
/// Open transactions that the snapshot of a count may have. With more there is no count.
const OPEN: usize = 1_024;
/// A count that should have been made so long ago makes the numbers unknown.
const OLD_MICROS: i64 = 3_600_000_000;

#[repr(C)]
struct Part {
    /// As in super::stripes.
    in_update: bool,
    keys: [QueueKey; QUEUES_PER_PART],
    tallies: [Tally; QUEUES_PER_PART],
}

/// The last count of a database, begun or ended. Changed under all locks, read under any one.
#[repr(C)]
struct Count {
    is_under_way: bool,
    /// Its snapshot; zero: there was none.
    xmin: pg_sys::TransactionId,
    xmax: pg_sys::TransactionId,
    open_count: usize,
    open: [pg_sys::TransactionId; OPEN],
}

/// What may be read without a lock; zero to begin with.
pub(super) struct Requests {
    /// Counts requests to count.
    wanted: AtomicU32,
    /// Those that were answered by a count that came to its end.
    answered: AtomicU32,
    /// By the clock that nobody sets: when to count in any case, and not before when.
    again_at: AtomicI64,
    not_before: AtomicI64,
}

impl Requests {
    pub(super) fn ask(&self) {
        self.wanted.fetch_add(1, SeqCst);
    }

    /// For another database from here on.
    pub(super) fn begin(&self) {
        self.again_at.store(0, SeqCst);
        self.not_before.store(0, SeqCst);
    }
}

struct Attached(Cell<Option<(*mut Part, *mut Count)>>);
static ATTACHED: Attached = Attached(Cell::new(None));
// SAFETY: a process of the server runs on one thread.
unsafe impl Sync for Attached {}

fn sizes() -> (usize, usize) {
    (stripes::part::<Part>(PARTS), stripes::part::<Count>(shmem::MAINTAINERS))
}

pub(super) fn request() {
    let (parts, counts) = sizes();
    // SAFETY: called from shmem_request_hook.
    unsafe { pg_sys::RequestAddinShmemSpace(parts.saturating_add(counts)) }
}

pub(super) fn startup() {
    let (parts, counts) = sizes();
    let bytes = parts.saturating_add(counts);
    // SAFETY: as in stripes::startup.
    unsafe {
        let mut found = false;
        let memory: *mut u8 = pg_sys::ShmemInitStruct(c"jobq counts".as_ptr(), bytes, &mut found).cast();
        if !found {
            memory.write_bytes(0, bytes);
        }
        ATTACHED.0.set(Some((memory.cast(), memory.add(parts).cast())));
    }
}

/// The last count of this database; only with a lock held.
///
/// # Safety
/// The reference is used under the lock only, and to change it all locks are held.
unsafe fn last_count(database: u32) -> Option<&'static mut Count> {
    let (_, counts) = ATTACHED.0.get()?;
    let n = shmem::slot_number(database)?;
    // SAFETY: there are as many as slots; the rest is the caller's promise.
    unsafe { counts.add(n).as_mut() }
}

/// Runs `body` with a part of the tallies under its lock. It must be short and raise nothing.
fn with<T>(n: usize, body: impl FnOnce(&mut Tallies<'_>) -> T) -> Option<T> {
    let (parts, _) = ATTACHED.0.get().filter(|_| n < PARTS)?;
    // SAFETY: as in stripes::with.
    unsafe {
        let lock = stripes::count_lock(n);
        stripes::LWLockAcquire(lock, pg_sys::LWLockMode::LW_EXCLUSIVE);
        let part = &mut *parts.add(n);
        if std::mem::replace(&mut part.in_update, true) {
            part.keys.fill(NO_QUEUE);
            shmem::ask_all_for_counts();
        }
        let outcome = body(&mut Tallies { keys: &mut part.keys, tallies: &mut part.tallies });
        part.in_update = false;
        stripes::LWLockRelease(lock);
        Some(outcome)
    }
}

/// Runs `body` with all locks held.
fn with_all<T>(body: impl FnOnce() -> T) -> T {
    // SAFETY: always in the same order; should `body` raise, the abort of the transaction releases them.
    unsafe {
        (0..PARTS).for_each(|n| _ = stripes::LWLockAcquire(stripes::count_lock(n), pg_sys::LWLockMode::LW_EXCLUSIVE));
        let outcome = body();
        (0..PARTS).for_each(|n| stripes::LWLockRelease(stripes::count_lock(n)));
        outcome
    }
}

fn part_of(key: &QueueKey) -> usize {
    (key.queue as u32).wrapping_add(key.database) as usize % PARTS
}

#[derive(Clone, Copy)]
struct Change {
    key: QueueKey,
    what: What,
    n: i64,
    subtransaction: pg_sys::SubTransactionId,
}

const CHANGES: usize = 64;

/// What this transaction has changed.
struct Mine {
    list: [Change; CHANGES],
    count: usize,
    /// There was more.
    is_lost: bool,
    /// It counts the tables.
    is_counting: bool,
}

struct Cellar(UnsafeCell<Mine>);
// SAFETY: a backend runs on one thread.
unsafe impl Sync for Cellar {}
static MINE: Cellar = Cellar(UnsafeCell::new(Mine {
    list: [Change { key: NO_QUEUE, what: What::Unfinished, n: 0, subtransaction: 0 }; CHANGES],
    count: 0,
    is_lost: false,
    is_counting: false,
}));

fn mine() -> &'static mut Mine {
    // SAFETY: one thread; no function of this file calls another one of it, or the server, while it holds the reference.
    unsafe { &mut *MINE.0.get() }
}

/// This transaction makes so many more of something, or fewer.
pub fn add(key: &QueueKey, what: What, n: i64) {
    if ATTACHED.0.get().is_none() || n == 0 {
        return;
    }
    // SAFETY: a read of this backend's transaction state.
    let subtransaction = unsafe { pg_sys::GetCurrentSubTransactionId() };
    let Mine { list, count, is_lost, .. } = mine();
    let is_same = |change: &&mut Change| change.subtransaction == subtransaction && change.what == what && change.key == *key;
    if let Some(change) = list.iter_mut().take(*count).find(is_same) {
        change.n = change.n.saturating_add(n);
    } else if let Some(place) = list.get_mut(*count) {
        *place = Change { key: *key, what, n, subtransaction };
        *count = count.saturating_add(1);
    } else {
        *is_lost = true;
    }
}

/// This transaction changes more than can be told.
pub fn lose() {
    mine().is_lost = ATTACHED.0.get().is_some();
}

pub(super) fn subtransaction_aborts(subtransaction: pg_sys::SubTransactionId) {
    let Mine { list, count, .. } = mine();
    let mut kept = 0usize;
    for at in 0..*count {
        let change = list.get(at).copied().filter(|change| change.subtransaction < subtransaction);
        if let (Some(change), Some(place)) = (change, list.get_mut(kept)) {
            *place = change;
            kept = kept.saturating_add(1);
        }
    }
    *count = kept;
}

/// What a subtransaction has changed is its parent's from here on.
pub(super) fn subtransaction_commits(subtransaction: pg_sys::SubTransactionId, parent: pg_sys::SubTransactionId) {
    let Mine { list, count, .. } = mine();
    let mut kept = 0usize;
    for at in 0..*count {
        let Some(mut change) = list.get(at).copied() else { return };
        if change.subtransaction >= subtransaction {
            change.subtransaction = parent;
        }
        let is_same = |other: &&mut Change| {
            (other.subtransaction, other.what, other.key) == (change.subtransaction, change.what, change.key)
        };
        if let Some(other) = list.iter_mut().take(kept).find(is_same) {
            other.n = other.n.saturating_add(change.n);
        } else if let Some(place) = list.get_mut(kept) {
            *place = change;
            kept = kept.saturating_add(1);
        }
    }
    *count = kept;
}

pub(super) fn transaction_ends(committed: bool) {
    let database = server::database_oid().to_u32();
    if committed {
        // SAFETY: a read of this backend's transaction state.
        let transaction = unsafe { GetTopTransactionIdIfAny() };
        let Mine { list, count, is_lost, .. } = mine();
        for change in list.iter().take(*count) {
            let added = with(part_of(&change.key), |tallies| {
                // SAFETY: a lock is held.
                match unsafe { last_count(database) } {
                    Some(count) if !count.is_under_way && count.sees(transaction) => true,
                    count => {
                        let unseen = count.is_some_and(|count| count.is_under_way && !count.sees(transaction));
                        tallies.add(&change.key, change.what, change.n, unseen)
                    }
                }
            });
            *is_lost |= added == Some(false);
        }
        if *is_lost {
            ask();
        }
    }
    abandon(database);
    forget_transaction();
}

/// A count that this transaction has begun has not come to its end.
fn abandon(database: u32) {
    if std::mem::take(&mut mine().is_counting) {
        with_all(|| {
            // SAFETY: all locks are held.
            if let Some(count) = unsafe { last_count(database) } {
                count.is_under_way = false;
                count.xmin = pg_sys::InvalidTransactionId;
                ask();
            }
        });
    }
}

fn forget_transaction() {
    let mine = mine();
    mine.count = 0;
    mine.is_lost = false;
}

/// Whoever commits what is prepared has the tables counted.
pub(super) fn transaction_is_prepared() {
    forget_transaction();
}

/// The tables of this database are to be counted.
pub fn ask() {
    if let Some(requests) = shmem::requests(server::database_oid().to_u32()) {
        requests.ask();
    }
}

impl Count {
    /// Does its snapshot see what this transaction has committed?
    fn sees(&self, transaction: pg_sys::TransactionId) -> bool {
        let precedes = |one: pg_sys::TransactionId, other: pg_sys::TransactionId| {
            (one.into_inner().wrapping_sub(other.into_inner()) as i32) < 0
        };
        let is_open = || self.open.iter().take(self.open_count).any(|open| *open == transaction);
        self.xmin != pg_sys::InvalidTransactionId
            && (precedes(transaction, self.xmin) || precedes(transaction, self.xmax) && !is_open())
    }
}

/// Is a count wanted, or due?
pub fn is_due() -> bool {
    let Some(requests) = shmem::requests(server::database_oid().to_u32()) else { return false };
    let now = server::monotonic_micros();
    let is_wanted = requests.wanted.load(SeqCst) != requests.answered.load(SeqCst);
    is_wanted && requests.not_before.load(SeqCst) <= now || requests.again_at.load(SeqCst) <= now
}

/// A count under way, with its snapshot active.
pub struct Counting {
    database: u32,
    wanted: u32,
    begun: i64,
}

/// Begins a count: what is read until `end` is what its snapshot sees. None when it cannot be. Inside a transaction.
pub fn begin() -> Option<Counting> {
    let database = server::database_oid().to_u32();
    let wanted = shmem::requests(database)?.wanted.load(SeqCst);
    let begun = server::monotonic_micros();
    // SAFETY: the snapshot is taken, pushed and read in this function; it is popped by `end`, or by the abort after an ERROR. A
    // transaction adds its numbers after it has left the list of those that run: under all locks nobody is in between who was not seen.
    unsafe {
        let fits = with_all(|| {
            let snapshot = pg_sys::GetLatestSnapshot();
            pg_sys::PushActiveSnapshot(snapshot);
            let open = std::slice::from_raw_parts((*snapshot).xip, (*snapshot).xcnt as usize);
            let count = last_count(database)?;
            count.open.get_mut(..open.len())?.copy_from_slice(open);
            count.open_count = open.len();
            (count.xmin, count.xmax) = ((*snapshot).xmin, (*snapshot).xmax);
            count.is_under_way = true;
            for n in 0..PARTS {
                unlocked(n, |tallies| tallies.begin(database));
            }
            Some(())
        });
        if fits.is_none() {
            pg_sys::PopActiveSnapshot();
            return None;
        }
    }
    mine().is_counting = true;
    Some(Counting { database, wanted, begun })
}

/// Ends a count with what was read.
pub fn end(counting: Counting, counted: &[(QueueKey, What, i64)]) {
    const PAUSE_MICROS: i64 = 3_600_000_000;
    const PAUSE_FACTOR: i64 = 100;
    /// The same after a count, whoever wants another one.
    const REST_FACTOR: i64 = 20;
    const NO_ROOM_MICROS: i64 = 60_000_000;
    let Counting { database, wanted, begun } = counting;
    let all_fit = with_all(|| {
        for n in 0..PARTS {
            unlocked(n, |tallies| tallies.end(database));
        }
        // SAFETY: all locks are held.
        if let Some(count) = unsafe { last_count(database) } {
            count.is_under_way = false;
        }
        counted.iter().all(|(key, what, n)| unlocked(part_of(key), |tallies| tallies.add(key, *what, *n, false)) == Some(true))
    });
    mine().is_counting = false;
    // SAFETY: pushed by `begin`.
    unsafe { pg_sys::PopActiveSnapshot() }
    if let Some(requests) = shmem::requests(database) {
        let now = server::monotonic_micros();
        let pause = now.saturating_sub(begun).saturating_mul(PAUSE_FACTOR).max(PAUSE_MICROS);
        requests.again_at.store(now.saturating_add(pause), SeqCst);
        // Without room for all there is no answer that could be believed, and none soon.
        let rest = now.saturating_sub(begun).saturating_mul(REST_FACTOR).max(if all_fit { 0 } else { NO_ROOM_MICROS });
        requests.not_before.store(now.saturating_add(rest), SeqCst);
        requests.answered.store(if all_fit { wanted } else { wanted.wrapping_sub(1) }, SeqCst);
    }
}

/// Frees the places of queues of databases that are gone.
pub fn keep_only(exists: impl Fn(u32) -> bool) {
    for n in 0..PARTS {
        with(n, |tallies| tallies.keep_only(&exists));
    }
}

/// With the locks held.
fn unlocked<T>(n: usize, body: impl FnOnce(&mut Tallies<'_>) -> T) -> Option<T> {
    let (parts, _) = ATTACHED.0.get().filter(|_| n < PARTS)?;
    // SAFETY: the caller holds all locks.
    let part = unsafe { &mut *parts.add(n) };
    Some(body(&mut Tallies { keys: &mut part.keys, tallies: &mut part.tallies }))
}

/// Are the numbers of this database right?
pub fn are_known() -> bool {
    let requests = shmem::requests(server::database_oid().to_u32());
    let is_answered = |requests: &Requests| {
        let answered = requests.answered.load(SeqCst);
        // The snapshot of a count is not to be believed for ever.
        let is_recent = server::monotonic_micros() < requests.again_at.load(SeqCst).saturating_add(OLD_MICROS);
        answered != 0 && answered == requests.wanted.load(SeqCst) && is_recent
    };
    !server::in_recovery() && requests.is_some_and(is_answered)
}

/// What is known of a queue, with what this transaction has changed itself; `since`: a span.
pub fn tell(key: &QueueKey, since: i64) -> Told {
    let mut told = with(part_of(key), |tallies| tallies.tell(key, since)).unwrap_or_default();
    let mine = mine();
    for change in mine.list.iter().take(mine.count).filter(|change| change.key == *key) {
        told.add(change.what, change.n, since);
    }
    told
}

unsafe extern "C-unwind" {
    // Postgres's own, without pgrx's guard: it raises nothing, and is called after commit.
    fn GetTopTransactionIdIfAny() -> pg_sys::TransactionId;
}
