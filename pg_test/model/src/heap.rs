//! The job table as transactions see it: one committed version of each row, at most one holder of its lock.

use crate::dispatch::{Candidate, Key};

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum State {
    Absent,
    Ready,
    Running,
    Gone,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Version {
    pub state: State,
    pub id: u32,
    pub queue: u8,
    pub priority: i32,
    pub run_at: i64,
    pub kind: u32,
    /// It is in the index of jobs that fall due.
    pub scheduled: bool,
}

/// Rows are used again for later jobs: the id tells them apart.
pub const ROWS: u32 = 64;

impl Version {
    pub fn candidate(&self) -> Candidate {
        Candidate { priority: self.priority, run_at: self.run_at, id: u128::from(self.id), kind: self.kind }
    }

    /// A candidate as a note keeps it.
    pub fn of(candidate: &Candidate, queue: u8) -> Version {
        Version {
            state: State::Ready,
            id: candidate.id as u32,
            queue,
            priority: candidate.priority,
            run_at: candidate.run_at,
            kind: candidate.kind,
            scheduled: false,
        }
    }

    pub fn row(&self) -> usize {
        (self.id % ROWS) as usize
    }

    pub fn is_ready(&self) -> bool {
        self.state == State::Ready
    }

    /// A letter and, for a later job in the same row, a number.
    pub fn name(&self) -> String {
        let letter = char::from(b'a' + (self.id % ROWS) as u8);
        if self.id < ROWS { letter.to_string() } else { format!("{letter}{}", self.id / ROWS) }
    }
}

#[derive(Clone, Hash)]
pub struct Row {
    pub committed: Version,
    /// A session, or a prepared transaction.
    pub holder: Option<u8>,
    /// Made ready by somebody who tells nobody: until a sweep has offered it.
    pub untold: bool,
    /// Nobody is woken for it: it was ahead of its time because the clock was set back, or stands behind the horizon untold (K7).
    pub is_quiet: bool,
}

/// What a refill or a sweep reads.
#[derive(Clone, Default, Hash)]
pub struct Read {
    pub rows: Vec<Version>,
    pub next: Option<Key>,
}

/// store::candidates::read_ready. `vouch`: not past a job that is ahead of its time and on no side.
pub fn read_ready(view: &[Version], queue: u8, from: Key, before: Key, now: i64, limit: usize, vouch: bool) -> Read {
    let mut rows: Vec<&Version> =
        view.iter().filter(|row| row.queue == queue && matches!(row.state, State::Ready | State::Running)).collect();
    rows.sort_by_key(|row| row.candidate().ready_key());
    let mut read = Read { rows: Vec::new(), next: Some(before) };
    let mut skipped: Option<i32> = None;
    for row in rows {
        let key = row.candidate().ready_key();
        if key < from || skipped == Some(row.priority) {
            continue;
        }
        if key >= before {
            break;
        }
        if read.rows.len() >= limit || (row.run_at > now && vouch && !row.scheduled) {
            read.next = Some(key);
            break;
        }
        if row.run_at > now {
            skipped = Some(row.priority);
        } else if row.is_ready() {
            read.rows.push(*row);
        }
    }
    read
}

/// store::candidates::read_due.
pub fn read_due(view: &[Version], queue: u8, from: Key, before: Key, limit: usize) -> Read {
    let mut rows: Vec<&Version> = view
        .iter()
        .filter(|row| row.queue == queue && row.scheduled && matches!(row.state, State::Ready | State::Running))
        .collect();
    rows.sort_by_key(|row| row.candidate().due_key());
    let mut read = Read { rows: Vec::new(), next: Some(before) };
    for row in rows {
        let key = row.candidate().due_key();
        if key < from {
            continue;
        }
        if key >= before {
            break;
        }
        if read.rows.len() >= limit {
            read.next = Some(key);
            break;
        }
        if row.is_ready() {
            read.rows.push(*row);
        }
    }
    read
}
