//! The duty that takes back jobs bound to sessions that have ended, as soon as their rows are free.

use super::rescue;
use crate::pg::process::transaction;
use crate::pg::{leases, server};

/// A session that ends may hold its rows locked for another moment: tried again after these pauses, then with each tick.
const PAUSES_MS: [i64; 3] = [10, 20, 50];
const TICK_MS: i64 = 1_000;

#[derive(Default)]
pub struct Releases {
    /// By the clock that nobody sets.
    not_before: i64,
    tries: usize,
}

impl Releases {
    /// Microseconds until there is something to do; the end of time when there is not.
    pub fn due_in(&self) -> i64 {
        if leases::any_released() { self.not_before.saturating_sub(server::monotonic_micros()) } else { i64::MAX }
    }

    pub fn keep_up(&mut self) -> Result<(), String> {
        if self.due_in() > 0 {
            return Ok(());
        }
        let left = transaction(c"release", rescue::release)?;
        if left == 0 {
            self.tries = 0;
        } else {
            self.pause(PAUSES_MS.get(self.tries).copied().unwrap_or(TICK_MS));
            self.tries = self.tries.saturating_add(1);
        }
        Ok(())
    }

    /// Not now.
    pub fn rest(&mut self) {
        self.pause(TICK_MS);
    }

    fn pause(&mut self, milliseconds: i64) {
        self.not_before = server::monotonic_micros().saturating_add(milliseconds.saturating_mul(1_000));
    }
}
