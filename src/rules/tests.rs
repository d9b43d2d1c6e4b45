//! What the rules promise, by example and by property.

use super::backoff::Backoff;
use super::limits::*;
use super::span::Span;
use super::state::{Rescue, State, after_crash, after_failure};
use super::{lease, names, ring};
use proptest::prelude::*;

const EXPONENTIAL: &str = r#"{"kind": "exponential", "base": "5s", "factor": 2, "max": "1h", "jitter": 0}"#;

fn policy(json: &str) -> Backoff {
    Backoff::parse(json).expect("a policy")
}

fn delays(json: &str, attempts: std::ops::RangeInclusive<i32>) -> Vec<i64> {
    attempts.map(|attempt| policy(json).delay_ms(attempt, 0.5)).collect()
}

#[test]
fn the_default_backoff_is_five_seconds_doubled() {
    assert_eq!((1..=4).map(|n| Backoff::default().delay_ms(n, 0.5)).collect::<Vec<_>>(), [5_000, 10_000, 20_000, 40_000]);
    assert_eq!(Backoff::default().delay_ms(30, 0.5), 3_600_000);
}

#[test]
fn the_four_kinds_of_backoff() {
    assert_eq!(delays(EXPONENTIAL, 1..=3), [5_000, 10_000, 20_000]);
    assert_eq!(delays(r#"{"kind":"linear","base":"10s"}"#, 1..=3), [10_000, 20_000, 30_000]);
    assert_eq!(delays(r#"{"kind":"constant","base":"250ms"}"#, 1..=3), [250, 250, 250]);
    assert_eq!(delays(r#"{"kind":"list","delays":["1s","1m","1h"]}"#, 1..=4), [1_000, 60_000, 3_600_000, 3_600_000]);
}

#[test]
fn jitter_spreads_around_the_delay() {
    let jittered = policy(r#"{"kind":"constant","base":"10s","jitter":0.1}"#);
    assert_eq!([0.0, 0.5, 1.0].map(|random| jittered.delay_ms(1, random)), [9_000, 10_000, 11_000]);
}

#[test]
fn a_policy_that_is_not_one_names_what_is_wrong() {
    for (json, word) in [
        (r#"{"kind":"quadratic","base":"5s"}"#, "quadratic"),
        (r#"{"kind":"linear","base":"5s","bas":1}"#, "bas"),
        (r#"{"kind":"linear"}"#, "base"),
        (r#"{"kind":"constant","base":"5 parsecs"}"#, "parsecs"),
        (r#"{"kind":"constant","base":"99999999999d"}"#, "99999999999d"),
        (r#"{"kind":"exponential","factor":0.5}"#, "factor"),
        (r#"{"kind":"exponential","jitter":1.5}"#, "jitter"),
        (r#"{"kind":"list","delays":[]}"#, "delays"),
        (r#"{}"#, "kind"),
    ] {
        let error = Backoff::parse(json).expect_err(json);
        assert_eq!(&error.sqlstate(), b"22023", "{json}");
        assert!(error.message().contains(word), "{json}: {}", error.message());
    }
}

#[test]
fn intervals_are_checked_as_wholes_and_as_parts() {
    let span = |months, days, micros| Span { months, days, micros }.millis("delay", 1_000, 7 * DAY_MS);
    assert_eq!(span(0, 0, 1_000_000), Ok(1_000));
    assert_eq!(span(0, 1, 0), Ok(DAY_MS));
    assert_eq!(span(0, 0, 1_000_001), Ok(1_001), "a part of a millisecond counts as one");
    for (months, days, micros) in [
        (0, 0, 0),
        (0, 0, 999_000),
        (0, 0, -1_000_000),
        (1, -30, 0),
        (0, 8, 0),
        (i32::MAX, i32::MAX, i64::MAX),
        (i32::MIN, i32::MIN, i64::MIN),
    ] {
        assert!(span(months, days, micros).is_err(), "{months} {days} {micros}");
    }
}

#[test]
fn names() {
    for good in ["a", "default", "A-z_0.9:x", &"q".repeat(63)] {
        assert!(names::queue("queue", good).is_ok(), "{good}");
    }
    for bad in ["", " ", "a ", "a\n", "a,b", "a/b", "a@b", "é", "a'b", "$$", "%s", "a\u{202e}b", &"q".repeat(64)] {
        assert!(names::queue("queue", bad).is_err(), "{bad:?}");
    }
    assert!(names::label("worker", "host-1/worker@2").is_ok());
    assert!(names::label("worker", &"w".repeat(129)).is_err());
}

#[test]
fn only_legal_moves() {
    let legal: Vec<(State, State)> = State::ALL
        .into_iter()
        .flat_map(|from| State::ALL.into_iter().filter(move |to| from.may_become(*to)).map(move |to| (from, to)))
        .collect();
    use State::*;
    assert_eq!(
        legal,
        [
            (Pending, Running),
            (Pending, Cancelled),
            (Running, Pending),
            (Running, Completed),
            (Running, Failed),
            (Running, Cancelled),
            (Failed, Pending),
            (Cancelled, Pending)
        ]
    );
}

#[test]
fn a_crash_counts_before_attempts_do() {
    assert_eq!(after_crash(1, 3, 1, 3, false), Rescue::Again);
    assert_eq!(after_crash(3, 3, 1, 3, false), Rescue::AttemptsSpent);
    assert_eq!(after_crash(3, 9, 3, 3, false), Rescue::Poison);
    assert_eq!(after_crash(1, 3, 1, 3, true), Rescue::Cancelled);
}

#[test]
fn leases_stay_below_two_to_the_53_until_2094() {
    let micros_2094 = (94 * 365 + 23) * 86_400 * 1_000_000_i64;
    assert!(lease::next(0, lease::clock_part(micros_2094), 4_095) < 1 << 53);
}

#[test]
fn a_lease_is_from_the_clock_only_when_the_clock_is_ahead() {
    let first = lease::next(0, 1_000, 7);
    assert!(lease::from_clock(first, 1_000));
    assert!(!lease::from_clock(lease::next(first, 1_000, 7), 1_000));
    assert!(!lease::from_clock(lease::next(first, 900, 7), 900));
}

#[test]
fn the_ring_covers_the_longest_retention() {
    for retention_days in [0, 1, 7, 30, 31, 365, 3_653] {
        let width = ring::width_days(retention_days * DAY_MS);
        assert!(width * 30 >= retention_days, "{retention_days}");
    }
    assert_eq!(ring::width_days(30 * DAY_MS), 1);
    assert_eq!(ring::width_days(31 * DAY_MS), 2);
}

proptest! {
    #[test]
    fn backoff_is_bounded_for_every_attempt(attempt in any::<i32>(), random in any::<f64>(), factor in 1.0..1_000.0_f64, jitter in 0.0..=1.0_f64) {
        let json = format!(r#"{{"kind":"exponential","base":"7s","factor":{factor},"max":"2h","jitter":{jitter}}}"#);
        let delay = policy(&json).delay_ms(attempt, random);
        prop_assert!((0..=2 * 7_200_000).contains(&delay));
    }

    #[test]
    fn exponential_backoff_never_shrinks(attempt in 1..5_000_i32) {
        let policy = policy(EXPONENTIAL);
        prop_assert!(policy.delay_ms(attempt + 1, 0.5) >= policy.delay_ms(attempt, 0.5));
    }

    #[test]
    fn leases_increase(previous in 0..(1_i64 << 52), clock in 1..(1_i64 << 40), random in any::<u32>(), again in any::<u32>()) {
        let one = lease::next(previous, clock, lease::random_part(random));
        let two = lease::next(one, clock, lease::random_part(again));
        prop_assert!(previous < one && one < two);
    }

    #[test]
    fn every_instant_has_a_slot(micros in any::<i64>(), retention_days in 0..3_653_i64) {
        let slot = ring::slot(micros, ring::width_days(retention_days * DAY_MS));
        prop_assert!((0..ring::SLOTS as i16).contains(&slot));
    }

    #[test]
    fn a_slot_is_not_reused_within_the_retention(day in 0..40_000_i64, retention_days in 1..3_653_i64, age_days in 1..3_653_i64) {
        prop_assume!(age_days <= retention_days);
        let width = ring::width_days(retention_days * DAY_MS);
        let (then, now) = (ring::slot((day - age_days) * DAY_MS * 1_000, width), ring::slot(day * DAY_MS * 1_000, width));
        prop_assert!(then != now || age_days < width, "slot {now} holds what is {age_days} days old, width {width}");
    }

    #[test]
    fn what_a_failure_leads_to_is_a_legal_move(attempt in 1..1_000_i32, max in 1..1_000_i32, retry in any::<bool>(), cancel in any::<bool>()) {
        prop_assert!(State::Running.may_become(after_failure(attempt, max, retry, cancel)));
    }

    #[test]
    fn an_interval_is_what_it_says_or_refused(months in any::<i32>(), days in any::<i32>(), micros in any::<i64>()) {
        if let Ok(ms) = (Span { months, days, micros }).millis("delay", 0, AHEAD_MAX_MS) {
            let exact = (i128::from(months) * 30 + i128::from(days)) * 86_400_000 + i128::from(micros) / 1_000;
            prop_assert!((i128::from(ms) - exact).abs() <= 1);
        }
    }
}

proptest! {
    /// Whatever the retention: what is within it is recent, and the slot whose turn is next is not, so it can be emptied first.
    #[test]
    fn a_slot_is_free_before_its_turn(now in 0..2_000_000_000_000_000i64, days in prop_oneof![Just(30), Just(90), 1..400i64], hours in prop_oneof![Just(0), 0..24i64], ago in 0.0..1.0f64) {
        let longest_ms = (days * 24 + hours) * 3_600_000;
        let width = ring::width_days(longest_ms);
        let recent = ring::recent_slots(now, longest_ms);
        let finished = now - (longest_ms as f64 * ago) as i64 * 1_000;
        prop_assert!(recent.contains(&ring::slot(finished, width)), "a job within its retention");
        prop_assert!(!recent.contains(&ring::slot(now + width * 86_400_000_000, width)), "the next slot");
    }
}
