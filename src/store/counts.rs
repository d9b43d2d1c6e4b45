//! How many jobs there are: what each statement changes, and counting them anew.

use super::statement;
use crate::clock::Timestamp;
use crate::dispatch::stripe::QueueKey;
use crate::dispatch::tally::{What, span};
use crate::error::Error;
use crate::pg::spi::{Rows, Session};
use crate::pg::{counts, notes};
use crate::rules::ring;

/// What finished jobs count as; None: as nothing.
fn finished(state: Option<u8>, at: Option<Timestamp>) -> Option<What> {
    let span = span(at?.0);
    match state? {
        b'f' => Some(What::Failed(span)),
        b'c' => Some(What::Completed(span)),
        _ => None,
    }
}

/// Jobs were added to a queue.
pub(super) fn added(queue: i32, jobs: usize) {
    counts::add(&notes::key(queue), What::Unfinished, i64::try_from(jobs).unwrap_or(i64::MAX));
}

/// Unfinished jobs ended: as completed, cancelled or failed, and kept, or without a trace (None).
pub(super) fn ended(queue: Option<i32>, how: Option<What>) {
    let Some(queue) = queue else { return };
    let key = notes::key(queue);
    counts::add(&key, What::Unfinished, -1);
    if let Some(what) = how {
        counts::add(&key, what, 1);
    }
}

/// Finished jobs that a statement deleted and returned: queue_id, state, finished_at.
pub(super) fn deleted(rows: &Rows<'_>) {
    for row in 0..rows.count() {
        let what = finished(rows.letter(row, 2), rows.timestamp(row, 3));
        if let Some((queue, what)) = rows.int(row, 1).zip(what) {
            counts::add(&notes::key(queue), what, -1);
        }
    }
}

/// Failed jobs that a statement made pending again and returned: queue_id from column 2 on, finished_at in column 7.
pub(super) fn retried(rows: &Rows<'_>) {
    for row in 0..rows.count() {
        let what = finished(Some(b'f'), rows.timestamp(row, 7));
        if let Some((queue, what)) = rows.int(row, 2).zip(what) {
            counts::add(&notes::key(queue), what, -1);
            added(queue, 1);
        }
    }
}

/// The background duty: counts the tables when that is due.
pub fn keep_up(session: &Session) -> Result<usize, Error> {
    statement!(COUNTS, "counts", [Timestamp, Int, Int], Free);
    if !counts::is_due() {
        return Ok(0);
    }
    let now = Timestamp::now();
    let width = ring::width_days(super::queues::longest_retention_ms(session)?);
    // Of today and of the day before yesterday's evening.
    let slots = [now, now.minus_ms(crate::rules::limits::DAY_MS)].map(|at| i32::from(ring::slot(at.0, width)));
    let Some(counting) = counts::begin() else { return Ok(0) };
    let rows = session.look(&COUNTS, &[now.into(), slots[0].into(), slots[1].into()])?;
    let counted = |row| -> Option<(QueueKey, What, i64)> {
        let span = rows.bigint(row, 3)?;
        let what = match rows.letter(row, 2)? {
            b'f' => What::Failed(span),
            b'c' => What::Completed(span),
            _ => What::Unfinished,
        };
        Some((notes::key(rows.int(row, 1)?), what, rows.bigint(row, 4)?))
    };
    let counted: Vec<(QueueKey, What, i64)> = (0..rows.count()).filter_map(counted).collect();
    counts::end(counting, &counted);
    Ok(0)
}
