//! Lease tokens.
//!
//! `hi = max((previous >> 12) + 1, milliseconds since 2025-01-01)`, `lease = hi << 12 | 12 random bits`: strictly increasing per
//! job, below 2^53 (exact in JSON and JavaScript) until the year 2094, and different from a lease that was lost in a crash even
//! when the clock stands behind the previous one.

/// Microseconds from the Postgres epoch (2000-01-01) to the lease epoch (2025-01-01): 9132 days.
const EPOCH_MICROS: i64 = 9_132 * 86_400 * 1_000_000;
pub const RANDOM_BITS: u32 = 12;

/// The clock part of a lease for a Postgres timestamp; at least 1, also for a clock set before 2025.
pub fn clock_part(now_micros: i64) -> i64 {
    (now_micros.saturating_sub(EPOCH_MICROS) / 1_000).max(1)
}

/// Keeps the low bits of a random number.
pub fn random_part(random: u32) -> i32 {
    (random & ((1 << RANDOM_BITS) - 1)) as i32
}

/// Was the clock ahead of the job's previous lease? Then nobody can have seen this lease before, even if the commit is lost.
pub fn from_clock(lease: i64, clock_part: i64) -> bool {
    lease >> RANDOM_BITS == clock_part
}

/// The lease after `previous`. The claim statement computes the same in SQL, for each row of its batch.
pub fn next(previous: i64, clock_part: i64, random_part: i32) -> i64 {
    let hi = (previous >> RANDOM_BITS).saturating_add(1).max(clock_part);
    hi << RANDOM_BITS | i64::from(random_part)
}
