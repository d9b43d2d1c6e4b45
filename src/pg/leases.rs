//! The leases in shared memory (crate::dispatch::leases): heartbeats without writes, and jobs that are bound to a session.
//!
//! What runs at the end of a transaction or of the process neither allocates nor raises.

use super::stripes::{self, LEASE_LOCKS};
use super::switch::table_oid;
use super::{server, shmem};
use crate::clock::Timestamp;
use crate::dispatch::leases::{JobKey, Kept, Lease, Leases, Sign, Used};
use crate::error::Error;
use crate::settings;
use pgrx::pg_sys;
use std::cell::{Cell, UnsafeCell};
use std::ffi::c_int;
use uuid::Uuid;

const PARTS: usize = LEASE_LOCKS;

#[repr(C, align(128))]
struct Head {
    /// As in super::stripes.
    in_update: bool,
    used: Used,
}

#[derive(Clone, Copy)]
struct Memory {
    heads: *mut Head,
    chains: *mut u32,
    places: *mut Lease,
    places_per_part: usize,
}

struct Attached(Cell<Option<Memory>>);
static ATTACHED: Attached = Attached(Cell::new(None));
// SAFETY: a process of the server runs on one thread.
unsafe impl Sync for Attached {}

fn places_per_part() -> usize {
    settings::max_leases().div_ceil(PARTS)
}

/// (heads, chains, places), in bytes, each a multiple of a cache line.
fn sizes() -> [usize; 3] {
    let count = places_per_part().saturating_mul(PARTS);
    [stripes::part::<Head>(PARTS), stripes::part::<u32>(count), stripes::part::<Lease>(count)]
}

pub(super) fn request() {
    // SAFETY: called from shmem_request_hook.
    unsafe { pg_sys::RequestAddinShmemSpace(sizes().into_iter().fold(0, usize::saturating_add)) }
}

pub(super) fn startup() {
    let [heads, chains, places] = sizes();
    let bytes = heads.saturating_add(chains).saturating_add(places);
    // SAFETY: as in stripes::startup.
    unsafe {
        let mut found = false;
        let memory: *mut u8 = pg_sys::ShmemInitStruct(c"jobq leases".as_ptr(), bytes, &mut found).cast();
        if !found {
            memory.write_bytes(0, bytes);
        }
        let chains_at = memory.add(heads);
        ATTACHED.0.set(Some(Memory {
            heads: memory.cast(),
            chains: chains_at.cast(),
            places: chains_at.add(chains).cast(),
            places_per_part: places_per_part(),
        }));
    }
}

pub fn attached() -> bool {
    ATTACHED.0.get().is_some()
}

