//! Durations given as SQL intervals. A day is 24 hours and a month 30 days, always: jobq counts seconds, not calendar days, so a
//! daylight-saving change moves nothing.

use crate::error::Error;

/// The three parts of a Postgres interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    pub months: i32,
    pub days: i32,
    pub micros: i64,
}

impl Span {
    /// Milliseconds between `min` and `max`. Parts of different signs ('1 mon -30 days' equals zero in Postgres) are refused,
    /// and so is everything that overflows, 'infinity' included.
    pub fn millis(self, argument: &str, min_ms: i64, max_ms: i64) -> Result<i64, Error> {
        let refuse = || {
            Error::invalid(argument, format!("be between {} and {}", describe(min_ms), describe(max_ms)))
                .with_hint("A bare number is seconds.")
        };
        if self.months < 0 || self.days < 0 || self.micros < 0 {
            return Err(refuse());
        }
        let days = i128::from(self.months).saturating_mul(30).saturating_add(i128::from(self.days));
        let micros = days.saturating_mul(86_400_000_000).saturating_add(i128::from(self.micros));
        // Parts of a millisecond count as a whole one: a positive duration never becomes zero.
        let millis = micros.saturating_add(999) / 1_000;
        match i64::try_from(millis) {
            Ok(ms) if (min_ms..=max_ms).contains(&ms) => Ok(ms),
            _ => Err(refuse()),
        }
    }
}

/// "300 s", "7 days": for messages.
fn describe(ms: i64) -> String {
    match ms {
        0 => "0".into(),
        _ if ms % 86_400_000 == 0 => format!("{} days", ms / 86_400_000),
        _ if ms % 1_000 == 0 => format!("{} s", ms / 1_000),
        _ => format!("{ms} ms"),
    }
}
