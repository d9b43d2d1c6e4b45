//! The shared memory of the background processes: who runs where, when it last ticked, and what the clocks said.
//! Fixed size, plain atomics, no lock: every field is one number that one process writes and others read.
//! All of it may vanish in a crash; nothing about jobs is in here.

use super::blocks::Marks;
use super::counts::Requests;
use super::doorbell::Bells;
use super::{counts, leases, pools, process, server, stripes};
use pgrx::pg_sys;
use std::sync::atomic::{AtomicI32, AtomicI64, AtomicPtr, AtomicU32, Ordering::SeqCst};

/// Databases that can have a maintainer at once.
pub const MAINTAINERS: usize = 128;

/// One maintainer. The slot is taken by setting `database` from 0.
pub struct Maintainer {
    pub database: AtomicU32,
    pub pid: AtomicI32,
    /// Wall clock at the end of the last tick; 0: none yet.
    pub ticked_at: AtomicI64,
    /// Wall clock when the last one began to serve.
    pub began_at: AtomicI64,
    /// Counts requests to sweep at once.
    pub sweeps_wanted: AtomicU32,
    /// Counts what may be news to the supervisor of the pools.
    pub pool_news: AtomicU32,
    /// Counts transactions that changed schedules.
    pub schedules_changed: AtomicU32,
    /// The latch it sleeps on; null: none.
    latch: AtomicPtr<pg_sys::Latch>,
}

struct Shared {
    /// Did this run of the server follow a clean shutdown of the same server? 1 or 0.
    clean_start: AtomicU32,
    /// Wall clock when the server began to take writes after this memory was made; 0: it has not yet.
    writable_at: AtomicI64,
    /// No lease is judged before this moment plus its grace: start, promotion, jump of the clock.
    grace_from: AtomicI64,
    /// Wall clock minus monotonic clock, as last seen.
    clock_offset: AtomicI64,
    launcher_pid: AtomicI32,
    /// Counts requests to look at the databases again.
    looks_wanted: AtomicU32,
    /// Counts cancellations of running jobs.
    cancels: AtomicU32,
    /// Counts changes of handlers.
    handlers: AtomicU32,
    /// Times that a session found jobs it had been waiting for without having been woken.
    unwoken: AtomicI64,
    maintainers: [Maintainer; MAINTAINERS],
    /// Of the same databases.
    marks: [Marks; MAINTAINERS],
    bells: [Bells; MAINTAINERS],
    requests: [Requests; MAINTAINERS],
}

/// Set in the postmaster and inherited by every process it forks; null without preload.
static SHARED: AtomicPtr<Shared> = AtomicPtr::new(std::ptr::null_mut());
/// Postmaster only: was pg_control clean when the server started? Consumed by the first start; a later one follows a crash.
static FIRST_START_IS_CLEAN: AtomicU32 = AtomicU32::new(0);
static mut NEXT_REQUEST_HOOK: pg_sys::shmem_request_hook_type = None;
static mut NEXT_STARTUP_HOOK: pg_sys::shmem_startup_hook_type = None;

fn shared() -> Option<&'static Shared> {
    // SAFETY: null, or memory of the right size that lives as long as the process and holds only atomics.
    unsafe { SHARED.load(SeqCst).as_ref() }
}