/// Runs `body` with a part of the leases under its lock. It must be short and raise nothing.
fn with<T>(n: usize, body: impl FnOnce(&mut Leases<'_>) -> T) -> Option<T> {
    let memory = ATTACHED.0.get().filter(|_| n < PARTS)?;
    // SAFETY: as in stripes::with.
    unsafe {
        let lock = stripes::lease_lock(n);
        stripes::LWLockAcquire(lock, pg_sys::LWLockMode::LW_EXCLUSIVE);
        let head = &mut *memory.heads.add(n);
        let from = n.saturating_mul(memory.places_per_part);
        let chains = std::slice::from_raw_parts_mut(memory.chains.add(from), memory.places_per_part);
        let places = std::slice::from_raw_parts_mut(memory.places.add(from), memory.places_per_part);
        if std::mem::replace(&mut head.in_update, true) {
            chains.fill(0);
            places.fill(Lease::default());
            head.used = Used::default();
        }
        let outcome = body(&mut Leases { chains, places, used: &mut head.used });
        head.in_update = false;
        stripes::LWLockRelease(lock);
        Some(outcome)
    }
}

fn part_of(key: &JobKey) -> usize {
    (key.id >> 7) as usize % PARTS
}

/// A job of the installation in this session's database.
pub fn key(id: Uuid) -> JobKey {
    JobKey { database: server::database_oid().to_u32(), installation: table_oid(c"_job").to_u32(), id: id.as_u128() }
}

/// A heartbeat of now.
pub fn sign(now: Timestamp, length_ms: Option<i64>, progress: Option<f64>) -> Sign {
    Sign { now: server::monotonic_micros(), seen_at: now.0, length_ms, progress, cancels: shmem::cancels() }
}

pub fn keep(key: &JobKey, lease: i64, sign: &Sign) -> Kept {
    // Counted under the lock: who takes a job away without a word for its place counts before he gives up his mark.
    with(part_of(key), |leases| leases.keep(key, lease, &Sign { cancels: shmem::cancels(), ..*sign })).unwrap_or(Kept::No)
}

/// The row was read after `cancels` was: was cancellation asked for?
pub fn looked(key: &JobKey, lease: i64, cancels: u32, cancel_requested: bool) {
    with(part_of(key), |leases| {
        if let Some(place) = leases.find(key, lease) {
            (place.cancels, place.cancel_requested) = (cancels, cancel_requested);
        }
    });
}

/// This transaction has written a heartbeat to the row: what the place says must not be behind it. A longer length counts from the
/// commit on.
pub fn kept_by_row(key: &JobKey, lease: i64, sign: &Sign) {
    let found = with(part_of(key), |leases| {
        let Some(place) = leases.find(key, lease) else { return false };
        let length_ms = sign.length_ms.unwrap_or(place.length_ms);
        place.expires_at = place.expires_at.max(sign.now.saturating_add(length_ms.saturating_mul(1_000)));
        place.seen_at = place.seen_at.max(sign.seen_at);
        place.progress = sign.progress.unwrap_or(place.progress);
        true
    });
    // SAFETY: a read of this backend's transaction state.
    let subtransaction = unsafe { pg_sys::GetCurrentSubTransactionId() };
    if let (Some(true), Some(length_ms)) = (found, sign.length_ms) {
        let mine = mine();
        if let Some(place) = mine.longer.get_mut(mine.longer_count) {
            *place = (*key, lease, length_ms, subtransaction);
            mine.longer_count = mine.longer_count.saturating_add(1);
        }
    }
}

/// Gives a lease a place, after its first heartbeat; false when none is free.
pub fn add(key: &JobKey, lease: i64, sign: &Sign, length_ms: i64, progress: f64) -> bool {
    let new = Lease {
        key: *key,
        lease,
        expires_at: sign.now.saturating_add(sign.length_ms.unwrap_or(length_ms).saturating_mul(1_000)),
        seen_at: sign.seen_at,
        length_ms,
        progress: sign.progress.unwrap_or(progress),
        cancels: sign.cancels,
        ..Lease::default()
    };
    let kept = with(part_of(key), |leases| match leases.keep(key, lease, sign) {
        Kept::Missing => leases.add(new),
        Kept::Yes { .. } | Kept::Unsure => true,
        Kept::No | Kept::Released => false,
    });
    kept == Some(true)
}

/// The lease is over.
pub fn end(key: &JobKey, lease: i64) {
    with(part_of(key), |leases| leases.end(key, lease));
}

/// What is known of a lease: until when it holds by the wall clock, when its holder was last seen, and its progress (below 0: unknown).
pub fn known(id: Uuid, lease: i64) -> Option<(Timestamp, Timestamp, f64)> {
    let key = key(id);
    let (now, wall) = (server::monotonic_micros(), server::wall_clock_micros());
    with(part_of(&key), |leases| {
        leases.find(&key, lease).filter(|place| !place.reserved).map(|place| {
            let expires_at = wall.saturating_add(place.expires_at.saturating_sub(now));
            (Timestamp(expires_at), Timestamp(place.seen_at), place.progress)
        })
    })?
}

/// Does a lease hold that has ended by its row (`expired`), or whose holder by its row has not been seen since then?
pub fn is_kept(id: Uuid, lease: i64, expired: bool, not_seen_since: Option<Timestamp>) -> bool {
    let key = key(id);
    let now = server::monotonic_micros();
    let is_kept = |leases: &mut Leases<'_>| {
        leases.find(&key, lease).is_some_and(|place| place.is_kept(now, expired, not_seen_since.map(|at| at.0)))
    };
    with(part_of(&key), is_kept) == Some(true)
}

