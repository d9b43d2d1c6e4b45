//! What happens at the end of a transaction.
//!
//! Jobs that it made ready, or took away in vain, are offered to the dispatcher (super::notes).
//!
//! A transaction in which Postgres itself logged nothing but one claim need not wait for the disk: if it is lost in a crash, the job
//! is pending again and its lease is refused. It commits as with synchronous_commit = off. Any other write, before or after the
//! claim, moves the end of this backend's WAL, and then the transaction commits as the caller has asked.

use super::{counts, leases, notes, pools, roster, server, shmem, switch, waiting};
use pgrx::pg_sys;
use std::cell::Cell;
use std::ffi::{c_int, c_void};

/// State of the open transaction. Cleared at its end.
struct Transaction {
    /// XactLastRecEnd right after a claim that was alone so far; 0: none.
    claim_end: Cell<u64>,
    /// Tell the launcher at commit that the extension was installed.
    announce: Cell<bool>,
    /// Tell the maintainer at commit that the schedules are others.
    reschedule: Cell<bool>,
    /// Tell the supervisor of the pools at commit that they were changed.
    pools_changed: Cell<bool>,
    /// And their workers that handlers were.
    handlers_changed: Cell<bool>,
}

// SAFETY: a backend runs on one thread.
unsafe impl Sync for Transaction {}

static OPEN: Transaction = Transaction {
    claim_end: Cell::new(0),
    announce: Cell::new(false),
    reschedule: Cell::new(false),
    pools_changed: Cell::new(false),
    handlers_changed: Cell::new(false),
};

/// Registers the callbacks; once per process, from _PG_init.
pub fn register() {
    // SAFETY: the callbacks live as long as the process.
    unsafe {
        pg_sys::RegisterXactCallback(Some(at_end), std::ptr::null_mut());
        pg_sys::RegisterSubXactCallback(Some(at_end_of_subtransaction), std::ptr::null_mut());
    }
}

/// Has this transaction written nothing yet, and will it end with the statement that runs now? Ask before the claim's first write.
pub fn alone_so_far() -> bool {
    // SAFETY: reads of this backend's transaction state.
    unsafe {
        pg_sys::GetTopTransactionIdIfAny() == pg_sys::InvalidTransactionId
            && !pg_sys::IsTransactionBlock()
            && pg_sys::GetCurrentTransactionNestLevel() == 1
            && pg_sys::MyXactFlags & pg_sys::XACT_FLAGS_PIPELINING as c_int == 0
    }
}

/// After a claim that was alone so far: commit without waiting unless something else is logged before the commit.
pub fn commit_without_waiting_if_still_alone() {
    if !has_triggers() {
        // SAFETY: a variable of this backend.
        OPEN.claim_end.set(unsafe { pg_sys::XactLastRecEnd });
    }
}

/// Triggers on the job table: what they wrote was logged before the claim returned and must not be lost.
fn has_triggers() -> bool {
    // SAFETY: the claim holds a lock on the table until the transaction ends; the reference is closed at once.
    unsafe {
        let relation = pg_sys::RelationIdGetRelation(switch::table_oid(c"_job"));
        if relation.is_null() {
            return true;
        }
        let found = !(*relation).trigdesc.is_null();
        pg_sys::RelationClose(relation);
        found
    }
}

/// Tells the launcher, once this transaction has committed, to look at the databases again.
pub fn announce_at_commit() {
    OPEN.announce.set(true);
}

/// Has the maintainer look, once this transaction has committed, when the next schedule is due.
pub fn reschedule_at_commit() {
    OPEN.reschedule.set(true);
}

/// After a claim that must not be lost: a handler may crash the server, and that has to be counted.
pub fn commit_for_the_disk() {
    OPEN.claim_end.set(0);
    // SAFETY: sets a flag of the open transaction. synchronous_commit = off does not count then.
    unsafe { pg_sys::ForceSyncCommit() }
}

/// Has the supervisor of this database's pools look at them once this transaction has committed.
pub fn pools_change() {
    OPEN.pools_changed.set(true);
}

/// Has the workers of pools look at the handlers once this transaction has committed.
pub fn handlers_change() {
    OPEN.handlers_changed.set(true);
}

/// For what must neither allocate nor raise. Test builds watch it.
#[cfg(not(any(test, feature = "pg_test")))]
fn quietly(body: impl FnOnce()) {
    body();
}
#[cfg(any(test, feature = "pg_test"))]
use super::quiet::quietly;

