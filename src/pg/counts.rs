//! How many jobs there are (crate::dispatch::tally): what a transaction changes it notes here, and adds when it has committed. The
//! roster of workers (super::roster) shares memory, locks and counts.
//!
//! The tables are counted when a maintainer starts, when something was not noted (a prepared transaction, a dropped queue, too many
//! queues or workers in one transaction, a restore), and now and then for what others than jobq have written. The snapshot of the last
//! count stays here: a transaction that ends can tell by its number whether it was counted.
//!
//! What runs at the end of a transaction neither allocates nor raises.

use super::stripes::{self, COUNT_LOCKS};
use super::{roster, server, shmem};
use crate::dispatch::ledger::Ledger;
use crate::dispatch::roster::{Record, Roster, Worker, WorkerKey};
use crate::dispatch::stripe::QueueKey;
use crate::dispatch::tally::{NO_QUEUE, Tallies, Tally, Told, What};
use pgrx::pg_sys;
use std::cell::{Cell, UnsafeCell};
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering::SeqCst};

pub(super) const PARTS: usize = COUNT_LOCKS;
const QUEUES_PER_PART: usize = 256;
/// Names fall into parts by chance: 2048 of them fit.
pub(super) const WORKERS_PER_PART: usize = 384;
/// Open transactions that the snapshot of a count may have. With more there is no count.
const OPEN: usize = 1_024;
/// A count that should have been made so long ago makes the numbers unknown.
const OLD_MICROS: i64 = 3_600_000_000;

#[repr(C)]
pub(super) struct Part {
    /// As in super::stripes.
    in_update: bool,
    keys: [QueueKey; QUEUES_PER_PART],
    tallies: [Tally; QUEUES_PER_PART],
    hashes: [u32; WORKERS_PER_PART],
    workers: [Worker; WORKERS_PER_PART],
}

impl Part {
    fn tallies(&mut self) -> Tallies<'_> {
        Tallies { keys: &mut self.keys, tallies: &mut self.tallies }
    }

    pub(super) fn roster(&mut self) -> Roster<'_> {
        Roster { hashes: &mut self.hashes, workers: &mut self.workers }
    }
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
    queues: Asked,
    workers: Asked,
    /// Has anybody asked for the roster since the last count? 1 or 0. For nobody the history is not counted.
    roster_is_read: AtomicU32,
    /// By the clock that nobody sets: when to count in any case.
    again_at: AtomicI64,
}

/// Requests to count, of either kind.
struct Asked {
    wanted: AtomicU32,
    /// Those that were answered by a count that came to its end.
    answered: AtomicU32,
    /// By the clock that nobody sets.
    not_before: AtomicI64,
}

impl Requests {
    pub(super) fn ask(&self) {
        self.queues.ask();
        self.workers.ask();
    }

    /// For another database from here on.
    pub(super) fn begin(&self) {
        self.again_at.store(0, SeqCst);
        self.queues.not_before.store(0, SeqCst);
        self.workers.not_before.store(0, SeqCst);
    }
}

impl Asked {
    fn ask(&self) {
        self.wanted.fetch_add(1, SeqCst);
    }

    fn is_due(&self, now: i64) -> bool {
        self.wanted.load(SeqCst) != self.answered.load(SeqCst) && self.not_before.load(SeqCst) <= now
    }

    /// Without room for all (`no_room`: how long not to try again) there is no answer that could be believed.
    fn answer(&self, wanted: u32, rest: i64, no_room: Option<i64>) {
        self.not_before.store(server::monotonic_micros().saturating_add(rest.max(no_room.unwrap_or(0))), SeqCst);
        self.answered.store(if no_room.is_some() { wanted.wrapping_sub(1) } else { wanted }, SeqCst);
    }