/// Before the job is taken away whose lease has ended by its row (`expired`), or whose holder by its row has not been seen since then:
/// is it lost?
pub fn is_lost(id: Uuid, lease: i64, expired: bool, not_seen_since: Option<Timestamp>) -> bool {
    let key = key(id);
    let (now, me) = (server::monotonic_micros(), server::backend_pid());
    mine().rescuing |= attached();
    with(part_of(&key), |leases| leases.is_lost(&key, lease, now, expired, not_seen_since.map(|at| at.0), me)).unwrap_or(true)
}

/// What this transaction does to leases.
struct Mine {
    /// Leases it ends.
    ending: [(JobKey, i64, pg_sys::SubTransactionId); ENDING],
    ending_count: usize,
    /// Leases it makes longer, and how long. Those that find no room stay as long as they were.
    longer: [(JobKey, i64, i64, pg_sys::SubTransactionId); LONGER],
    longer_count: usize,
    /// It claims jobs that are bound to this session.
    claiming: bool,
    /// It takes jobs away.
    rescuing: bool,
    /// It cancels running jobs, or takes them away without a word for their places: heartbeats are to look at their rows.
    unsettling: bool,
}

const ENDING: usize = 256;
const LONGER: usize = 64;
const NO_JOB: JobKey = JobKey { database: 0, installation: 0, id: 0 };

struct Cellar(UnsafeCell<Mine>);
// SAFETY: a backend runs on one thread.
unsafe impl Sync for Cellar {}
static MINE: Cellar = Cellar(UnsafeCell::new(Mine {
    ending: [(NO_JOB, 0, 0); ENDING],
    ending_count: 0,
    longer: [(NO_JOB, 0, 0, 0); LONGER],
    longer_count: 0,
    claiming: false,
    rescuing: false,
    unsettling: false,
}));

fn mine() -> &'static mut Mine {
    // SAFETY: one thread; no function of this file calls another one of it, or the server, while it holds the reference.
    unsafe { &mut *MINE.0.get() }
}

/// This transaction ends a lease.
pub fn ends(id: Uuid, lease: i64) {
    if !attached() {
        return;
    }
    let key = key(id);
    // SAFETY: a read of this backend's transaction state.
    let subtransaction = unsafe { pg_sys::GetCurrentSubTransactionId() };
    let mine = mine();
    if let Some(place) = mine.ending.get_mut(mine.ending_count) {
        *place = (key, lease, subtransaction);
        mine.ending_count = mine.ending_count.saturating_add(1);
    } else {
        mine.unsettling = true;
    }
}

/// This transaction asks for the cancellation of running jobs, or deletes them.
pub fn unsettles() {
    mine().unsettling = attached();
}

/// Binds a job that is being claimed to this session. 53400 when no place is free.
pub fn bind(id: Uuid, lease: i64, length_ms: i64, now: Timestamp) -> Result<(), Error> {
    let key = key(id);
    release_at_exit();
    mine().claiming = true;
    let sign = sign(now, None, None);
    let new = Lease {
        key,
        lease,
        expires_at: sign.now.saturating_add(length_ms.saturating_mul(1_000)),
        seen_at: sign.seen_at,
        length_ms,
        progress: -1.0,
        holder: server::backend_pid(),
        // SAFETY: a read of this backend's transaction state.
        claiming: unsafe { pg_sys::GetCurrentSubTransactionId() },
        cancels: sign.cancels,
        ..Lease::default()
    };
    match with(part_of(&key), |leases| leases.add(new)) {
        Some(true) => Ok(()),
        _ => Err(Error::NoPlaceForLease),
    }
}

