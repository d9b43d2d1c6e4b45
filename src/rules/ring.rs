//! The ring of history partitions: slot = (day / width) mod 32.

use super::limits::DAY_MS;

pub const SLOTS: i64 = 32;
const DAY_MICROS: i64 = DAY_MS * 1_000;

/// Days one slot spans, so that 30 of the 32 slots cover the longest retention.
pub fn width_days(longest_retention_ms: i64) -> i64 {
    let days = longest_retention_ms.saturating_add(DAY_MS - 1) / DAY_MS;
    (days.saturating_add(29) / 30).max(1)
}

/// The slot of jobs that finish now (microseconds since 2000-01-01).
pub fn slot(now_micros: i64, width_days: i64) -> i16 {
    let day = now_micros.div_euclid(DAY_MICROS);
    day.div_euclid(width_days.max(1)).rem_euclid(SLOTS) as i16
}

/// The slots that may hold jobs which finished within the longest retention before now: never all of them, so that each slot is
/// emptied before its turn comes again.
pub fn recent_slots(now_micros: i64, longest_retention_ms: i64) -> Vec<i16> {
    let width = width_days(longest_retention_ms);
    let span = width.saturating_mul(DAY_MICROS);
    let cutoff = now_micros.saturating_sub(longest_retention_ms.saturating_mul(1_000));
    (0..SLOTS)
        .map(|back| now_micros.saturating_sub(back.saturating_mul(span)))
        .take_while(|day| *day > cutoff.saturating_sub(span))
        .map(|day| slot(day, width))
        .collect()
}