    fn is_answered(&self) -> bool {
        let answered = self.answered.load(SeqCst);
        answered != 0 && answered == self.wanted.load(SeqCst)
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

pub(super) fn attached() -> bool {
    ATTACHED.0.get().is_some()
}

/// Runs `body` with a part under its lock. It must be short and raise nothing.
pub(super) fn with<T>(n: usize, body: impl FnOnce(&mut Part) -> T) -> Option<T> {
    let (parts, _) = ATTACHED.0.get().filter(|_| n < PARTS)?;
    // SAFETY: as in stripes::with.
    unsafe {
        let lock = stripes::count_lock(n);
        stripes::LWLockAcquire(lock, pg_sys::LWLockMode::LW_EXCLUSIVE);
        let part = &mut *parts.add(n);
        if std::mem::replace(&mut part.in_update, true) {
            part.keys.fill(NO_QUEUE);
            part.hashes.fill(0);
            shmem::ask_all_for_counts();
        }
        let outcome = body(part);
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

/// What this transaction has changed.
struct Mine {
    changes: Ledger<(QueueKey, What), i64, 64>,
    /// It counts the tables.
    is_counting: bool,
}

struct Cellar(UnsafeCell<Mine>);
// SAFETY: a backend runs on one thread.
unsafe impl Sync for Cellar {}
static MINE: Cellar = Cellar(UnsafeCell::new(Mine { changes: Ledger::new((NO_QUEUE, What::Unfinished), 0), is_counting: false }));

fn mine() -> &'static mut Mine {
    // SAFETY: one thread; no function of this file calls another one of it, or the server, while it holds the reference.
    unsafe { &mut *MINE.0.get() }
}

/// This transaction makes so many more of something, or fewer.
pub fn add(key: &QueueKey, what: What, n: i64) {
    if !attached() || n == 0 {
        return;
    }
    // SAFETY: a read of this backend's transaction state.
    let subtransaction = unsafe { pg_sys::GetCurrentSubTransactionId() };
    mine().changes.add(&(*key, what), &n, subtransaction);
}

/// This transaction changes more than can be told, also of workers.
pub fn lose() {
    if attached() {
        mine().changes.lose();
        roster::lose();
    }
}

pub(super) fn subtransaction_aborts(subtransaction: pg_sys::SubTransactionId) {
    mine().changes.undo(subtransaction);
}

/// What a subtransaction has changed is its parent's from here on.
pub(super) fn subtransaction_commits(subtransaction: pg_sys::SubTransactionId, parent: pg_sys::SubTransactionId) {
    mine().changes.pass_on(subtransaction, parent);
}

pub(super) fn transaction_ends(committed: bool) {
    if committed {
        let changes = &mine().changes;
        let mut is_lost = changes.is_lost();
        for ((key, what), n) in changes.iter() {
            let added = with(part_of(key), |part| {
                // SAFETY: a lock is held.
                unsafe { to_be_added() }.is_none_or(|unseen| part.tallies().add(key, *what, *n, unseen))
            });
            is_lost |= added == Some(false);
        }
        if is_lost {
            ask();
        }
    }
    abandon(server::database_oid().to_u32());
    mine().changes.clear();
}

/// Has this transaction, which ends, to be added? None: it was counted. Else whether a count is under way that does not see it.
///
/// # Safety
/// A lock is held.
pub(super) unsafe fn to_be_added() -> Option<bool> {
    // SAFETY: the caller's promise; a read of this backend's transaction state.
    let (count, transaction) = unsafe { (last_count(server::database_oid().to_u32()), GetTopTransactionIdIfAny()) };
    let (is_under_way, is_seen) = count.map_or((false, false), |count| (count.is_under_way, count.sees(transaction)));
    (is_under_way || !is_seen).then_some(is_under_way && !is_seen)
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

/// Whoever commits what is prepared has the tables counted.
pub(super) fn transaction_is_prepared() {
    mine().changes.clear();
}

/// The tables of this database are to be counted.
pub fn ask() {
    if let Some(requests) = shmem::requests(server::database_oid().to_u32()) {
        requests.ask();
    }
}

/// The same for the roster only: the numbers of jobs are right.
pub(super) fn ask_for_roster() {
    if let Some(requests) = shmem::requests(server::database_oid().to_u32()) {
        requests.workers.ask();
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
    let is_read = requests.roster_is_read.load(SeqCst) != 0;
    requests.queues.is_due(now) || is_read && requests.workers.is_due(now) || requests.again_at.load(SeqCst) <= now
}

/// A count under way, with its snapshot active.
pub struct Counting {
    database: u32,
    queues_wanted: u32,
    /// None: workers are not counted.
    workers_wanted: Option<u32>,
    begun: i64,
}

impl Counting {
    pub fn is_of_workers(&self) -> bool {
        self.workers_wanted.is_some()
    }
}

/// Begins a count: what is read until `end` is what its snapshot sees. None when it cannot be. Inside a transaction.
pub fn begin() -> Option<Counting> {
    let database = server::database_oid().to_u32();
    let requests = shmem::requests(database)?;
    let begun = server::monotonic_micros();
    let with_workers = requests.roster_is_read.swap(0, SeqCst) != 0;
    if !with_workers {
        // The roster is no longer right: it would need another snapshot than the one that is published now.
        requests.workers.ask();
    }
    let queues_wanted = requests.queues.wanted.load(SeqCst);
    let workers_wanted = with_workers.then(|| requests.workers.wanted.load(SeqCst));
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
                unlocked(n, |part| {
                    part.tallies().begin(database);
                    part.roster().begin(database);
                });
            }
            Some(())
        });
        if fits.is_none() {
            pg_sys::PopActiveSnapshot();
            return None;
        }
    }
    mine().is_counting = true;
    Some(Counting { database, queues_wanted, workers_wanted, begun })
}

/// Ends a count with what was read; `workers` is None when they were not counted, or not all have a name that could be kept.
pub fn end(counting: Counting, queues: &[(QueueKey, What, i64)], workers: Option<&[(WorkerKey, Record)]>) {
    const PAUSE_MICROS: i64 = 3_600_000_000;
    const PAUSE_FACTOR: i64 = 100;
    /// The same after a count, whoever wants another one.
    const REST_FACTOR: i64 = 20;
    /// The same while there is no room for all. Workers are often named after their sessions: there may be more and more of them.
    const NO_ROOM_MICROS: i64 = 60_000_000;
    const NO_ROOM_FOR_WORKERS_MICROS: i64 = PAUSE_MICROS;
    let Counting { database, queues_wanted, workers_wanted, begun } = counting;
    let (all_queues_fit, all_workers_fit) = with_all(|| {
        for n in 0..PARTS {
            unlocked(n, |part| {
                part.tallies().end(database);
                part.roster().end(database);
            });
        }
        // SAFETY: all locks are held.
        if let Some(count) = unsafe { last_count(database) } {
            count.is_under_way = false;
        }
        let add_queue = |(key, what, n): &(QueueKey, What, i64)| {
            unlocked(part_of(key), |part| part.tallies().add(key, *what, *n, false)) == Some(true)
        };
        let add_worker = |(key, record): &(WorkerKey, Record)| {
            unlocked(roster::part_of(key), |part| part.roster().add(key, record, false)) == Some(true)
        };
        (queues.iter().all(add_queue), workers.is_some_and(|workers| workers.iter().all(add_worker)))
    });
    mine().is_counting = false;
    // SAFETY: pushed by `begin`.
    unsafe { pg_sys::PopActiveSnapshot() }
    if let Some(requests) = shmem::requests(database) {
        let now = server::monotonic_micros();
        let took = now.saturating_sub(begun);
        requests.again_at.store(now.saturating_add(took.saturating_mul(PAUSE_FACTOR).max(PAUSE_MICROS)), SeqCst);
        let rest = took.saturating_mul(REST_FACTOR);
        requests.queues.answer(queues_wanted, rest, (!all_queues_fit).then_some(NO_ROOM_MICROS));
        if let Some(wanted) = workers_wanted {
            requests.workers.answer(wanted, rest, (!all_workers_fit).then_some(NO_ROOM_FOR_WORKERS_MICROS));
        }
    }
}

/// Frees the places of queues and workers of databases that are gone.
pub fn keep_only(exists: impl Fn(u32) -> bool) {
    for n in 0..PARTS {
        with(n, |part| {
            part.tallies().keep_only(&exists);
            part.roster().keep_only(&exists);
        });
    }
}

/// With the locks held.
fn unlocked<T>(n: usize, body: impl FnOnce(&mut Part) -> T) -> Option<T> {
    let (parts, _) = ATTACHED.0.get().filter(|_| n < PARTS)?;
    // SAFETY: the caller holds all locks.
    Some(body(unsafe { &mut *parts.add(n) }))
}

/// Are the numbers of this database right, and what this transaction has changed of them?
pub fn are_known() -> bool {
    !mine().changes.is_lost() && is_known(|requests| &requests.queues)
}

/// Is the roster of this database right? Whoever asks has it counted from now on.
pub(super) fn is_roster_known() -> bool {
    if let Some(requests) = shmem::requests(server::database_oid().to_u32()) {
        requests.roster_is_read.store(1, SeqCst);
    }
    is_known(|requests| &requests.workers)
}

fn is_known(kind: impl Fn(&Requests) -> &Asked) -> bool {
    let is_answered = |requests: &Requests| {
        // The snapshot of a count is not to be believed for ever.
        let is_recent = server::monotonic_micros() < requests.again_at.load(SeqCst).saturating_add(OLD_MICROS);
        kind(requests).is_answered() && is_recent
    };
    !server::in_recovery() && shmem::requests(server::database_oid().to_u32()).is_some_and(is_answered)
}

/// What is known of a queue, with what this transaction has changed itself; `since`: a span.
pub fn tell(key: &QueueKey, since: i64) -> Told {
    let mut told = with(part_of(key), |part| part.tallies().tell(key, since)).unwrap_or_default();
    for ((_, what), n) in mine().changes.iter().filter(|((other, _), _)| other == key) {
        told.add(*what, *n, since);
    }
    told
}

unsafe extern "C-unwind" {
    // Postgres's own, without pgrx's guard: it raises nothing, and is called after commit.
    fn GetTopTransactionIdIfAny() -> pg_sys::TransactionId;
}
