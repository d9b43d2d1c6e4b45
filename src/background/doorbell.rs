//! The duty that tells those who LISTEN on jobq.notify_channel which queues have jobs.

use crate::pg::process::transaction;
use crate::pg::{doorbell, server};
use crate::{settings, store};

/// What is rung within this time of the last notification is told in one: notifications are a lock of the whole server.
const REST_MICROS: i64 = 20_000;
const ERROR_REST_MICROS: i64 = 10_000_000;

#[derive(Default)]
pub struct Doorbell {
    /// By the clock that nobody sets.
    rest_until: i64,
}

impl Doorbell {
    /// Microseconds until there is something to do; the end of time when there is not.
    pub fn due_in(&self) -> i64 {
        if doorbell::is_rung() { self.rest_until.saturating_sub(server::monotonic_micros()).max(0) } else { i64::MAX }
    }

    pub fn keep_up(&mut self) -> Result<(), String> {
        let channel = settings::notify_channel();
        doorbell::listen(channel.is_some());
        let Some(channel) = channel.filter(|_| self.due_in() <= 0) else { return Ok(()) };
        let (remainders, divisor) = doorbell::take();
        let told = transaction(c"notify", |session| store::queues::notify(session, &channel, &remainders, divisor));
        let rest = if told.is_ok() { REST_MICROS } else { ERROR_REST_MICROS };
        self.rest_until = server::monotonic_micros().saturating_add(rest);
        // The other duties have nothing to do with it.
        if let Err(message) = told {
            pgrx::log!("jobq maintainer: {message}; next notification in {} s", ERROR_REST_MICROS / 1_000_000);
            doorbell::put_back(&remainders);
        }
        Ok(())
    }
}