/// Plays the end of the transaction, for tests.
#[cfg(any(test, feature = "pg_test"))]
pub fn play(event: pg_sys::XactEvent::Type) {
    // SAFETY: the callback takes no memory of its caller's.
    unsafe { at_end(event, std::ptr::null_mut()) }
}

/// The one transaction callback. Before the commit it may raise.
unsafe extern "C-unwind" fn at_end(event: pg_sys::XactEvent::Type, _: *mut c_void) {
    match event {
        pg_sys::XactEvent::XACT_EVENT_PRE_COMMIT => {
            let claim_end = OPEN.claim_end.replace(0);
            // SAFETY: a variable of this backend. The setting is local to the transaction: Postgres undoes it after success and
            // after an error alike.
            if claim_end != 0 && claim_end == unsafe { pg_sys::XactLastRecEnd } {
                set_synchronous_commit_off();
            }
        }
        pg_sys::XactEvent::XACT_EVENT_PRE_PREPARE => leases::before_prepare(),
        pg_sys::XactEvent::XACT_EVENT_COMMIT => quietly(|| {
            OPEN.claim_end.set(0);
            leases::transaction_ends(true);
            counts::transaction_ends(true);
            roster::transaction_ends(true);
            notes::transaction_ends(true);
            if OPEN.announce.replace(false) {
                shmem::ask_for_a_look_at_databases();
            }
            if OPEN.reschedule.replace(false) {
                shmem::tell_of_schedules();
            }
            if OPEN.handlers_changed.replace(false) {
                shmem::count_handlers();
                pools::wake_all();
            }
            if OPEN.pools_changed.replace(false) {
                shmem::look_at_pools(server::database_oid().to_u32());
            }
        }),
        pg_sys::XactEvent::XACT_EVENT_ABORT => quietly(|| {
            OPEN.claim_end.set(0);
            forget_news();
            waiting::leave();
            leases::transaction_ends(false);
            counts::transaction_ends(false);
            roster::transaction_ends(false);
            notes::transaction_ends(false);
        }),
        pg_sys::XactEvent::XACT_EVENT_PREPARE => quietly(|| {
            OPEN.claim_end.set(0);
            // COMMIT PREPARED tells nobody: what was changed is noticed at the next look.
            forget_news();
            leases::transaction_is_prepared();
            counts::transaction_is_prepared();
            roster::transaction_is_prepared();
            notes::transaction_is_prepared();
        }),
        _ => {}
    }
}

fn forget_news() {
    OPEN.announce.set(false);
    OPEN.reschedule.set(false);
    OPEN.pools_changed.set(false);
    OPEN.handlers_changed.set(false);
}

/// The rows that a subtransaction had locked are free again when it is undone.
unsafe extern "C-unwind" fn at_end_of_subtransaction(
    event: pg_sys::SubXactEvent::Type,
    subtransaction: pg_sys::SubTransactionId,
    parent: pg_sys::SubTransactionId,
    _: *mut c_void,
) {
    if event == pg_sys::SubXactEvent::SUBXACT_EVENT_COMMIT_SUB {
        quietly(|| {
            counts::subtransaction_commits(subtransaction, parent);
            roster::subtransaction_commits(subtransaction, parent);
        });
    }
    if event == pg_sys::SubXactEvent::SUBXACT_EVENT_ABORT_SUB {
        quietly(|| {
            leases::subtransaction_aborts(subtransaction);
            counts::subtransaction_aborts(subtransaction);
            roster::subtransaction_aborts(subtransaction);
            notes::subtransaction_aborts(subtransaction);
        });
    }
}

unsafe extern "C-unwind" {
    // Postgres's own: this callback has no Rust frame above it that would need pgrx's guard.
    fn set_config_option(
        name: *const std::ffi::c_char,
        value: *const std::ffi::c_char,
        context: pg_sys::GucContext::Type,
        source: pg_sys::GucSource::Type,
        action: pg_sys::GucAction::Type,
        change: bool,
        elevel: c_int,
        is_reload: bool,
    ) -> c_int;
}

fn set_synchronous_commit_off() {
    // SAFETY: static strings; a user-settable setting; no Rust value with a destructor is alive here if it raises.
    unsafe {
        set_config_option(
            c"synchronous_commit".as_ptr(),
            c"off".as_ptr(),
            pg_sys::GucContext::PGC_USERSET,
            pg_sys::GucSource::PGC_S_SESSION,
            pg_sys::GucAction::GUC_ACTION_LOCAL,
            true,
            0,
            false,
        );
    }
}
