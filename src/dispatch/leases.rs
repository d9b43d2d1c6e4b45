//! Leases that are kept by heartbeats: until when each one holds, without a write to the heap.
//!
//! A lease has a place here once its holder has sent a heartbeat, or from the claim on if it is bound to a session. It counts only
//! while its job's row names the same lease. A lease without a place holds as long as its row says.
//!
//! Times are microseconds of a clock that nobody sets, but for `seen_at`, which is the wall clock's.

/// Which job of which installation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct JobKey {
    pub database: u32,
    /// The oid of its job table.
    pub installation: u32,
    pub id: u128,
}

impl JobKey {
    /// Ids are random at their end.
    fn hash(&self) -> usize {
        (self.id as u64 ^ (self.id >> 64) as u64) as usize ^ self.database as usize
    }
}

/// One lease. Zeroed: a free place.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct Lease {
    pub key: JobKey,
    /// 0: the place is free.
    pub lease: i64,
    pub expires_at: i64,
    pub seen_at: i64,
    /// The length it was claimed with, in ms: a heartbeat that asks for more is for the row.
    pub length_ms: i64,
    /// Below 0: never told.
    pub progress: f64,
    /// The process whose end releases the job; 0: none.
    pub holder: i32,
    /// The subtransaction of the holder that has claimed the job and is not committed; 0: it is.
    pub claiming: u32,
    /// The process that is about to take the job away; 0: nobody.
    pub rescuer: i32,
    /// It has a place only so that no heartbeat gives it one meanwhile.
    pub reserved: bool,
    /// The count of cancellations when the row was last read.
    pub cancels: u32,
    pub cancel_requested: bool,
    /// Its holder is gone.
    pub released: bool,
    /// The next one of its chain, or of the free places.
    pub next: u32,
}

impl Lease {
    /// Does it hold, although by its row it has ended (`expired`), or its holder has not been seen since then?
    pub fn is_kept(&self, now: i64, expired: bool, not_seen_since: Option<i64>) -> bool {
        let silent = not_seen_since.is_some_and(|since| self.seen_at < since);
        let expired = expired && self.expires_at <= now;
        !expired && !silent && !self.released && !self.reserved
    }
}

/// What a heartbeat found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// The lease was extended. Was cancellation asked for?
    Yes { cancel_requested: bool },
    /// The lease was extended, but jobs have been cancelled since the row was read.
    Unsure,
    /// It is for the row to say.
    No,
    /// The session that it was bound to has ended.
    Released,
    /// The lease has no place.
    Missing,
}

/// What a heartbeat says.
#[derive(Debug, Clone, Copy)]
pub struct Sign {
    pub now: i64,
    pub seen_at: i64,
    /// None: as long as it was claimed with.
    pub length_ms: Option<i64>,
    pub progress: Option<f64>,
    /// The count of cancellations by now.
    pub cancels: u32,
}

/// Zeroed: all places are free.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub struct Used {
    first_free: u32,
    touched: u32,
    pub count: u32,
    pub released: u32,
}

pub struct Leases<'m> {
    /// As many as places: the first one of each chain, from 1; 0 is none.
    pub chains: &'m mut [u32],
    pub places: &'m mut [Lease],
    pub used: &'m mut Used,
}

