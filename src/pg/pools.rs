//! The seats of pool workers in shared memory: what a maintainer wants of each worker, and what each worker is doing.
//!
//! All of it may vanish in a crash: then no worker is left either. What runs when a process exits neither allocates nor raises.

use super::stripes;
use super::{process, server, shmem};
use crate::rules::pool::Worker;
use pgrx::pg_sys;
use std::cell::Cell;
use std::ffi::c_int;

/// Workers of all pools of all databases, running or not.
const SEATS: usize = 512;

#[derive(Clone, Copy)]
pub struct Seat {
    /// 0: the seat is free.
    pub database: u32,
    pub pool: i32,
    /// From 1.
    pub number: i32,
    pub role: u32,
    pub worker: Worker,
    /// Counts the processes that were asked for in this seat: one that comes late must not take the next one's place.
    pub ticket: u32,
    /// 0: none, or it has not come yet.
    pub pid: i32,
    latch: *mut pg_sys::Latch,
    pub stop_wait_micros: i64,
    /// It has come and gone since it was asked for.
    pub has_ended: bool,
    pub by_plan: bool,
    /// It had a job when it ended.
    pub in_a_job: bool,
    /// Wall clock, as are all times below; 0: none.
    pub started_at: i64,
    /// The worker's own: its job, of which installation of jobq, and what it has done since its seat was taken.
    pub installation: u32,
    pub job: u128,
    pub lease: i64,
    pub job_started_at: i64,
    /// By the clock that nobody sets: when its time is over, or since when it is cancelled; 0: not.
    pub end_at: i64,
    pub completed: i64,
    pub failed: i64,
    pub memory_bytes: i64,
    /// It has met an error that was no job's, and tries again.
    pub in_trouble: bool,
    /// The maintainer's wishes.
    pub orders: Orders,
}

/// What a worker is to do.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Orders {
    /// Leave after this job.
    pub stop: bool,
    /// Put the job back: stop_wait is over.
    pub release: bool,
    /// The lease of a job that was cancelled; 0: none.
    pub cancelled: i64,
    /// 0: none; so are the next two.
    pub max_runtime_ms: i64,
    pub max_memory_bytes: i64,
    pub job_timeout_ms: i64,
}

impl Seat {
    pub const FREE: Seat = Seat {
        database: 0,
        pool: 0,
        number: 0,
        role: 0,
        worker: Worker::NEW,
        ticket: 0,
        pid: 0,
        latch: std::ptr::null_mut(),
        stop_wait_micros: 0,
        has_ended: true,
        by_plan: false,
        in_a_job: false,
        started_at: 0,
        installation: 0,
        job: 0,
        lease: 0,
        job_started_at: 0,
        end_at: 0,
        completed: 0,
        failed: 0,
        memory_bytes: 0,
        in_trouble: false,
        orders: Orders { stop: false, release: false, cancelled: 0, max_runtime_ms: 0, max_memory_bytes: 0, job_timeout_ms: 0 },
    };

    /// The seat of a worker that has no process yet.
    pub fn give_to(&mut self, database: u32, pool: i32, number: i32, role: u32) {
        *self = Seat { database, pool, number, role, ticket: self.ticket, ..Seat::FREE };
    }

    /// Nobody has it any more; a process that comes late finds another ticket.
    pub fn free(&mut self) {
        *self = Seat { ticket: self.ticket.wrapping_add(1), ..Seat::FREE };
    }

    /// A process is asked for.
    pub fn ask_for(&mut self) {
        self.ticket = self.ticket.wrapping_add(1);
        (self.pid, self.latch) = (0, std::ptr::null_mut());
        (self.has_ended, self.by_plan, self.in_a_job) = (false, false, false);
        (self.started_at, self.in_trouble) = (0, false);
        (self.job, self.lease, self.job_started_at, self.end_at, self.memory_bytes) = (0, 0, 0, 0, 0);
        (self.orders.stop, self.orders.release, self.orders.cancelled) = (false, false, 0);
    }

    /// No process is there, and none is coming.
    pub fn is_gone(&mut self) {
        self.in_a_job |= self.job != 0;
        (self.pid, self.latch, self.has_ended, self.in_trouble) = (0, std::ptr::null_mut(), true, false);
        (self.job, self.lease, self.job_started_at, self.end_at, self.memory_bytes) = (0, 0, 0, 0, 0);
    }

    /// Makes its process look around. Under the lock: the process clears its latch and pid under it before it goes.
    pub fn wake(&self) {
        if !self.latch.is_null() {
            shmem::set_latch(self.latch);
        }
    }

