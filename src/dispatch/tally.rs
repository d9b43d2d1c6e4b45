//! How many jobs each queue has, and how many finished lately, kept up by the transactions that change it.
//!
//! Now and then the tables are counted: `begin`, then `end` with what was counted. A transaction that the count's snapshot does not
//! see is added to the new numbers, too, while the count is under way; one that it sees is in what it counts, and is not to be added
//! any more when the count is over.
//!
//! Zeroed memory is a valid empty table.

use super::stripe::QueueKey;

/// Quarters of an hour that finished jobs are told apart by; older ones are forgotten. All time zones of today begin their days with one.
pub const SPANS: usize = 128;
pub const SPAN_MICROS: i64 = 900_000_000;

/// The span of a moment (microseconds since 2000-01-01).
pub fn span(micros: i64) -> i64 {
    micros.div_euclid(SPAN_MICROS)
}

/// What there are more or fewer of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// Pending and running jobs.
    Unfinished,
    /// Failed jobs that are kept, by the span in which they failed.
    Failed(i64),
    /// Completed jobs that are kept, by the span in which they were completed.
    Completed(i64),
}

#[derive(Clone, Copy)]
#[repr(C)]
struct Numbers {
    unfinished: i64,
    failed: i64,
    /// The latest span there is a number for.
    newest: i64,
    failed_in: [i32; SPANS],
    completed_in: [i32; SPANS],
}

const LENGTH: i64 = SPANS as i64;

fn place(span: i64) -> usize {
    span.rem_euclid(LENGTH) as usize
}

impl Numbers {
    const NONE: Numbers = Numbers { unfinished: 0, failed: 0, newest: 0, failed_in: [0; SPANS], completed_in: [0; SPANS] };

    fn is_none(&self) -> bool {
        let is_empty = |numbers: &[i32]| numbers.iter().all(|number| *number == 0);
        self.unfinished == 0 && self.failed == 0 && is_empty(&self.failed_in) && is_empty(&self.completed_in)
    }

    /// Forgets what was in the places that come into use again.
    fn reach(&mut self, span: i64) {
        let first = self.newest.saturating_add(1).max(span.saturating_sub(LENGTH.saturating_sub(1)));
        for place in (first..=span).map(place) {
            for numbers in [&mut self.failed_in, &mut self.completed_in] {
                if let Some(number) = numbers.get_mut(place) {
                    *number = 0;
                }
            }
        }
        self.newest = self.newest.max(span);
    }

    fn add(&mut self, what: What, n: i64) {
        let (numbers, span) = match what {
            What::Unfinished => {
                self.unfinished = self.unfinished.saturating_add(n);
                return;
            }
            What::Failed(span) => {
                self.failed = self.failed.saturating_add(n);
                self.reach(span);
                (&mut self.failed_in, span)
            }
            What::Completed(span) => {
                self.reach(span);
                (&mut self.completed_in, span)
            }
        };
        if let Some(number) = numbers.get_mut(place(span)).filter(|_| span > self.newest.saturating_sub(LENGTH)) {
            *number = number.saturating_add(i32::try_from(n).unwrap_or(i32::MAX));
        }
    }

    fn told(&self, since: i64) -> Told {
        let first = since.max(self.newest.saturating_sub(LENGTH.saturating_sub(1)));
        let sum = |numbers: &[i32]| -> i64 {
            let spans = first..=self.newest;
            spans.filter_map(|span| numbers.get(place(span))).map(|number| i64::from(*number)).fold(0, i64::saturating_add)
        };
        Told {
            unfinished: self.unfinished,
            failed: self.failed,
            failed_since: sum(&self.failed_in),
            completed_since: sum(&self.completed_in),
        }
    }
}

/// What is known of a queue.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Told {
    pub unfinished: i64,
    pub failed: i64,
    /// Since the span that was asked for.
    pub failed_since: i64,
    pub completed_since: i64,
}

impl Told {
    /// With what is not added yet.
    pub fn add(&mut self, what: What, n: i64, since: i64) {
        match what {
            What::Unfinished => self.unfinished = self.unfinished.saturating_add(n),
            What::Failed(span) => {
                self.failed = self.failed.saturating_add(n);
                self.failed_since = self.failed_since.saturating_add(if span >= since { n } else { 0 });
            }
            What::Completed(span) => {
                self.completed_since = self.completed_since.saturating_add(if span >= since { n } else { 0 });
            }
        }
    }
}

/// The numbers of one queue, and those of the count that is under way.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Tally {
    known: Numbers,
    fresh: Numbers,
}

impl Tally {
    pub const NONE: Tally = Tally { known: Numbers::NONE, fresh: Numbers::NONE };
}

/// Database 0: the place is free.
pub const NO_QUEUE: QueueKey = QueueKey { database: 0, installation: 0, queue: 0 };

pub struct Tallies<'m> {
    /// As many as tallies.
    pub keys: &'m mut [QueueKey],
    pub tallies: &'m mut [Tally],
}

impl Tallies<'_> {
    fn entry(&mut self, key: &QueueKey) -> Option<&mut Tally> {
        let at = match self.keys.iter().position(|other| other == key) {
            Some(at) => at,
            None => {
                let at = self.keys.iter().position(|other| *other == NO_QUEUE)?;
                *self.keys.get_mut(at)? = *key;
                *self.tallies.get_mut(at)? = Tally::NONE;
                at
            }
        };
        self.tallies.get_mut(at)
    }

    /// There are so many more of something (or fewer). `unseen`: a count is under way that does not see it. False without a place.
    pub fn add(&mut self, key: &QueueKey, what: What, n: i64, unseen: bool) -> bool {
        let Some(tally) = self.entry(key) else { return false };
        tally.known.add(what, n);
        if unseen {
            tally.fresh.add(what, n);
        }
        true
    }

    pub fn tell(&self, key: &QueueKey, since: i64) -> Told {
        let at = self.keys.iter().position(|other| other == key);
        at.and_then(|at| self.tallies.get(at)).map_or_else(Told::default, |tally| tally.known.told(since))
    }

    /// A count of this database begins.
    pub fn begin(&mut self, database: u32) {
        for (_, tally) in self.of(database) {
            tally.fresh = Numbers::NONE;
        }
    }

    /// It has come to its end: what was counted is to be added now. Places without a number are free again.
    pub fn end(&mut self, database: u32) {
        for (key, tally) in self.of(database) {
            tally.known = tally.fresh;
            if tally.known.is_none() {
                *key = NO_QUEUE;
            }
        }
    }

    /// Frees the places of other databases' queues.
    pub fn keep_only(&mut self, exists: impl Fn(u32) -> bool) {
        for key in self.keys.iter_mut().filter(|key| !exists(key.database)) {
            *key = NO_QUEUE;
        }
    }

    fn of(&mut self, database: u32) -> impl Iterator<Item = (&mut QueueKey, &mut Tally)> {
        self.keys.iter_mut().zip(self.tallies.iter_mut()).filter(move |(key, _)| key.database == database)
    }
}