impl Leases<'_> {
    fn chain(&self, key: &JobKey) -> usize {
        key.hash().checked_rem(self.chains.len()).unwrap_or(0)
    }

    /// The number of the place of this job.
    fn number(&self, key: &JobKey) -> Option<u32> {
        let mut n = self.chains.get(self.chain(key)).copied().unwrap_or(0);
        while let Some(place) = self.places.get((n as usize).wrapping_sub(1)) {
            if place.lease != 0 && place.key == *key {
                return Some(n);
            }
            n = place.next;
        }
        None
    }

    fn at(&mut self, n: u32) -> Option<&mut Lease> {
        self.places.get_mut((n as usize).wrapping_sub(1))
    }

    /// The place of this lease of this job.
    pub fn find(&mut self, key: &JobKey, lease: i64) -> Option<&mut Lease> {
        let n = self.number(key)?;
        self.at(n).filter(|place| place.lease == lease)
    }

    /// Gives a lease a place, that of an older lease of the job if there is one. False: none is free, or this lease or a later one has
    /// a place.
    pub fn add(&mut self, new: Lease) -> bool {
        if let Some(n) = self.number(&new.key) {
            if self.at(n).is_some_and(|place| place.lease >= new.lease) {
                return false;
            }
            self.forget(&new.key);
        }
        let n = match self.used.first_free {
            0 if (self.used.touched as usize) < self.places.len() => {
                self.used.touched = self.used.touched.saturating_add(1);
                self.used.touched
            }
            0 => return false,
            free => {
                self.used.first_free = self.at(free).map_or(0, |place| place.next);
                free
            }
        };
        let chain = self.chain(&new.key);
        let Some(first) = self.chains.get_mut(chain) else { return false };
        let next = std::mem::replace(first, n);
        if let Some(place) = self.at(n) {
            *place = Lease { next, ..new };
        }
        self.used.count = self.used.count.saturating_add(1);
        true
    }

    fn forget(&mut self, key: &JobKey) {
        let Some(gone) = self.number(key) else { return };
        let chain = self.chain(key);
        let Some(place) = self.at(gone).copied() else { return };
        let first = self.chains.get(chain).copied().unwrap_or(0);
        if first == gone {
            if let Some(link) = self.chains.get_mut(chain) {
                *link = place.next;
            }
        } else {
            let mut n = first;
            while let Some(other) = self.at(n) {
                if other.next == gone {
                    other.next = place.next;
                    break;
                }
                n = other.next;
            }
        }
        let first_free = self.used.first_free;
        if let Some(empty) = self.at(gone) {
            *empty = Lease { next: first_free, ..Lease::default() };
        }
        self.used.first_free = gone;
        self.used.count = self.used.count.saturating_sub(1);
        self.used.released = self.used.released.saturating_sub(u32::from(place.released));
    }

    /// The lease is over.
    pub fn end(&mut self, key: &JobKey, lease: i64) {
        if self.find(key, lease).is_some() {
            self.forget(key);
        }
    }

    /// A heartbeat.
    pub fn keep(&mut self, key: &JobKey, lease: i64, sign: &Sign) -> Kept {
        let Some(place) = self.find(key, lease) else { return Kept::Missing };
        let length_ms = sign.length_ms.unwrap_or(place.length_ms);
        if place.released {
            return Kept::Released;
        }
        if place.rescuer != 0 || length_ms > place.length_ms {
            return Kept::No;
        }
        place.expires_at = place.expires_at.max(sign.now.saturating_add(length_ms.saturating_mul(1_000)));
        place.seen_at = place.seen_at.max(sign.seen_at);
        place.progress = sign.progress.unwrap_or(place.progress);
        if place.cancels == sign.cancels { Kept::Yes { cancel_requested: place.cancel_requested } } else { Kept::Unsure }
    }

    /// Before the job is taken from a holder whose lease has ended by its row (`expired`), or who by its row has not been seen since
    /// then. False: the lease holds. Else its heartbeats go to the row from now on.
    pub fn is_lost(
        &mut self,
        key: &JobKey,
        lease: i64,
        now: i64,
        expired: bool,
        not_seen_since: Option<i64>,
        rescuer: i32,
    ) -> bool {
        let Some(place) = self.find(key, lease) else {
            // A first heartbeat must not give it one meanwhile.
            self.add(Lease { key: *key, lease, rescuer, reserved: true, ..Lease::default() });
            return true;
        };
        // Somebody else is at it: what becomes of it shows when he is done.
        if place.is_kept(now, expired, not_seen_since) || (place.rescuer != 0 && place.rescuer != rescuer) {
            return false;
        }
        place.rescuer = rescuer;
        true
    }

    /// What a process wanted to take away it has taken, or has not.
    pub fn rescuer_is_done(&mut self, rescuer: i32) {
        for n in 1..=self.used.touched {
            let Some(place) = self.at(n).filter(|place| place.lease != 0 && place.rescuer == rescuer) else { continue };
            place.rescuer = 0;
            if place.reserved {
                let key = place.key;
                self.forget(&key);
            }
        }
    }

    /// Frees the places of jobs for which this is so.
    pub fn forget_all(&mut self, gone: impl Fn(&JobKey) -> bool) {
        for n in 1..=self.used.touched {
            if let Some(key) = self.at(n).filter(|place| place.lease != 0 && gone(&place.key)).map(|place| place.key) {
                self.forget(&key);
            }
        }
    }

    /// A process ends: its jobs are to be taken away. How many.
    pub fn release(&mut self, holder: i32) -> usize {
        let held = self.places.iter_mut().filter(|place| place.lease != 0 && place.holder == holder && !place.released);
        let count = held.map(|place| place.released = true).count();
        self.used.released = self.used.released.saturating_add(u32::try_from(count).unwrap_or(u32::MAX));
        count
    }

    /// The claims of a process that are not committed: from this subtransaction on they are undone, or all are committed.
    pub fn claims_end(&mut self, holder: i32, undone_from: Option<u32>) {
        for n in 1..=self.used.touched {
            let Some(place) = self.at(n).filter(|place| place.lease != 0 && place.holder == holder && place.claiming != 0) else {
                continue;
            };
            match undone_from {
                None => place.claiming = 0,
                Some(first) if place.claiming >= first => {
                    let key = place.key;
                    self.forget(&key);
                }
                Some(_) => {}
            }
        }
    }
}