    /// Cancels what its process is doing, as pg_cancel_backend does. Under the lock, as above.
    pub fn interrupt(&self) {
        if self.pid != 0 {
            process::signal(self.pid, process::SIGINT);
        }
    }

    /// Ends its process, as pg_terminate_backend does. Under the lock, as above.
    pub fn terminate(&self) {
        if self.pid != 0 {
            process::signal(self.pid, process::SIGTERM);
        }
    }
}

struct Shared {
    /// As in super::stripes.
    in_update: bool,
    seats: [Seat; SEATS],
}

struct Attached(Cell<*mut Shared>);
// SAFETY: a process of the server runs on one thread.
unsafe impl Sync for Attached {}
static ATTACHED: Attached = Attached(Cell::new(std::ptr::null_mut()));

pub(super) fn request() {
    // SAFETY: called from shmem_request_hook.
    unsafe { pg_sys::RequestAddinShmemSpace(size_of::<Shared>()) }
}

pub(super) fn startup() {
    // SAFETY: called by the postmaster, before any other process exists, each time shared memory is made.
    unsafe {
        let mut found = false;
        let memory: *mut Shared = pg_sys::ShmemInitStruct(c"jobq pools".as_ptr(), size_of::<Shared>(), &mut found).cast();
        if !found {
            memory.write(Shared { in_update: false, seats: [Seat::FREE; SEATS] });
        }
        ATTACHED.0.set(memory);
    }
}

/// Runs `body` with all seats under their lock. It must be short and raise nothing.
pub fn with<T>(body: impl FnOnce(&mut [Seat]) -> T) -> Option<T> {
    let memory = ATTACHED.0.get();
    if memory.is_null() {
        return None;
    }
    // SAFETY: memory of that size that lives as long as the process; nobody else has a reference while this one has the lock.
    unsafe {
        let lock = stripes::pool_lock();
        stripes::LWLockAcquire(lock, pg_sys::LWLockMode::LW_EXCLUSIVE);
        let shared = &mut *memory;
        if std::mem::replace(&mut shared.in_update, true) {
            // Workers that lose their seat leave.
            shared.seats.iter_mut().for_each(Seat::free);
        }
        let outcome = body(&mut shared.seats);
        shared.in_update = false;
        stripes::LWLockRelease(lock);
        Some(outcome)
    }
}

/// This process's seat and ticket, once it has taken it.
struct Mine(Cell<Option<(usize, u32)>>);
// SAFETY: as above.
unsafe impl Sync for Mine {}
static MINE: Mine = Mine(Cell::new(None));

/// Takes the seat that this process was started for; None when it is somebody else's by now.
pub fn take(place: usize, ticket: u32) -> Option<Seat> {
    // SAFETY: a variable of this process that points to its latch in shared memory.
    let latch = unsafe { pg_sys::MyLatch };
    let taken = with(|seats| {
        let seat = seats
            .get_mut(place)
            .filter(|seat| seat.ticket == ticket && seat.database != 0 && seat.pid == 0 && !seat.has_ended)?;
        (seat.pid, seat.latch, seat.started_at) = (server::backend_pid(), latch, server::wall_clock_micros());
        Some(*seat)
    })??;
    MINE.0.set(Some((place, ticket)));
    process::at_exit(on_exit);
    shmem::look_at_pools(taken.database);
    Some(taken)
}

/// Runs `body` with this process's seat; None when it has lost it.
pub fn with_mine<T>(body: impl FnOnce(&mut Seat) -> T) -> Option<T> {
    let (place, ticket) = MINE.0.get()?;
    with(|seats| seats.get_mut(place).filter(|seat| seat.ticket == ticket && seat.database != 0).map(body))?
}

/// This worker leaves by plan: its successor comes at once, or it was asked to.
pub fn leave_by_plan() {
    with_mine(|seat| seat.by_plan = true);
}

extern "C-unwind" fn on_exit(_: c_int, _: pg_sys::Datum) {
    let database = with_mine(|seat| {
        seat.is_gone();
        seat.database
    });
    if let Some(database) = database {
        shmem::look_at_pools(database);
    }
}

/// Makes all workers of pools look around: handlers have come or gone. Neither allocates nor raises.
pub(super) fn wake_all() {
    with(|seats| seats.iter().for_each(Seat::wake));
}

/// Frees the seats of databases that are gone.
pub fn keep_only(exists: impl Fn(u32) -> bool) {
    with(|seats| {
        for seat in seats.iter_mut().filter(|seat| seat.database != 0 && seat.pid == 0 && !exists(seat.database)) {
            seat.free();
        }
    });
}
