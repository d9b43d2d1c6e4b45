//! claim_wait.

use super::claim::{Wanted, wanted};
use crate::clock::Timestamp;
use crate::dispatch::kind_hash;
use crate::dispatch::stripe::QueueKey;
use crate::dispatch::waiters::KINDS;
use crate::error::Error;
use crate::pg::call::{Call, Outcome};
use crate::pg::spi::{Param, Session, non_atomic};
use crate::pg::switch::as_owner;
use crate::pg::{notes, server, shmem, stripes, waiting};
use crate::rules::limits::WAIT_MAX_MS;
use crate::{settings, store};

const WAIT_DEFAULT_MS: i64 = 20_000;
/// The longest sleep: after it the session looks by itself.
const SLEEP_MAX_MS: i64 = 30_000;
/// Without a place in the lines it looks this often.
const LOOK_MS: i64 = 1_000;
/// There may be jobs that could not be had just now, or the queue is paused: the first pause, doubled each time.
const NAP_MS: i64 = 5;

/// `CALL jobq.claim_wait(queue, batch, wait, worker, lease_for, kinds, bind, INOUT jobs)`
pub fn claim_wait(call: &Call) -> Outcome {
    let wanted = wanted(call, [0, 1, 3, 4, 5, 6])?;
    let wait_ms = call.interval(2).map_or(Ok(WAIT_DEFAULT_MS), |span| span.millis("wait", 0, WAIT_MAX_MS))?;
    if !call.may_commit() {
        return Err(Error::InTransactionBlock { procedure: "jobq.claim_wait" });
    }
    if !stripes::attached() {
        return Err(Error::NeedsPreload { feature: "claim_wait" });
    }
    server::refuse_if_read_only(c"jobq.claim_wait()");
    let found = non_atomic(|session| wait_for(session, &wanted, wait_ms))?;
    Ok(call.row(&[Param::bytes(&found)]))
}

/// How long the caller may be kept.
struct Patience {
    until_micros: i64,
}

impl Patience {
    /// Ends a tenth before statement_timeout would strike.
    fn new(wait_ms: i64) -> Patience {
        let limit_ms = waiting::statement_timeout_in_ms().map_or(wait_ms, |left| wait_ms.min(left.saturating_sub(left / 10)));
        Patience { until_micros: server::monotonic_micros().saturating_add(limit_ms.saturating_mul(1_000)) }
    }

    fn left_ms(&self) -> i64 {
        // Up to the next millisecond: not again and again within the last one.
        self.until_micros.saturating_sub(server::monotonic_micros()).saturating_add(999) / 1_000
    }
}

/// The claimed jobs as jsonb; an empty array when the time is over.
fn wait_for(session: &mut Session, wanted: &Wanted, wait_ms: i64) -> Result<Vec<u8>, Error> {
    let patience = Patience::new(wait_ms);
    let kinds: Vec<u32> = wanted.kinds.iter().flatten().map(|kind| kind_hash(kind.bytes())).collect();
    let queues = wanted.queues.join(",");
    let claim = wanted.request(Timestamp::now());
    let mut nap_ms = NAP_MS;
    let mut overslept = false;
    loop {
        let in_line = join(wanted, &kinds)?;
        if !waiting::client_is_there() {
            return Err(Error::ClientGone);
        }
        let (count, jobs) = store::enqueue::claim_as_jsonb(session, &queues, &claim)?;
        // Not after a claim: a request to cancel that comes before the end undoes it.
        if count > 0 || patience.left_ms() <= 0 {
            if count > 0 && overslept {
                shmem::count_unwoken();
            }
            waiting::leave();
            return Ok(jobs);
        }
        session.commit();
        // A job that falls due is the maintainer's to wake for; should it be away, this session looks a second later.
        let sleep_ms = if in_line && settings::dispatch() { waiting::may_sleep_ms() } else { None };
        let sleep_ms = sleep_ms.map(|ms| ms.saturating_add(LOOK_MS).min(SLEEP_MAX_MS));
        let may_sleep = sleep_ms.is_some();
        let longest_ms = if in_line { SLEEP_MAX_MS } else { LOOK_MS };
        nap_ms = if may_sleep { NAP_MS } else { nap_ms.saturating_mul(2).min(longest_ms) };
        let woken = sleep_until_woken(session, &patience, sleep_ms.unwrap_or(nap_ms));
        overslept = may_sleep && !woken && patience.left_ms() > 0;
    }
}

/// Joins the lines, or goes back to the old places. False: this session must look by itself.
fn join(wanted: &Wanted, kinds: &[u32]) -> Result<bool, Error> {
    if kinds.len() > KINDS {
        return Ok(false);
    }
    if waiting::is_in_line() && waiting::rejoin() {
        return Ok(true);
    }
    waiting::leave();
    let keys: Vec<QueueKey> =
        as_owner(|session| wanted.queues.iter().map(|name| Ok(notes::key(store::queues::by_name(session, name)?.id))).collect())?;
    let joined = waiting::join(&keys, kinds);
    if !joined {
        waiting::leave();
    }
    Ok(joined)
}

/// Sleeps at most so long, and no longer than the caller has patience. Transactions that only sleep end early enough for
/// transaction_timeout. False: nobody woke it.
fn sleep_until_woken(session: &mut Session, patience: &Patience, limit_ms: i64) -> bool {
    let round_ms = waiting::transaction_timeout_ms().map_or(i64::MAX, |timeout| (timeout / 2).max(1));
    let until = server::monotonic_micros().saturating_add(limit_ms.saturating_mul(1_000));
    loop {
        let left_ms = until.saturating_sub(server::monotonic_micros()).saturating_add(999) / 1_000;
        let left_ms = left_ms.min(patience.left_ms());
        let woken = waiting::is_in_line() && waiting::is_woken();
        if left_ms <= 0 || woken {
            return woken;
        }
        waiting::sleep(left_ms.min(round_ms));
        if left_ms > round_ms {
            session.commit();
        }
        if !waiting::client_is_there() {
            return false;
        }
    }
}
