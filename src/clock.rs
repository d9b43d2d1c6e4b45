//! The one door to time. Everything below takes it as an argument.

use crate::pg;

/// Microseconds since 2000-01-01 UTC, as Postgres keeps a timestamptz.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// The wall clock now; inside a transaction it moves on, unlike SQL's now().
    pub fn now() -> Timestamp {
        Timestamp(pg::server::wall_clock_micros())
    }

    pub fn plus_ms(self, ms: i64) -> Timestamp {
        Timestamp(self.0.saturating_add(ms.saturating_mul(1_000)))
    }

    pub fn minus_ms(self, ms: i64) -> Timestamp {
        Timestamp(self.0.saturating_sub(ms.saturating_mul(1_000)))
    }

    /// Milliseconds from `earlier` to here; negative if it is later.
    pub fn ms_since(self, earlier: Timestamp) -> i64 {
        self.0.saturating_sub(earlier.0) / 1_000
    }

    /// Not 'infinity' nor '-infinity'.
    pub fn is_finite(self) -> bool {
        self.0 != i64::MAX && self.0 != i64::MIN
    }
}
