//! The duty that forgets finished jobs: whole partitions by TRUNCATE, shorter retentions of single queues by batches of DELETE.

use crate::clock::Timestamp;
use crate::error::Error;
use crate::pg;
use crate::pg::spi::Session;
use crate::rules::ring;
use crate::store;

/// Rows one pass deletes; more are left to the next.
pub const BATCH: i32 = 10_000;

/// Empties the partitions whose newest row is past the longest retention: how many. Nothing waits: a partition in use is left to
/// the next pass.
pub fn empty_partitions(session: &Session) -> Result<usize, Error> {
    // The second look, under the lock, would see no more than the first.
    if !pg::server::statements_see_new_commits() {
        return Ok(0);
    }
    let now = Timestamp::now();
    let longest_ms = store::queues::longest_retention_ms(session)?;
    let cutoff = now.minus_ms(longest_ms);
    let mut emptied = 0usize;
    let recent = ring::recent_slots(now.0, longest_ms);
    for slot in (0..ring::SLOTS as i16).filter(|slot| !recent.contains(slot)) {
        let table = format!("_history_{slot:02}");
        if store::maintenance::slot_is_expired(session, slot, cutoff, now)?
            && pg::table::lock_without_waiting(&table)
            // Again under the lock: somebody may have finished a job with another width in between.
            && store::maintenance::slot_is_expired(session, slot, cutoff, now)?
        {
            pg::table::truncate(&table);
            // It may have had jobs of a day that is not over everywhere.
            pg::counts::lose();
            emptied = emptied.saturating_add(1);
        }
    }
    Ok(emptied)
}

/// Deletes jobs past their own queue's shorter retention: how many.
pub fn delete_expired(session: &Session) -> Result<usize, Error> {
    let longest_ms = store::queues::longest_retention_ms(session)?;
    if !store::maintenance::retentions_differ(session, longest_ms)? {
        return Ok(0);
    }
    store::maintenance::delete_expired_history(session, Timestamp::now(), BATCH)
}