/// The jobs bound to this session are free when it ends.
fn release_at_exit() {
    struct Registered(Cell<bool>);
    // SAFETY: a backend runs on one thread.
    unsafe impl Sync for Registered {}
    static REGISTERED: Registered = Registered(Cell::new(false));
    if !REGISTERED.0.replace(true) {
        // SAFETY: the callback is static.
        unsafe { pg_sys::before_shmem_exit(Some(on_exit), pg_sys::Datum::from(0)) }
    }
}

extern "C-unwind" fn on_exit(_: c_int, _: pg_sys::Datum) {
    let me = server::backend_pid();
    let released = (0..PARTS).filter_map(|n| with(n, |leases| leases.release(me))).fold(0, usize::saturating_add);
    if released > 0 {
        shmem::wake_maintainer(server::database_oid().to_u32());
    }
}

pub(super) fn transaction_ends(committed: bool) {
    let mine = mine();
    if committed {
        for (key, lease, _) in mine.ending.iter().take(mine.ending_count) {
            end(key, *lease);
        }
        for (key, lease, length_ms, _) in mine.longer.iter().take(mine.longer_count) {
            with(part_of(key), |leases| {
                if let Some(place) = leases.find(key, *lease) {
                    place.length_ms = place.length_ms.max(*length_ms);
                }
            });
        }
        // Before the marks of a rescue are given up.
        if mine.unsettling {
            shmem::count_cancel();
        }
    }
    let me = server::backend_pid();
    for n in 0..PARTS {
        if mine.claiming {
            with(n, |leases| leases.claims_end(me, if committed { None } else { Some(0) }));
        }
        if mine.rescuing {
            with(n, |leases| leases.rescuer_is_done(me));
        }
    }
    forget_transaction();
}

fn forget_transaction() {
    let mine = mine();
    mine.ending_count = 0;
    mine.longer_count = 0;
    mine.claiming = false;
    mine.rescuing = false;
    mine.unsettling = false;
}

/// What is prepared ends no lease yet. Raises 0A000 before a transaction is prepared whose end would have to be told to the leases.
pub(super) fn before_prepare() {
    let mine = mine();
    if mine.claiming || mine.rescuing {
        super::call::raise(Error::NotToBePrepared);
    }
}

pub(super) fn transaction_is_prepared() {
    forget_transaction();
}

pub(super) fn subtransaction_aborts(subtransaction: pg_sys::SubTransactionId) {
    let mine = mine();
    let kept = mine.ending.iter().take(mine.ending_count).position(|(_, _, ended_in)| *ended_in >= subtransaction);
    mine.ending_count = kept.unwrap_or(mine.ending_count);
    let kept = mine.longer.iter().take(mine.longer_count).position(|(.., made_in)| *made_in >= subtransaction);
    mine.longer_count = kept.unwrap_or(mine.longer_count);
    if mine.claiming {
        for n in 0..PARTS {
            with(n, |leases| leases.claims_end(server::backend_pid(), Some(subtransaction)));
        }
    }
}

/// Committed leases of this database: all, or those whose session has ended.
pub fn list(released_only: bool) -> Vec<(JobKey, i64)> {
    let database = server::database_oid().to_u32();
    let mut found = Vec::with_capacity(settings::max_leases());
    for n in 0..PARTS {
        with(n, |leases| {
            let ours = leases.places.iter().filter(|place| place.lease != 0 && place.key.database == database);
            let wanted = ours.filter(|place| place.released || !(released_only || place.claiming != 0 || place.reserved));
            found.extend(wanted.map(|place| (place.key, place.lease)));
        });
    }
    found
}

/// Are there jobs in this database whose session has ended?
pub fn any_released() -> bool {
    let database = server::database_oid().to_u32();
    let released = |leases: &mut Leases<'_>| {
        leases.used.released > 0 && leases.places.iter().any(|place| place.released && place.key.database == database)
    };
    (0..PARTS).any(|n| with(n, released) == Some(true))
}

/// Frees the places of jobs of databases that are gone.
pub fn keep_only(exists: impl Fn(u32) -> bool) {
    for n in 0..PARTS {
        with(n, |leases| leases.forget_all(|key| !exists(key.database)));
    }
}
