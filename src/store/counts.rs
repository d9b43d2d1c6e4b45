//! How many jobs there are, and of which workers: what each statement changes, and counting them anew.

use super::{inspect, statement};
use crate::clock::Timestamp;
use crate::dispatch::roster::{Record, WorkerKey};
use crate::dispatch::stripe::QueueKey;
use crate::dispatch::tally::{What, span};
use crate::error::Error;
use crate::pg::datum::Text;
use crate::pg::spi::{Rows, Session};
use crate::pg::{counts, notes, roster};
use crate::rules::ring;

/// A finished job that is kept.
pub(super) struct Kept {
    /// As in the tables; cancelled jobs are not counted.
    pub state: u8,
    pub at: Timestamp,
    pub worker: Option<Text>,
}

impl Kept {
    /// So many more like this one are kept, or fewer.
    pub(super) fn add(&self, key: &QueueKey, n: i64) {
        let finished_at = self.at.0;
        let (what, change) = match self.state {
            b'c' => (What::Completed(span(finished_at)), Record { completed: n, failed: 0, finished_at }),
            b'f' => (What::Failed(span(finished_at)), Record { completed: 0, failed: n, finished_at }),
            _ => return,
        };
        counts::add(key, what, n);
        if let Some(worker) = self.worker {
            roster::add(worker.bytes(), &change);
        }
    }
}

/// Jobs were added to a queue.
pub(super) fn added(queue: i32, jobs: usize) {
    counts::add(&notes::key(queue), What::Unfinished, i64::try_from(jobs).unwrap_or(i64::MAX));
}

/// An unfinished job ended: completed or failed, and kept, or in a way that nobody counts (None).
pub(super) fn ended(queue: Option<i32>, how: Option<Kept>) {
    let Some(queue) = queue else { return };
    let key = notes::key(queue);
    counts::add(&key, What::Unfinished, -1);
    if let Some(job) = how {
        job.add(&key, 1);
    }
}

/// Finished jobs that a statement deleted and returned: queue_id, state, finished_at, worker.
pub(super) fn deleted(rows: &Rows<'_>) {
    for row in 0..rows.count() {
        let (queue, state, at) = (rows.int(row, 1), rows.letter(row, 2), rows.timestamp(row, 3));
        if let (Some(queue), Some(state), Some(at)) = (queue, state, at) {
            Kept { state, at, worker: rows.text(row, 4) }.add(&notes::key(queue), -1);
        }
    }
}

/// Failed jobs that a statement made pending again and returned: queue_id from column 2 on, finished_at and worker in columns 7 and 8.
pub(super) fn retried(rows: &Rows<'_>) {
    for row in 0..rows.count() {
        if let (Some(queue), Some(at)) = (rows.int(row, 2), rows.timestamp(row, 7)) {
            Kept { state: b'f', at, worker: rows.text(row, 8) }.add(&notes::key(queue), -1);
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
    let queues: Vec<(QueueKey, What, i64)> = (0..rows.count()).filter_map(counted).collect();
    let workers = if counting.is_of_workers() { count_workers(session)? } else { None };
    counts::end(counting, &queues, workers.as_deref());
    Ok(0)
}

/// None: not all have a name that could be kept.
fn count_workers(session: &Session) -> Result<Option<Vec<(WorkerKey, Record)>>, Error> {
    let rows = inspect::workers(session, false)?;
    let counted = |row| -> Option<(WorkerKey, Record)> {
        let (completed, failed) = (rows.bigint(row, 4)?, rows.bigint(row, 5)?);
        Some((roster::key(rows.text(row, 1)?.bytes())?, Record { completed, failed, finished_at: rows.timestamp(row, 3)?.0 }))
    };
    Ok((0..rows.count()).map(counted).collect())
}
