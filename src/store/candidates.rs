//! Reading from the tables what the dispatcher is to know: refills and sweeps.

use super::direct::{READY, SCHEDULED, job, jobs};
use crate::clock::Timestamp;
use crate::dispatch::stripe::{QueueKey, Side};
use crate::dispatch::{Candidate, Key, kind_hash};
use crate::error::Error;
use crate::pg;
use crate::pg::heap::{self, Scan, Table, Use, direct, look_again};
use crate::pg::notes;
use crate::pg::row::Row;
use crate::pg::spi::Rows;
use crate::pg::stripes;
use std::ffi::c_int;
use uuid::Uuid;

/// Candidates a refill reads, and the rows it looks at for them: others are running.
const REFILL_ROWS: usize = 1_024;
const REFILL_LOOKS: usize = 20_000;

pub(super) fn candidate_of(row: &Row<'_>) -> Candidate {
    Candidate {
        priority: row.int(job::priority).unwrap_or(0),
        run_at: row.timestamp(job::run_at).map_or(0, |at| at.0),
        id: row.uuid(job::id).map_or(0, |id| id.as_u128()),
        kind: row.text(job::kind).map_or(0, |kind| kind_hash(kind.bytes())),
    }
}

/// What a statement returns of a job from this column on: queue_id, priority, run_at, id, kind.
fn returned(rows: &Rows<'_>, row: usize, column: c_int) -> Option<(QueueKey, Candidate)> {
    let at = |n: c_int| column.saturating_add(n);
    let candidate = Candidate {
        priority: rows.int(row, at(1))?,
        run_at: rows.timestamp(row, at(2))?.0,
        id: rows.uuid(row, at(3))?.as_u128(),
        kind: kind_hash(rows.text(row, at(4))?.bytes()),
    };
    Some((notes::key(rows.int(row, column)?), candidate))
}

/// Notes the jobs that a statement has made pending: how many. `column` is the first of those that `returned` reads.
pub(super) fn made_ready(rows: &Rows<'_>, column: c_int) -> usize {
    let made = (0..rows.count()).filter_map(|row| returned(rows, row, column));
    made.map(|(key, candidate)| notes::made_ready(&key, candidate)).count()
}

/// Notes a pending job that a statement has locked.
pub(super) fn locked(rows: &Rows<'_>, row: usize, column: c_int) {
    if let Some((key, candidate)) = returned(rows, row, column) {
        notes::locked(&key, candidate);
    }
}

/// The rows of a queue in the order of claims, from a key on, running ones and scheduled ones among them.
pub(super) struct ReadyRows<'t> {
    scan: Scan<'t>,
    queue: i32,
    /// The conditions that come next: first the rest of the key's own run_at, then of its priority, then all behind.
    then: [Option<[heap::Key; 4]>; 2],
}

impl<'t> ReadyRows<'t> {
    /// None when the index cannot be used now.
    pub(super) fn open(jobs: &'t Table, queue: i32, from: Key) -> Option<ReadyRows<'t>> {
        let [at, behind, lower] = Self::conditions(queue, from);
        let (first, then) = if from.rank == i32::MIN { (lower, [None, None]) } else { (at, [Some(behind), Some(lower)]) };
        Some(ReadyRows { scan: jobs.scan(&READY, &first)?, queue, then })
    }

    fn conditions(queue: i32, from: Key) -> [[heap::Key; 4]; 3] {
        let queue = heap::Key::int_is(1, queue);
        // What no priority reaches is as good as the end of the range.
        let rank = i16::try_from(from.rank).unwrap_or(if from.rank < 0 { i16::MIN } else { i16::MAX });
        let (priority, run_at) = (heap::Key::smallint_is(2, rank), Timestamp(from.run_at));
        let lower = heap::Key::smallint_is_above(2, rank);
        let behind = heap::Key::timestamp_is_above(3, run_at);
        let rest = heap::Key::uuid_is_at_least(4, Uuid::from_u128(from.id));
        // As many conditions each time; the same one twice is one.
        [
            [queue, priority, heap::Key::timestamp_is(3, run_at), rest],
            [queue, priority, behind, behind],
            [queue, lower, lower, lower],
        ]
    }

    /// Goes on to the next row; false when there is none.
    pub(super) fn advance(&mut self) -> bool {
        loop {
            if self.scan.advance() {
                return true;
            }
            let [next, last] = self.then;
            let Some(conditions) = next.or(last) else { return false };
            self.then = [next.and(last), None];
            self.scan.restart(&conditions);
        }
    }

    pub(super) fn row(&self) -> Row<'_> {
        self.scan.row()
    }

    /// Goes on behind all rows of this priority.
    pub(super) fn skip_priority(&mut self, priority: i32) {
        let [_, _, lower] = Self::conditions(self.queue, Key { rank: priority, ..Key::MIN });
        self.then = [None, None];
        self.scan.restart(&lower);
    }
}

/// What was read: candidates, and the key up to which these are all.
struct Read {
    rows: Vec<Candidate>,
    next: Key,
}

/// Up to where a reading vouches for having found all.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Vouch {
    /// Not past a job that is ahead of its time since the clock was set back, and that is on no side therefore. (One that is behind a
    /// scheduled job of its priority is not seen: it is for a sweep, once its time has come.)
    BeforeStranded,
    ForReady,
}

/// What part of an index to read.
struct Range {
    from: Key,
    before: Key,
    /// Candidates to find, and rows to look at for them.
    limit: usize,
    looks: usize,
}

