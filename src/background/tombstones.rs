//! The duty that finishes drop_queue: a transaction that was open when the queue was dropped may still add a job to it. Such a job
//! is cancelled, with the reason, instead of lying there for ever; once none can come any more the tombstone goes.

use super::rescue;
use crate::clock::Timestamp;
use crate::error::Error;
use crate::pg::spi::{Param, Session};
use crate::rules::ring;
use crate::store;
use crate::store::finish::Cancelled;

const BATCH: i32 = 1_000;

/// Jobs cancelled.
pub fn run(session: &Session) -> Result<usize, Error> {
    let now = Timestamp::now();
    let late = store::maintenance::late_arrivals(session, BATCH)?;
    if !late.is_empty() {
        let slot = ring::slot(now.0, ring::width_days(store::queues::longest_retention_ms(session)?));
        for (id, lease) in &late {
            let error = Param::from("its queue was dropped while it was being enqueued");
            let how = Cancelled { error, crashes_added: 0, slot };
            store::finish::archive_cancelled(session, *id, rescue::fence(*lease, now), &how, now)?;
        }
    }
    // In this order: what is seen for the first time now is judged by the next pass.
    store::maintenance::remove_tombstones(session)?;
    store::maintenance::see_tombstones(session)?;
    Ok(late.len())
}
