//! What a transaction remembers for its end, as src/pg/notes.rs does.

use crate::dispatch::Key;
use crate::heap::Version;

#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub struct When {
    pub commit: bool,
    pub abort: bool,
}

#[derive(Clone, Hash)]
pub struct Note {
    pub queue: u8,
    pub job: Version,
    pub sub: u32,
    pub when: When,
}

#[derive(Clone, Copy, Hash)]
pub struct Begin {
    pub ready: Key,
    pub due: Key,
}

impl Begin {
    const NOWHERE: Begin = Begin { ready: Key::MAX, due: Key::MAX };

    fn include(&mut self, other: &Begin) {
        self.ready = self.ready.min(other.ready);
        self.due = self.due.min(other.due);
    }
}

/// Where the jobs of one queue begin that were too many.
#[derive(Clone, Hash)]
pub struct Crowd {
    pub queue: u8,
    pub commit: Begin,
    pub abort: Begin,
}

#[derive(Clone, Hash, Default)]
pub struct Notes {
    pub list: Vec<Note>,
    pub crowds: Vec<Crowd>,
    /// Rows in a crowd that were ready when they were noted: for the due side nobody lets go of them.
    pub ready_in_crowd: Vec<u8>,
    pub made_ready: bool,
}

/// The place of a note.
pub type Place = Option<usize>;

impl Notes {
    /// `limit`: more than that are a crowd.
    pub fn add(&mut self, job: &Version, sub: u32, when: When, now: i64, limit: usize) -> Place {
        if self.list.len() < limit {
            self.list.push(Note { queue: job.queue, job: *job, sub, when });
            return Some(self.list.len() - 1);
        }
        let candidate = job.candidate();
        let due = if job.run_at > now { candidate.due_key() } else { Key::MAX };
        if job.run_at <= now {
            self.ready_in_crowd.push(job.row() as u8);
        }
        self.crowd(job.queue, Begin { ready: candidate.ready_key(), due }, when);
        None
    }

    /// Nothing is to be known of this queue when the transaction has ended.
    pub fn forget(&mut self, queue: u8) {
        self.crowd(queue, Begin { ready: Key::MIN, due: Key::MIN }, When { commit: true, abort: true });
    }

    fn crowd(&mut self, queue: u8, begin: Begin, when: When) {
        let at = self.crowds.iter().position(|crowd| crowd.queue == queue).unwrap_or_else(|| {
            self.crowds.push(Crowd { queue, commit: Begin::NOWHERE, abort: Begin::NOWHERE });
            self.crowds.len() - 1
        });
        if when.commit {
            self.crowds[at].commit.include(&begin);
        }
        if when.abort {
            self.crowds[at].abort.include(&begin);
        }
    }

    pub fn not_taken(&mut self, place: Place) {
        let Some(at) = place else { return };
        self.list[at].when = When::default();
        if at + 1 == self.list.len() {
            self.list.pop();
        }
    }

    /// The jobs of the first queue that are to be offered at this end, which are done with then.
    pub fn next_offers(&mut self, wanted: impl Fn(&Note) -> bool) -> Option<(u8, Vec<Version>)> {
        let queue = self.list.iter().find(|note| wanted(note))?.queue;
        let mut jobs = Vec::new();
        for note in self.list.iter_mut().filter(|note| note.queue == queue) {
            if wanted(note) {
                jobs.push(note.job);
                note.when = When::default();
            }
        }
        Some((queue, jobs))
    }
}
