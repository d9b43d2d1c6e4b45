//! What a transaction has changed and not told yet: sums by key, each subtransaction's apart, so that what is undone is taken back.

/// What there is more of, or less.
pub trait Sum: Copy {
    fn add(&mut self, other: &Self);
}

impl Sum for i64 {
    fn add(&mut self, other: &i64) {
        *self = self.saturating_add(*other);
    }
}

#[derive(Clone, Copy)]
struct Note<K, S> {
    key: K,
    sum: S,
    subtransaction: u32,
}

/// The notes of inner subtransactions stand behind those of outer ones: while one is open, those around it change nothing.
pub struct Ledger<K, S, const N: usize> {
    notes: [Note<K, S>; N],
    count: usize,
    is_lost: bool,
}

impl<K: Copy + PartialEq, S: Sum, const N: usize> Ledger<K, S, N> {
    /// An empty one; its places have to hold something.
    pub const fn new(key: K, sum: S) -> Self {
        Ledger { notes: [Note { key, sum, subtransaction: 0 }; N], count: 0, is_lost: false }
    }

    pub fn add(&mut self, key: &K, sum: &S, subtransaction: u32) {
        self.note(Note { key: *key, sum: *sum, subtransaction });
    }

    fn note(&mut self, new: Note<K, S>) {
        let is_same = |note: &&mut Note<K, S>| note.subtransaction == new.subtransaction && note.key == new.key;
        if let Some(note) = self.notes.iter_mut().take(self.count).find(is_same) {
            note.sum.add(&new.sum);
        } else if let Some(place) = self.notes.get_mut(self.count) {
            *place = new;
            self.count = self.count.saturating_add(1);
        } else {
            self.is_lost = true;
        }
    }

    /// More changes than can be noted.
    pub fn lose(&mut self) {
        self.is_lost = true;
    }

    /// Is it not all that was changed?
    pub fn is_lost(&self) -> bool {
        self.is_lost
    }

    /// A subtransaction is undone. Numbers of subtransactions grow: its own ones come behind it.
    pub fn undo(&mut self, subtransaction: u32) {
        self.count = self.first_of(subtransaction);
    }

    /// What a subtransaction has changed is its parent's from here on.
    pub fn pass_on(&mut self, subtransaction: u32, parent: u32) {
        let (first, count) = (self.first_of(subtransaction), self.count);
        self.count = first;
        for at in first..count {
            if let Some(note) = self.notes.get(at).copied() {
                self.note(Note { subtransaction: parent, ..note });
            }
        }
    }

    fn first_of(&self, subtransaction: u32) -> usize {
        let first = self.notes.iter().take(self.count).position(|note| note.subtransaction >= subtransaction);
        first.unwrap_or(self.count)
    }

    /// The transaction is over.
    pub fn clear(&mut self) {
        self.count = 0;
        self.is_lost = false;
    }

    pub fn iter(&self) -> impl Iterator<Item = (&K, &S)> {
        self.notes.iter().take(self.count).map(|note| (&note.key, &note.sum))
    }
}