/// Asks for the memory; from _PG_init while preloading.
pub fn reserve() {
    FIRST_START_IS_CLEAN.store(u32::from(server::last_shutdown_was_clean()), SeqCst);
    // SAFETY: the postmaster runs on one thread and loads libraries one after the other.
    unsafe {
        NEXT_REQUEST_HOOK = pg_sys::shmem_request_hook;
        pg_sys::shmem_request_hook = Some(on_request);
        NEXT_STARTUP_HOOK = pg_sys::shmem_startup_hook;
        pg_sys::shmem_startup_hook = Some(on_startup);
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn on_request() {
    // SAFETY: called by the postmaster at the one moment when memory may be asked for.
    unsafe {
        if let Some(next) = NEXT_REQUEST_HOOK {
            next();
        }
        pg_sys::RequestAddinShmemSpace(size_of::<Shared>());
    }
    stripes::request();
    leases::request();
    counts::request();
    pools::request();
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn on_startup() {
    // SAFETY: called by the postmaster, before any other process exists, each time shared memory is made. Zero is a valid start
    // value of every field.
    unsafe {
        if let Some(next) = NEXT_STARTUP_HOOK {
            next();
        }
        let mut found = false;
        let memory: *mut Shared = pg_sys::ShmemInitStruct(c"jobq".as_ptr(), size_of::<Shared>(), &mut found).cast();
        if !found {
            memory.write_bytes(0, 1);
        }
        SHARED.store(memory, SeqCst);
    }
    stripes::startup();
    leases::startup();
    counts::startup();
    pools::startup();
    if let Some(shared) = shared() {
        let now = server::wall_clock_micros();
        shared.clean_start.store(FIRST_START_IS_CLEAN.swap(0, SeqCst), SeqCst);
        shared.grace_from.store(now, SeqCst);
        shared.clock_offset.store(clock_offset(), SeqCst);
    }
}

pub fn preloaded() -> bool {
    shared().is_some()
}

/// May something have been lost in the `window_ms` before now, because the server did not start cleanly, was promoted, or has only
/// just begun to take writes?
pub fn watchful(now_micros: i64, window_ms: i64) -> bool {
    let Some(shared) = shared() else { return true };
    let writable_at = shared.writable_at.load(SeqCst);
    let window_over = now_micros.saturating_sub(writable_at) > window_ms.saturating_mul(1_000);
    writable_at == 0 || (shared.clean_start.load(SeqCst) == 0 && !window_over)
}

/// Wall clock minus monotonic clock.
pub fn clock_offset() -> i64 {
    server::wall_clock_micros().saturating_sub(server::monotonic_micros())
}

/// The moment from which leases get their grace. Looks at the clocks first: if the wall clock has jumped by more than a second
/// against the monotonic one, grace starts now. Without preload: the start of the server.
pub fn grace_from_micros() -> i64 {
    const JUMP_MICROS: u64 = 1_000_000;
    let Some(shared) = shared() else { return server::started_at_micros() };
    let (seen, known) = (clock_offset(), shared.clock_offset.load(SeqCst));
    if seen.abs_diff(known) > JUMP_MICROS && shared.clock_offset.compare_exchange(known, seen, SeqCst, SeqCst).is_ok() {
        shared.grace_from.store(server::wall_clock_micros(), SeqCst);
    }
    shared.grace_from.load(SeqCst)
}

/// When the server began to take writes; None when it has not, or without preload.
pub fn writable_at_micros() -> Option<i64> {
    shared().map(|shared| shared.writable_at.load(SeqCst)).filter(|at| *at != 0)
}

/// Called by the launcher when it starts. Its first start in this run of the server is the end of recovery: on a promoted standby
/// leases get their grace from here.
pub fn launcher_started() {
    if let Some(shared) = shared() {
        shared.launcher_pid.store(server::backend_pid(), SeqCst);
        let now = server::wall_clock_micros();
        if shared.writable_at.compare_exchange(0, now, SeqCst, SeqCst).is_ok() {
            shared.grace_from.store(now, SeqCst);
        }
    }
}

/// Neither allocates nor raises: called after commit.
pub fn ask_for_a_look_at_databases() {
    if let Some(shared) = shared() {
        shared.looks_wanted.fetch_add(1, SeqCst);
        let pid = shared.launcher_pid.load(SeqCst);
        if pid > 0 {
            // SIGUSR1 makes a Postgres process look at its latch. The launcher clears its pid when it exits; a process that reused
            // the number within that instant gets a signal every Postgres process ignores but for a wake-up.
            process::signal(pid, process::SIGUSR1);
        }
    }
}

pub fn looks_wanted() -> u32 {
    shared().map_or(0, |shared| shared.looks_wanted.load(SeqCst))
}

pub fn launcher_exits() {
    if let Some(shared) = shared() {
        let _ = shared.launcher_pid.compare_exchange(server::backend_pid(), 0, SeqCst, SeqCst);
    }
}

/// The maintainer of a database, running or last known.
pub fn maintainer(database: pg_sys::Oid) -> Option<&'static Maintainer> {
    shared()?.maintainers.iter().find(|slot| slot.database.load(SeqCst) == database.to_u32())
}

/// The marks of a database's job table; None while no maintainer has been there.
pub(super) fn marks(database: pg_sys::Oid) -> Option<&'static Marks> {
    shared()?.marks.get(slot_number(database.to_u32())?)
}

/// The bells of a database's queues; None while no maintainer has been there. Neither allocates nor raises.
pub(super) fn bells(database: u32) -> Option<&'static Bells> {
    shared()?.bells.get(slot_number(database)?)
}

/// The requests to count a database's jobs; None while no maintainer has been there. Neither allocates nor raises.
pub(super) fn requests(database: u32) -> Option<&'static Requests> {
    shared()?.requests.get(slot_number(database)?)
}

/// Neither allocates nor raises.
pub(super) fn ask_all_for_counts() {
    shared().iter().flat_map(|shared| &shared.requests).for_each(Requests::ask);
}

/// The place of a database among the maintainers. Neither allocates nor raises.
pub(super) fn slot_number(database: u32) -> Option<usize> {
    shared()?.maintainers.iter().position(|slot| slot.database.load(SeqCst) == database)
}

