//! Waiting for jobs inside the server: a session stands in the lines of its queues (crate::dispatch::waiters) and sleeps on its latch.
//!
//! While it sleeps it has no snapshot, no transaction id and no lock that anybody could wait for. It leaves the lines when it has found
//! something, when its time is over, and, by the abort callback, when anything goes wrong.

use super::stripes::Standing;
use super::{process, server};
use crate::dispatch::stripe::QueueKey;
use crate::rules::limits::QUEUES_PER_CLAIM;
use pgrx::pg_sys;
use std::cell::UnsafeCell;

/// The lines this session stands in.
struct Lines {
    list: [Standing; QUEUES_PER_CLAIM],
    count: usize,
}

struct Mine(UnsafeCell<Lines>);
// SAFETY: a backend runs on one thread.
unsafe impl Sync for Mine {}
static MINE: Mine = Mine(UnsafeCell::new(Lines { list: [Standing::NOWHERE; QUEUES_PER_CLAIM], count: 0 }));

fn mine() -> &'static mut Lines {
    // SAFETY: one thread; no function of this file calls another one of it while it holds the reference.
    unsafe { &mut *MINE.0.get() }
}

pub fn is_in_line() -> bool {
    mine().count > 0
}

/// Joins the lines of these queues; false when there is no place in one of them.
pub fn join(keys: &[QueueKey], kinds: &[u32]) -> bool {
    // SAFETY: a variable of this process that points to its latch in shared memory.
    let latch = unsafe { pg_sys::MyLatch };
    let lines = mine();
    for key in keys {
        let (Some(place), Some(standing)) = (lines.list.get_mut(lines.count), Standing::join(key, latch, kinds)) else {
            return false;
        };
        *place = standing;
        lines.count = lines.count.saturating_add(1);
    }
    true
}

fn standing() -> &'static [Standing] {
    let lines = mine();
    lines.list.get(..lines.count).unwrap_or_default()
}

/// Before looking: back to the old places. False when one of them is lost.
pub fn rejoin() -> bool {
    standing().iter().all(Standing::rejoin)
}

/// Was this session woken since it last looked?
pub fn is_woken() -> bool {
    standing().iter().any(Standing::is_woken)
}

/// It has looked since it joined, and found nothing: how many ms may it sleep until it is woken? None: not at all.
pub fn may_sleep_ms() -> Option<i64> {
    let until = standing().iter().map(Standing::may_wait).min()??;
    Some(until.saturating_sub(server::wall_clock_micros()).max(0) / 1_000)
}

/// Leaves all lines; whatever is there is for the next ones. Neither allocates nor raises.
pub fn leave() {
    standing().iter().for_each(Standing::leave);
    mine().count = 0;
}

unsafe extern "C-unwind" {
    // Declared here: libpq.h needs headers that not every installation has.
    fn pq_check_connection() -> bool;
}

/// Is the client still there?
pub fn client_is_there() -> bool {
    // SAFETY: looks at the socket of this backend, if it has one.
    unsafe { pg_sys::MyProcPort.is_null() || pq_check_connection() }
}

/// Sleeps until this session's latch is set, or so many milliseconds. Lets requests to cancel or to end in.
pub fn sleep(milliseconds: i64) {
    process::sleep_on_latch(milliseconds);
    // SAFETY: a flag of this process, set by its signal handler.
    unsafe {
        // Who sleeps long must not hold up what other sessions tell about the catalogs.
        if std::ptr::read_volatile(&raw const pg_sys::catchupInterruptPending) != 0 {
            pg_sys::ProcessCatchupInterrupt();
        }
    }
}

/// The milliseconds after which statement_timeout strikes, counted from now; None without it.
pub fn statement_timeout_in_ms() -> Option<i64> {
    // SAFETY: variables of this backend.
    let (timeout, since) = unsafe { (i64::from(pg_sys::StatementTimeout), pg_sys::GetCurrentStatementStartTimestamp()) };
    let used_ms = server::wall_clock_micros().saturating_sub(since) / 1_000;
    (timeout > 0).then(|| timeout.saturating_sub(used_ms))
}

/// transaction_timeout in ms; None without it.
pub fn transaction_timeout_ms() -> Option<i64> {
    #[cfg(any(feature = "pg17", feature = "pg18"))]
    // SAFETY: a variable of this backend.
    let timeout = i64::from(unsafe { pg_sys::TransactionTimeout });
    #[cfg(not(any(feature = "pg17", feature = "pg18")))]
    let timeout = 0i64;
    (timeout > 0).then_some(timeout)
}