/// Ready jobs. None when the index cannot be used now.
fn read_ready(jobs: &Table, queue: i32, range: &Range, now: i64, vouch: Vouch) -> Option<Read> {
    let Range { from, before, limit, looks } = *range;
    let mut read = Read { rows: Vec::new(), next: before };
    let mut looked = 0usize;
    let mut ready = ReadyRows::open(jobs, queue, from)?;
    while ready.advance() {
        pg::server::check_for_interrupts();
        looked = looked.saturating_add(1);
        let row = ready.row();
        let candidate = candidate_of(&row);
        if candidate.ready_key() >= before {
            break;
        }
        let stranded = vouch == Vouch::BeforeStranded && row.boolean(job::scheduled) == Some(false);
        if read.rows.len() >= limit || looked > looks || (candidate.run_at > now && stranded) {
            read.next = candidate.ready_key();
            break;
        }
        if candidate.run_at > now {
            ready.skip_priority(candidate.priority);
        } else if row.letter(job::state) == Some(b'p') {
            read.rows.push(candidate);
        }
    }
    Some(read)
}

/// Jobs in the order in which they fall due. None when the index cannot be used now.
fn read_due(jobs: &Table, queue: i32, range: &Range) -> Option<Read> {
    let Range { from, before, limit, looks } = *range;
    let mut read = Read { rows: Vec::new(), next: before };
    let mut looked = 0usize;
    let (queue, run_at) = (heap::Key::int_is(1, queue), Timestamp(from.run_at));
    let rest = heap::Key::uuid_is_at_least(3, Uuid::from_u128(from.id));
    let behind = heap::Key::timestamp_is_above(2, run_at);
    let mut scan = jobs.scan(&SCHEDULED, &[queue, heap::Key::timestamp_is(2, run_at), rest])?;
    let mut is_behind = false;
    loop {
        pg::server::check_for_interrupts();
        if !scan.advance() {
            if std::mem::replace(&mut is_behind, true) {
                return Some(read);
            }
            scan.restart(&[queue, behind, behind]);
            continue;
        }
        looked = looked.saturating_add(1);
        let row = scan.row();
        let candidate = candidate_of(&row);
        if candidate.due_key() >= before {
            return Some(read);
        }
        if read.rows.len() >= limit || looked > looks {
            read.next = candidate.due_key();
            return Some(read);
        }
        if row.letter(job::state) == Some(b'p') {
            read.rows.push(candidate);
        }
    }
}

/// Reads the next candidates of a queue into shared memory. False when nothing came of it: somebody else is at it, there is no room,
/// or the index cannot be used now.
pub fn refill(jobs: &Table, key: &QueueKey, side: Side) -> Result<bool, Error> {
    let Some(refill) = stripes::begin(key, side) else { return Ok(false) };
    notes::refill_begins(refill);
    look_again();
    let range = Range { from: refill.from, before: Key::MAX, limit: REFILL_ROWS, looks: REFILL_LOOKS };
    let read = match side {
        Side::Ready => read_ready(jobs, key.queue, &range, refill.now, Vouch::BeforeStranded),
        Side::Due => read_due(jobs, key.queue, &range),
    };
    let more = match read {
        Some(read) => stripes::end(&refill, &read.rows, read.next),
        None => {
            stripes::abandon(&refill);
            false
        }
    };
    notes::refill_ended();
    Ok(more)
}

/// Refills every side that is low: how many got further.
pub fn refill_all() -> Result<usize, Error> {
    let mut refilled = 0usize;
    for stripes::Known { key, low, .. } in stripes::known_queues() {
        let Some(side) = low else { continue };
        let done =
            direct([jobs(Use::Read)], |[jobs]| Ok(Some(jobs.oid().to_u32() == key.installation && refill(jobs, &key, side)?)))?;
        refilled = refilled.saturating_add(usize::from(done == Some(true)));
    }
    Ok(refilled)
}

/// Offers all jobs that the dispatcher should know of. What no transaction has offered is found: restores, logical replication, rows
/// changed by hand.
pub struct Sweep {
    /// What is still to be read.
    parts: Vec<Part>,
}

/// One side of a queue, from a key on and before another one.
struct Part {
    key: QueueKey,
    side: Side,
    from: Key,
    before: Key,
}

impl Sweep {
    pub fn begin() -> Sweep {
        // Their snapshots may be older than what this sweep is to find.
        stripes::interrupt_refills();
        let mut parts = Vec::new();
        for known in stripes::known_queues() {
            for (side, before) in [(Side::Ready, known.ready), (Side::Due, known.due)] {
                parts.push(Part { key: known.key, side, from: Key::MIN, before });
            }
        }
        Sweep { parts }
    }

    /// Reads on with a snapshot of its own; false when there is no more.
    pub fn go_on(&mut self) -> Result<bool, Error> {
        const ROWS: usize = 4_096;
        let Some(part) = self.parts.last_mut() else { return Ok(false) };
        let read = direct([jobs(Use::Read)], |[jobs]| {
            if jobs.oid().to_u32() != part.key.installation {
                return Ok(None);
            }
            let (queue, now) = (part.key.queue, pg::server::wall_clock_micros());
            let range = Range { from: part.from, before: part.before, limit: ROWS, looks: usize::MAX };
            Ok(match part.side {
                Side::Ready => read_ready(jobs, queue, &range, now, Vouch::ForReady),
                Side::Due => read_due(jobs, queue, &range),
            })
        })?;
        if let Some(read) = &read {
            stripes::sweep(&part.key, &read.rows);
            part.from = read.next;
        }
        if read.is_none() || part.from >= part.before {
            self.parts.pop();
        }
        Ok(true)
    }

    /// All of it at once.
    pub fn run(mut self) -> Result<(), Error> {
        while self.go_on()? {}
        Ok(())
    }
}