/// Takes the slot of a database for this process; None when another living process has it or all are taken.
pub fn become_maintainer(database: pg_sys::Oid) -> Option<&'static Maintainer> {
    let slots = &shared()?.maintainers;
    let me = server::backend_pid();
    let slot = if let Some(slot) = maintainer(database) {
        slot.pid.compare_exchange(0, me, SeqCst, SeqCst).ok()?;
        slot
    } else {
        let slot = slots.iter().find(|slot| slot.database.compare_exchange(0, database.to_u32(), SeqCst, SeqCst).is_ok())?;
        requests(database.to_u32())?.begin();
        slot.ticked_at.store(0, SeqCst);
        slot.pid.store(me, SeqCst);
        slot
    };
    slot.began_at.store(server::wall_clock_micros(), SeqCst);
    // What was marked before is not known to be all.
    marks(database)?.set_all();
    requests(database.to_u32())?.ask();
    // SAFETY: a variable of this process that points to its latch in shared memory.
    slot.latch.store(unsafe { pg_sys::MyLatch }, SeqCst);
    Some(slot)
}

unsafe extern "C-unwind" {
    // Postgres's own, without pgrx's guard: it raises nothing, and is called after commit.
    fn SetLatch(latch: *mut pg_sys::Latch);
}

/// Wakes whoever sleeps on a latch of the server's shared memory. Neither allocates nor raises.
pub(super) fn set_latch(latch: *mut pg_sys::Latch) {
    // SAFETY: a process's latch stays where it is; one that has another owner by now wakes him for nothing.
    unsafe { SetLatch(latch) }
}

/// Cancellations of running jobs so far.
pub fn cancels() -> u32 {
    shared().map_or(0, |shared| shared.cancels.load(SeqCst))
}

/// Neither allocates nor raises.
pub(super) fn count_cancel() {
    if let Some(shared) = shared() {
        shared.cancels.fetch_add(1, SeqCst);
        // Workers of pools are to be told.
        wake_maintainer(server::database_oid().to_u32());
    }
}

/// Changes of handlers so far.
pub fn handlers() -> u32 {
    shared().map_or(0, |shared| shared.handlers.load(SeqCst))
}

/// Neither allocates nor raises.
pub(super) fn count_handlers() {
    if let Some(shared) = shared() {
        shared.handlers.fetch_add(1, SeqCst);
    }
}

pub fn count_unwoken() {
    if let Some(shared) = shared() {
        shared.unwoken.fetch_add(1, SeqCst);
    }
}

pub fn unwoken() -> i64 {
    shared().map_or(0, |shared| shared.unwoken.load(SeqCst))
}

/// A job may be ready that nobody has offered. Neither allocates nor raises.
pub(super) fn ask_for_a_sweep() {
    if let Some(slot) = maintainer(server::database_oid()) {
        slot.sweeps_wanted.fetch_add(1, SeqCst);
        wake_maintainer(slot.database.load(SeqCst));
    }
}

/// The supervisor of a database's pools is to look at them. Neither allocates nor raises.
pub(super) fn look_at_pools(database: u32) {
    for slot in shared().iter().flat_map(|shared| &shared.maintainers).filter(|slot| slot.database.load(SeqCst) == database) {
        slot.pool_news.fetch_add(1, SeqCst);
    }
    wake_maintainer(database);
}

/// The schedules of this database have changed. Neither allocates nor raises.
pub(super) fn tell_of_schedules() {
    if let Some(slot) = maintainer(server::database_oid()) {
        slot.schedules_changed.fetch_add(1, SeqCst);
        wake_maintainer(slot.database.load(SeqCst));
    }
}

/// Neither allocates nor raises.
pub fn wake_maintainer(database: u32) {
    let slots = shared().into_iter().flat_map(|shared| &shared.maintainers);
    for slot in slots.filter(|slot| slot.database.load(SeqCst) == database) {
        let latch = slot.latch.load(SeqCst);
        if !latch.is_null() {
            set_latch(latch);
        }
    }
}

/// Gives the slot's process back; what it last did stays known.
pub fn maintainer_exits() {
    if let Some(shared) = shared() {
        let me = server::backend_pid();
        for slot in shared.maintainers.iter().filter(|slot| slot.pid.load(SeqCst) == me) {
            slot.latch.store(std::ptr::null_mut(), SeqCst);
            slot.pid.store(0, SeqCst);
        }
    }
}

/// Frees the slots of databases that are gone.
pub fn keep_only(exists: impl Fn(u32) -> bool) {
    for slot in shared().iter().flat_map(|shared| &shared.maintainers) {
        let database = slot.database.load(SeqCst);
        if database != 0 && slot.pid.load(SeqCst) == 0 && !exists(database) {
            slot.database.store(0, SeqCst);
        }
    }
}
