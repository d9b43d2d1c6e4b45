//! claim.

use super::{batch, label};
use crate::clock::Timestamp;
use crate::error::Error;
use crate::pg;
use crate::pg::call::{Answer, Call, Outcome, RowSink};
use crate::pg::datum::Text;
use crate::pg::switch::as_owner;
use crate::rules::limits::{KINDS_PER_CLAIM, LEASE_MAX_MS, LEASE_MIN_MS, QUEUES_PER_CLAIM};
use crate::rules::names::{self, DEFAULT_QUEUE};
use crate::rules::{lease, span::Span};
use crate::store::enqueue::Claim;
use crate::{settings, store};

/// After an unclean start or a promotion claims wait for the disk this long at least: a job that crashes the server must be counted, and a claim
/// that was lost with the crash is not.
const WATCHFUL_MS: i64 = 10 * 60 * 1_000;

/// The queues to look at, in the order given.
pub(super) fn queue_names(given: Option<&Text>) -> Result<Vec<String>, Error> {
    let Some(given) = given else { return Ok(vec![DEFAULT_QUEUE.into()]) };
    let listed: Vec<&str> = given.utf8("queue")?.split(',').collect();
    if listed.len() > QUEUES_PER_CLAIM {
        return Err(Error::invalid("queue", format!("name at most {QUEUES_PER_CLAIM} queues")));
    }
    listed.into_iter().map(|name| names::queue("queue", name).map(|()| name.to_string())).collect()
}

pub(super) fn lease_ms(given: Option<Span>) -> Result<Option<i64>, Error> {
    given.map(|span| span.millis("lease_for", LEASE_MIN_MS, LEASE_MAX_MS)).transpose()
}

fn kinds(given: Option<Vec<Text>>) -> Result<Option<Vec<Text>>, Error> {
    let Some(kinds) = given else { return Ok(None) };
    if kinds.is_empty() || kinds.len() > KINDS_PER_CLAIM {
        return Err(Error::invalid("kinds", format!("have 1 to {KINDS_PER_CLAIM} elements")));
    }
    for kind in &kinds {
        label(kind, "kinds")?;
    }
    Ok(Some(kinds))
}

/// What a call wants to claim.
pub(super) struct Wanted {
    pub queues: Vec<String>,
    pub batch: i32,
    pub worker: String,
    pub lease_ms: Option<i64>,
    pub kinds: Option<Vec<Text>>,
    /// To the session: released when it ends.
    pub bound: bool,
}

impl Wanted {
    pub fn request(&self, now: Timestamp) -> Claim<'_> {
        Claim {
            batch: self.batch,
            now,
            lease_ms: self.lease_ms,
            clock_part: lease::clock_part(now.0),
            worker: &self.worker,
            kinds: self.kinds.as_deref(),
            bound: self.bound,
        }
    }
}

/// The arguments queue, batch, worker, lease_for, kinds and bind, by their positions.
pub(super) fn wanted(call: &Call, [queue, batch_size, worker, lease_for, kind_list, bind]: [usize; 6]) -> Result<Wanted, Error> {
    let worker = match &call.text(worker) {
        Some(name) => label(name, "worker")?.to_string(),
        None => format!("pid-{}", pg::server::backend_pid()),
    };
    Ok(Wanted {
        queues: queue_names(call.text(queue).as_ref())?,
        batch: batch(call.int(batch_size), 1)?,
        worker,
        lease_ms: lease_ms(call.interval(lease_for))?,
        kinds: kinds(call.texts(kind_list, "kinds")?)?,
        bound: is_bound(call.text(bind).as_ref())?,
    })
}

fn is_bound(given: Option<&Text>) -> Result<bool, Error> {
    match given.map(|bind| bind.utf8("bind")).transpose()? {
        None | Some("lease") => Ok(false),
        Some("session") if pg::leases::attached() => Ok(true),
        Some("session") => Err(Error::NeedsPreload { feature: "bind => 'session'" }),
        Some(other) => Err(Error::invalid_value("bind", "be 'lease' or 'session'", other.escape_debug())),
    }
}

/// May this claim commit without waiting for the disk, if its transaction does nothing else?
fn may_be_lost(now: Timestamp) -> bool {
    settings::async_claim()
        && !pg::shmem::watchful(now.0, WATCHFUL_MS.max(settings::rescue_grace_ms()))
        && pg::xact::alone_so_far()
}

/// `jobq.claim(queue, batch, worker, lease_for, kinds, bind)`
pub fn claim(call: &Call) -> Outcome {
    let wanted = wanted(call, [0, 1, 2, 3, 4, 5])?;
    hand_out(&wanted, &call.rows())?;
    Ok(Answer::Null)
}

/// Claims what is wanted.
pub(super) fn hand_out(wanted: &Wanted, sink: &RowSink) -> Result<(), Error> {
    let now = Timestamp::now();
    let may_be_lost = may_be_lost(now);
    let request = wanted.request(now);
    let (claimed, from_clock) = match store::direct::claim(&wanted.queues, &request, sink)? {
        Some(claimed) => (claimed.count > 0, claimed.from_clock),
        None => as_owner(|session| {
            let queues = wanted.queues.iter().map(|name| store::queues::by_name(session, name)).collect::<Result<Vec<_>, _>>()?;
            let (mut left, mut from_clock) = (wanted.batch, true);
            for queue in queues.iter().filter(|queue| !queue.paused) {
                let request = Claim { batch: left, now: Timestamp::now(), ..request };
                let rows = store::enqueue::claim(session, queue, &request, lease::random_part(pg::server::random_bits()))?;
                from_clock &= (0..rows.count())
                    .all(|row| rows.bigint(row, 2).is_some_and(|lease| lease::from_clock(lease, request.clock_part)));
                store::enqueue::hand_out(&rows, sink);
                left = left.saturating_sub(i32::try_from(rows.count()).unwrap_or(i32::MAX));
                if left <= 0 {
                    break;
                }
            }
            Ok((left < wanted.batch, from_clock))
        })?,
    };
    // A lease that is not from the clock could be issued again if this claim were lost.
    if claimed && from_clock && may_be_lost {
        pg::xact::commit_without_waiting_if_still_alone();
    }
    Ok(())
}
