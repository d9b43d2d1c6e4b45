//! Who waits for a job of which queue, in the order in which they came.
//!
//! A waiter stands in the line of each of its queues. An event wakes the first one in the line that can use it: he leaves the line, is
//! marked as woken, and takes up his old place when he looks again. When he leaves for good, with a job or without, whatever is left
//! is for the next one to look at (`Stripe::pass_on`).

/// Kinds that a waiter can name; one that wants more must look by itself from time to time.
pub const KINDS: usize = 16;

/// One waiter in one line. Links are numbers from 1; 0 is none. Zeroed: free.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Waiter {
    /// Whom to wake; 0: the place is free.
    owner: u64,
    /// Lines are in this order.
    ticket: u64,
    kinds: [u32; KINDS],
    /// 0: any kind.
    kind_count: u32,
    /// Also the link of the list of free places.
    next: u32,
    previous: u32,
    woken: bool,
    /// He was woken since he last went to sleep: what he does not use is for others.
    owes: bool,
}

impl Waiter {
    pub const EMPTY: Waiter =
        Waiter { owner: 0, ticket: 0, kinds: [0; KINDS], kind_count: 0, next: 0, previous: 0, woken: false, owes: false };

    pub fn wants(&self, kind: u32) -> bool {
        self.kind_count == 0 || self.kinds.iter().take(self.kind_count as usize).any(|wanted| *wanted == kind)
    }

    pub fn wants_any(&self) -> bool {
        self.kind_count == 0
    }

    /// Did he come later than the one with this ticket?
    pub fn is_behind(&self, ticket: u64) -> bool {
        self.ticket > ticket
    }
}

/// The line of one queue. Zeroed: nobody.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub struct Line {
    first: u32,
    last: u32,
    /// In the line, or woken and about to look.
    pub count: u32,
}

impl Line {
    pub const EMPTY: Line = Line { first: 0, last: 0, count: 0 };
}

/// Places for the waiters of many lines. Zeroed numbers are those of a room in which nobody is.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub struct Places {
    first_free: u32,
    touched: u32,
    tickets: u64,
}

pub struct Room<'m> {
    pub waiters: &'m mut [Waiter],
    pub places: &'m mut Places,
}

impl Room<'_> {
    pub fn at(&self, n: u32) -> Waiter {
        self.waiters.get((n as usize).wrapping_sub(1)).copied().unwrap_or(Waiter::EMPTY)
    }

    fn change(&mut self, n: u32, change: impl FnOnce(&mut Waiter)) {
        if let Some(waiter) = self.waiters.get_mut((n as usize).wrapping_sub(1)) {
            change(waiter);
        }
    }

    /// Joins the end of a line; None when there is no place.
    pub fn join(&mut self, line: &mut Line, owner: u64, kinds: &[u32]) -> Option<u32> {
        let n = match self.places.first_free {
            0 if (self.places.touched as usize) < self.waiters.len() => {
                self.places.touched = self.places.touched.saturating_add(1);
                self.places.touched
            }
            0 => return None,
            free => {
                self.places.first_free = self.at(free).next;
                free
            }
        };
        self.places.tickets = self.places.tickets.saturating_add(1);
        let mut waiter =
            Waiter { owner, ticket: self.places.tickets, kind_count: kinds.len().min(KINDS) as u32, ..Waiter::EMPTY };
        waiter.kinds.iter_mut().zip(kinds).for_each(|(place, kind)| *place = *kind);
        self.change(n, |place| *place = waiter);
        line.count = line.count.saturating_add(1);
        self.line_up(line, n);
        Some(n)
    }

    /// Puts a waiter where his ticket says.
    fn line_up(&mut self, line: &mut Line, n: u32) {
        let ticket = self.at(n).ticket;
        let (mut before, mut behind) = (line.last, 0);
        if before != 0 && self.at(before).ticket > ticket {
            // He came long ago: he belongs near the front.
            (before, behind) = (0, line.first);
            while behind != 0 && self.at(behind).ticket < ticket {
                (before, behind) = (behind, self.at(behind).next);
            }
        }
        self.change(n, |waiter| (waiter.previous, waiter.next, waiter.woken) = (before, behind, false));
        self.link(line, before, behind, n, n);
    }

    /// What comes behind `before`, and what before `behind`; the ends of the line where these are 0.
    fn link(&mut self, line: &mut Line, before: u32, behind: u32, next: u32, previous: u32) {
        if before == 0 {
            line.first = next;
        } else {
            self.change(before, |waiter| waiter.next = next);
        }
        if behind == 0 {
            line.last = previous;
        } else {
            self.change(behind, |waiter| waiter.previous = previous);
        }
    }

    fn step_out(&mut self, line: &mut Line, n: u32) {
        let Waiter { previous, next, .. } = self.at(n);
        self.link(line, previous, next, next, previous);
    }

    /// Is this place his? Not when everything was forgotten since he joined.
    pub fn is_at(&self, n: u32, owner: u64) -> bool {
        owner != 0 && self.at(n).owner == owner
    }

    /// A woken waiter is about to look: he takes up his old place.
    pub fn rejoin(&mut self, line: &mut Line, n: u32) {
        if self.is_woken(n) {
            self.line_up(line, n);
            self.change(n, |waiter| waiter.owes = true);
        }
    }

    pub fn is_woken(&self, n: u32) -> bool {
        self.at(n).woken
    }

    /// He has found nothing: his ticket, if he owes it to others that they look.
    pub fn lie_down(&mut self, n: u32) -> Option<u64> {
        let Waiter { ticket, owes, woken, .. } = self.at(n);
        self.change(n, |waiter| waiter.owes = false);
        (owes && !woken).then_some(ticket)
    }

    /// Leaves for good.
    pub fn leave(&mut self, line: &mut Line, n: u32) {
        if !self.is_woken(n) {
            self.step_out(line, n);
        }
        line.count = line.count.saturating_sub(1);
        let first_free = self.places.first_free;
        self.change(n, |waiter| *waiter = Waiter { next: first_free, ..Waiter::EMPTY });
        self.places.first_free = n;
    }

    /// Wakes the first one in the line that is `fit`: whom.
    pub fn wake(&mut self, line: &mut Line, fit: impl Fn(&Waiter) -> bool) -> Option<u64> {
        let mut n = line.first;
        while n != 0 {
            let waiter = self.at(n);
            if fit(&waiter) {
                self.step_out(line, n);
                self.change(n, |waiter| waiter.woken = true);
                return Some(waiter.owner);
            }
            n = waiter.next;
        }
        None
    }
}

/// Whom to wake when the lock has been released. Full: nobody else is woken for now, and those who are will pass it on.
pub struct Wakes {
    owners: [u64; 64],
    count: usize,
}

impl Wakes {
    pub fn none() -> Wakes {
        Wakes { owners: [0; 64], count: 0 }
    }

    pub fn is_full(&self) -> bool {
        self.count >= self.owners.len()
    }

    pub fn add(&mut self, owner: u64) {
        if let Some(place) = self.owners.get_mut(self.count) {
            *place = owner;
            self.count = self.count.saturating_add(1);
        }
    }

    pub fn owners(&self) -> &[u64] {
        self.owners.get(..self.count).unwrap_or_default()
    }
}
