//! Cron expressions, time zones, and what is due, by example.

use super::cron::Rhythm;
use super::timetable::{CatchUp, Due, Timetable, jitter_ms, whole_second, zone};
use jiff::Timestamp;

pub(super) const SECOND: i64 = 1_000_000;
pub(super) const EPOCH_S: i64 = 946_684_800;

pub(super) fn table(cron: &str, timezone: &str) -> Timetable {
    let rhythm = Rhythm::parse(cron).unwrap_or_else(|error| panic!("{cron}: {} {:?}", error.message(), error.detail()));
    Timetable {
        rhythm,
        zone: zone(timezone).expect("a zone"),
        anchor: at("2026-01-01T00:00:00Z"),
        starts_at: None,
        ends_at: None,
    }
}

/// Microseconds since 2000.
pub(super) fn at(time: &str) -> i64 {
    (time.parse::<Timestamp>().expect("a time").as_second() - EPOCH_S) * SECOND
}

pub(super) fn show(micros: i64) -> String {
    Timestamp::from_second(micros.div_euclid(SECOND) + EPOCH_S).expect("a time").to_string()
}

fn runs(table: &Timetable, after: &str, n: usize) -> Vec<String> {
    let first = table.next(at(after));
    std::iter::successors(first, |tick| table.next(*tick)).take(n).map(show).collect()
}

/// Runs as the clocks of the zone show them, with the offset.
fn local_runs(cron: &str, timezone: &str, after: &str, n: usize) -> Vec<String> {
    let table = table(cron, timezone);
    let first = table.next(at(after));
    let show = |micros: i64| {
        let time = Timestamp::from_second(micros / SECOND + EPOCH_S).expect("a time").to_zoned(table.zone.clone());
        time.strftime("%d %H:%M %:z").to_string()
    };
    std::iter::successors(first, |tick| table.next(*tick)).take(n).map(show).collect()
}

#[test]
fn fields() {
    for (cron, after, expected) in [
        ("*/15 * * * *", "2026-03-01T10:07:00Z", ["2026-03-01T10:15:00Z", "2026-03-01T10:30:00Z"]),
        ("30 */5 * * * *", "2026-03-01T10:07:31Z", ["2026-03-01T10:10:30Z", "2026-03-01T10:15:30Z"]),
        ("0 9-17/4 * * mon-fri", "2026-03-06T17:00:00Z", ["2026-03-09T09:00:00Z", "2026-03-09T13:00:00Z"]),
        ("0 0 1,15 jan,JUL *", "2026-01-15T00:00:00Z", ["2026-07-01T00:00:00Z", "2026-07-15T00:00:00Z"]),
        ("0 12 L * *", "2026-02-01T00:00:00Z", ["2026-02-28T12:00:00Z", "2026-03-31T12:00:00Z"]),
        ("0 12 15W * *", "2026-02-01T00:00:00Z", ["2026-02-16T12:00:00Z", "2026-03-16T12:00:00Z"]),
        ("0 12 LW * *", "2026-02-01T00:00:00Z", ["2026-02-27T12:00:00Z", "2026-03-31T12:00:00Z"]),
        ("0 12 * * 5L", "2026-02-01T00:00:00Z", ["2026-02-27T12:00:00Z", "2026-03-27T12:00:00Z"]),
        ("0 12 * * 7L", "2026-02-01T00:00:00Z", ["2026-02-22T12:00:00Z", "2026-03-29T12:00:00Z"]),
        ("0 12 * * sunL", "2026-02-01T00:00:00Z", ["2026-02-22T12:00:00Z", "2026-03-29T12:00:00Z"]),
        ("0 12 * * tue#2", "2026-02-01T00:00:00Z", ["2026-02-10T12:00:00Z", "2026-03-10T12:00:00Z"]),
        ("0 12 * * 7#1", "2026-02-01T12:00:00Z", ["2026-03-01T12:00:00Z", "2026-04-05T12:00:00Z"]),
        // Day of month and day of week both given: either; with + both.
        ("0 0 13 * fri", "2026-03-08T00:00:00Z", ["2026-03-13T00:00:00Z", "2026-03-20T00:00:00Z"]),
        ("0 0 13 * +fri", "2026-03-14T00:00:00Z", ["2026-11-13T00:00:00Z", "2027-08-13T00:00:00Z"]),
        ("0 0 ? * mon", "2026-03-08T00:00:00Z", ["2026-03-09T00:00:00Z", "2026-03-16T00:00:00Z"]),
        ("0 0 29 2 *", "2026-03-08T00:00:00Z", ["2028-02-29T00:00:00Z", "2032-02-29T00:00:00Z"]),
        ("0 0 29 2 +sun", "2080-03-08T00:00:00Z", ["2088-02-29T00:00:00Z", "2128-02-29T00:00:00Z"]),
        ("@hourly", "2026-03-01T10:07:00Z", ["2026-03-01T11:00:00Z", "2026-03-01T12:00:00Z"]),
        ("@daily", "2026-03-01T10:07:00Z", ["2026-03-02T00:00:00Z", "2026-03-03T00:00:00Z"]),
        (" @Midnight ", "2026-03-01T10:07:00Z", ["2026-03-02T00:00:00Z", "2026-03-03T00:00:00Z"]),
        ("@weekly", "2026-03-01T10:07:00Z", ["2026-03-08T00:00:00Z", "2026-03-15T00:00:00Z"]),
        ("@monthly", "2026-03-01T10:07:00Z", ["2026-04-01T00:00:00Z", "2026-05-01T00:00:00Z"]),
        ("@yearly", "2026-03-01T10:07:00Z", ["2027-01-01T00:00:00Z", "2028-01-01T00:00:00Z"]),
        ("@annually", "2026-03-01T10:07:00Z", ["2027-01-01T00:00:00Z", "2028-01-01T00:00:00Z"]),
        ("@every 90s", "2026-03-01T00:00:10Z", ["2026-03-01T00:01:30Z", "2026-03-01T00:03:00Z"]),
        ("10 seconds", "2026-03-01T00:00:10Z", ["2026-03-01T00:00:20Z", "2026-03-01T00:00:30Z"]),
        ("1 hour 30 minutes", "2026-01-01T00:00:00Z", ["2026-01-01T01:30:00Z", "2026-01-01T03:00:00Z"]),
        ("1 day 2 hours 3 min", "2026-01-01T00:00:00Z", ["2026-01-02T02:03:00Z", "2026-01-03T04:06:00Z"]),
        ("2w", "2026-01-01T00:00:00Z", ["2026-01-15T00:00:00Z", "2026-01-29T00:00:00Z"]),
    ] {
        assert_eq!(runs(&table(cron, "UTC"), after, 2), expected, "{cron}");
    }
}

#[test]
fn refusals_say_what_is_wrong() {
    for (cron, says) in [
        ("", "0 fields"),
        ("* * * *", "4 fields"),
        ("* * * * * * *", "7 fields"),
        ("@reboot", "no such word"),
        ("@every", "no such word"),
        ("@every day", "whole numbers with units"),
        ("@every 1.5 h", "whole numbers with units"),
        ("0 seconds", "between 1 second"),
        ("367 days", "between 1 second"),
        ("99999999999999999999 days", "between 1 second"),
        ("*/90 * * * *", "step of the minute"),
        ("*/0 * * * *", "step of the minute"),
        ("60 * * * *", "minute is at most 59"),
        ("0 24 * * *", "hour is at most 23"),
        ("0 0 32 * *", "day of month is at most 31"),
        ("0 0 0 * *", "out of bounds"),
        ("0 0 * 13 *", "month is at most 12"),
        ("0 0 * * 8", "day of week is at most 7"),
        ("0 0 * * jan", "day of week cannot have \"JAN\""),
        ("0 0 * mon *", "month cannot have \"MON\""),
        ("mon * * * *", "minute cannot have \"MON\""),
        ("0 0 * * monday", "cannot have \"MONDAY\""),
        ("1,,2 * * * *", "empty part"),
        (", * * * *", "empty part"),
        ("5-1 * * * *", "out of bounds"),
        ("5/10 * * * *", "not allowed"),
        ("0 0 L,LW * *", "both L and LW"),
        ("0 0 * * 5#L", "written as 5L"),
        ("0 0 * * 5#6", "out of bounds"),
        ("0 0 * * fri#", "nth"),
        ("L * * * *", "minute cannot have \"L\""),
        ("\u{e9} * * * *", "cannot have"),
        ("٣ * * * *", "illegal"),
        ("- * * * *", "range"),
        ("1-2-3 * * * *", "range"),
        ("* * * * +", "empty part"),
    ] {
        let refused = Rhythm::parse(cron).map(|rhythm| format!("{rhythm:?}")).expect_err(cron);
        assert!(
            refused.message().to_lowercase().contains(&says.to_lowercase()),
            "{cron}: {} does not say {says}",
            refused.message()
        );
        assert_eq!(&refused.sqlstate(), b"22023", "{cron}");
    }
    assert_eq!(&Rhythm::parse(&"*".repeat(257)).expect_err("too long").sqlstate(), b"22001");
    assert!(!table("0 0 30 2 *", "UTC").ever_comes(at("2026-01-01T00:00:00Z")), "the 30th of February");
    assert!(
        !table("0 0 31 4,6,9,11 *", "Europe/Berlin").ever_comes(at("2026-01-01T00:00:00Z")),
        "the 31st of a month of 30 days"
    );
}

#[test]
fn zones() {
    for (name, is_known) in [
        ("UTC", Some("UTC")),
        ("europe/berlin", Some("Europe/Berlin")),
        ("America/New_York", Some("America/New_York")),
        ("", None),
        ("Mars/Phobos", None),
        ("Etc/Unknown", None),
        ("+02:00", None),
        ("../../etc/passwd", None),
        ("localtime", None),
    ] {
        assert_eq!(zone(name).ok().and_then(|zone| zone.iana_name().map(String::from)).as_deref(), is_known, "{name}");
    }
}

/// The clocks go forward from 02:00 to 03:00 on 29 March 2026, back from 03:00 to 02:00 on 25 October.
#[test]
fn daylight_saving_in_berlin() {
    let spring = |cron, n| local_runs(cron, "Europe/Berlin", "2026-03-28T23:10:00Z", n);
    let autumn = |cron, n| local_runs(cron, "Europe/Berlin", "2026-10-24T22:10:00Z", n);
    // A skipped time: once, at the first moment after the gap.
    assert_eq!(spring("30 2 * * *", 2), ["29 03:00 +02:00", "30 02:30 +02:00"]);
    assert_eq!(spring("15,45 2 * * *", 2), ["29 03:00 +02:00", "30 02:15 +02:00"]);
    assert_eq!(spring("0 2,3 * * *", 2), ["29 03:00 +02:00", "30 02:00 +02:00"]);
    assert_eq!(spring("30 1-4 * * *", 4), ["29 01:30 +01:00", "29 03:00 +02:00", "29 03:30 +02:00", "29 04:30 +02:00"]);
    // A time that comes twice: once, the first time.
    assert_eq!(autumn("30 2 * * *", 2), ["25 02:30 +02:00", "26 02:30 +01:00"]);
    assert_eq!(autumn("0 2,3 * * *", 3), ["25 02:00 +02:00", "25 03:00 +01:00", "26 02:00 +01:00"]);
    assert_eq!(autumn("15,45 2 * * *", 3), ["25 02:15 +02:00", "25 02:45 +02:00", "26 02:15 +01:00"]);
    // At 02:20, the second time, the one of 02:45 is over.
    let last = |cron| table(cron, "Europe/Berlin").last(at("2026-10-25T01:20:00Z")).map(show);
    assert_eq!(last("15,45 2 * * *").as_deref(), Some("2026-10-25T00:45:00Z"));
    assert_eq!(last("*/15 * * * *").as_deref(), Some("2026-10-25T01:15:00Z"));
    assert_eq!(last("30 */2 * * *").as_deref(), Some("2026-10-25T00:30:00Z"));
    // Wildcards go by the clock.
    assert_eq!(spring("0 * * * *", 3), ["29 01:00 +01:00", "29 03:00 +02:00", "29 04:00 +02:00"]);
    assert_eq!(spring("7 * * * *", 3), ["29 01:07 +01:00", "29 03:07 +02:00", "29 04:07 +02:00"]);
    assert_eq!(autumn("0 * * * *", 4), ["25 01:00 +02:00", "25 02:00 +02:00", "25 02:00 +01:00", "25 03:00 +01:00"]);
    assert_eq!(
        autumn("*/30 * * * *", 7),
        [
            "25 00:30 +02:00",
            "25 01:00 +02:00",
            "25 01:30 +02:00",
            "25 02:00 +02:00",
            "25 02:30 +02:00",
            "25 02:00 +01:00",
            "25 02:30 +01:00"
        ]
    );
    assert_eq!(spring("*/30 1-3 * * *", 4), ["29 01:00 +01:00", "29 01:30 +01:00", "29 03:00 +02:00", "29 03:30 +02:00"]);
    // Intervals count seconds.
    assert_eq!(local_runs("1 day", "Europe/Berlin", "2026-03-28T12:00:00Z", 2), ["29 01:00 +01:00", "30 02:00 +02:00"]);
}

#[test]
fn daylight_saving_elsewhere() {
    // From 02:00 to 03:00 on 8 March 2026, back from 02:00 to 01:00 on 1 November.
    let new_york = |cron, after, n| local_runs(cron, "America/New_York", after, n);
    assert_eq!(new_york("30 2 * * *", "2026-03-08T05:10:00Z", 2), ["08 03:00 -04:00", "09 02:30 -04:00"]);
    assert_eq!(new_york("30 1 * * *", "2026-11-01T04:10:00Z", 2), ["01 01:30 -04:00", "02 01:30 -05:00"]);
    // From the middle of the second time around.
    assert_eq!(new_york("30 1 * * *", "2026-11-01T06:10:00Z", 1), ["02 01:30 -05:00"]);
    assert_eq!(
        new_york("0,30 * * * *", "2026-11-01T05:10:00Z", 4),
        ["01 01:30 -04:00", "01 01:00 -05:00", "01 01:30 -05:00", "01 02:00 -05:00"]
    );
    // Half an hour: from 02:00 to 02:30 on 4 October 2026, back from 02:00 to 01:30 on 5 April.
    let lord_howe = |cron, after, n| local_runs(cron, "Australia/Lord_Howe", after, n);
    assert_eq!(lord_howe("15 2 * * *", "2026-10-03T14:00:00Z", 2), ["04 02:30 +11:00", "05 02:15 +11:00"]);
    assert_eq!(lord_howe("0 * * * *", "2026-10-03T14:10:00Z", 2), ["04 01:00 +10:30", "04 03:00 +11:00"]);
    assert_eq!(lord_howe("*/15 * * * *", "2026-10-03T15:10:00Z", 3), ["04 01:45 +10:30", "04 02:30 +11:00", "04 02:45 +11:00"]);
    assert_eq!(lord_howe("45 1 * * *", "2026-04-04T13:00:00Z", 2), ["05 01:45 +11:00", "06 01:45 +10:30"]);
    assert_eq!(
        lord_howe("*/15 * * * *", "2026-04-04T14:35:00Z", 4),
        ["05 01:45 +11:00", "05 01:30 +10:30", "05 01:45 +10:30", "05 02:00 +10:30"]
    );
    // At midnight: 4 November 2018 began at 01:00; and there is none since 2019.
    let sao_paulo = |cron, after, n| local_runs(cron, "America/Sao_Paulo", after, n);
    assert_eq!(sao_paulo("0 0 * * *", "2018-11-03T12:00:00Z", 2), ["04 01:00 -02:00", "05 00:00 -02:00"]);
    assert_eq!(sao_paulo("30 23 * * *", "2018-02-17T12:00:00Z", 2), ["17 23:30 -02:00", "18 23:30 -03:00"]);
    assert_eq!(sao_paulo("0 0 * * *", "2026-11-01T12:00:00Z", 2), ["02 00:00 -03:00", "03 00:00 -03:00"]);
    // A whole day: there was no 30 December 2011.
    let apia = |cron, after, n| local_runs(cron, "Pacific/Apia", after, n);
    assert_eq!(apia("0 12 * * *", "2011-12-29T23:00:00Z", 3), ["31 00:00 +14:00", "31 12:00 +14:00", "01 12:00 +14:00"]);
}

#[test]
fn bounds_and_anchors() {
    let mut table = table("0 * * * *", "UTC");
    table.starts_at = Some(at("2026-06-01T10:00:00Z"));
    table.ends_at = Some(at("2026-06-01T12:00:00Z"));
    assert_eq!(runs(&table, "2026-01-01T00:00:00Z", 9), ["2026-06-01T10:00:00Z", "2026-06-01T11:00:00Z"]);
    assert_eq!(table.last(at("2027-01-01T00:00:00Z")).map(show).as_deref(), Some("2026-06-01T11:00:00Z"));
    assert_eq!(table.last(at("2026-06-01T09:59:59Z")), None);
    table.rhythm = Rhythm::parse("7 min").expect("an interval");
    table.anchor = at("2026-06-01T10:00:00Z");
    assert_eq!(runs(&table, "2026-01-01T00:00:00Z", 2), ["2026-06-01T10:00:00Z", "2026-06-01T10:07:00Z"]);
    assert_eq!(table.last(at("2026-06-01T10:06:59Z")).map(show).as_deref(), Some("2026-06-01T10:00:00Z"));
    assert_eq!(table.last(at("2026-06-01T09:59:59Z")), None);
    assert_eq!((whole_second(0), whole_second(1), whole_second(SECOND), whole_second(-1)), (0, SECOND, SECOND, 0));
    // Extremes neither panic nor come back.
    for after in [i64::MIN, i64::MIN + 1, -1, 0, i64::MAX - 1, i64::MAX] {
        for cron in ["* * * * * *", "0 0 1 1 *", "1 s", "366 days"] {
            let table = self::table(cron, "Europe/Berlin");
            assert!(table.next(after).is_none_or(|tick| tick > after), "{cron} after {after}");
            assert!(table.last(after).is_none_or(|tick| tick <= after), "{cron} until {after}");
        }
    }
}

#[test]
fn what_is_due() {
    let minutely = table("* * * * *", "UTC");
    let due = |table: &Timetable, next: &str, now: &str, catch_up, batch| -> (Vec<String>, Option<String>) {
        let Due { ticks, then } = table.due(at(next), at(now), catch_up, batch);
        (ticks.into_iter().map(show).collect(), then.map(show))
    };
    let times = |times: &[&str]| -> Vec<String> { times.iter().map(|time| format!("2026-01-01T{time}Z")).collect() };
    let all = CatchUp::All { most: 3 };
    for catch_up in [CatchUp::Skip, CatchUp::Last, all] {
        let check = |next: &str, now: &str, ticks: &[&str], then: &str| {
            let found = due(&minutely, &format!("2026-01-01T{next}Z"), &format!("2026-01-01T{now}Z"), catch_up, 100);
            assert_eq!(found, (times(ticks), times(&[then]).pop()), "{catch_up:?} {next} {now}");
        };
        // Early, on time, a little late: always the same.
        check("10:05:00", "10:04:59", &[], "10:05:00");
        check("10:05:00", "10:05:00", &["10:05:00"], "10:06:00");
        check("10:05:00", "10:06:00", &["10:05:00", "10:06:00"], "10:07:00");
    }
    // An hour late: a tick that is in time takes the place of the newest one that was missed.
    let late = |catch_up, batch| due(&minutely, "2026-01-01T10:00:00Z", "2026-01-01T11:00:30Z", catch_up, batch);
    assert_eq!(late(CatchUp::Skip, 100), (times(&["11:00:00"]), times(&["11:01:00"]).pop()));
    assert_eq!(late(CatchUp::Last, 100), (times(&["11:00:00"]), times(&["11:01:00"]).pop()));
    assert_eq!(late(all, 100), (times(&["10:57:00", "10:58:00", "10:59:00", "11:00:00"]), times(&["11:01:00"]).pop()));
    // In batches: what is left of the newest three is taken up where it was left.
    assert_eq!(late(all, 2), (times(&["10:57:00", "10:58:00"]), times(&["10:59:00"]).pop()));
    assert_eq!(
        due(&minutely, "2026-01-01T10:59:00Z", "2026-01-01T11:00:31Z", all, 2),
        (times(&["10:59:00", "11:00:00"]), times(&["11:01:00"]).pop())
    );
    // Once a day, hours late: nothing is due but what was missed.
    let daily = table("0 3 * * *", "UTC");
    let late = |catch_up| due(&daily, "2026-01-01T03:00:00Z", "2026-01-05T09:00:00Z", catch_up, 100);
    let next = Some("2026-01-06T03:00:00Z".to_string());
    assert_eq!(late(CatchUp::Skip), (vec![], next.clone()));
    assert_eq!(late(CatchUp::Last), (vec!["2026-01-05T03:00:00Z".to_string()], next.clone()));
    assert_eq!(late(CatchUp::All { most: 100 }).0.len(), 5);
    assert_eq!(late(CatchUp::All { most: 5 }).0.len(), 5);
    assert_eq!(late(CatchUp::All { most: 2 }).0, ["2026-01-04T03:00:00Z", "2026-01-05T03:00:00Z"]);
    assert_eq!(late(CatchUp::All { most: 1 }).0, ["2026-01-05T03:00:00Z"]);
    // The end has come meanwhile: what came before it still counts.
    let mut ended = daily.clone();
    ended.ends_at = Some(at("2026-01-03T00:00:00Z"));
    assert_eq!(
        due(&ended, "2026-01-01T03:00:00Z", "2026-01-05T09:00:00Z", CatchUp::Last, 9),
        (vec!["2026-01-02T03:00:00Z".to_string()], None)
    );
    // Two weeks of seconds: a tick a second is found without walking through all of them.
    let seconds = table("* * * * * *", "UTC");
    let (ticks, _) = due(&seconds, "2026-01-01T00:00:00Z", "2026-01-15T00:00:00Z", CatchUp::Last, 1000);
    assert_eq!((ticks.len(), ticks[0].as_str()), (61, "2026-01-14T23:59:00Z"));
}

#[test]
fn jitter_is_fixed_for_a_tick_and_spread_over_names() {
    assert_eq!(jitter_ms("a", 5, 0), 0);
    assert_eq!(jitter_ms("a", 5, 1000), jitter_ms("a", 5, 1000));
    let delays: Vec<i64> = (0..1000).map(|n| jitter_ms(&format!("name-{n}"), at("2026-01-01T00:00:00Z"), 999)).collect();
    assert!(delays.iter().all(|delay| (0..=999).contains(delay)));
    for tenth in 0..10 {
        let found = delays.iter().filter(|delay| **delay / 100 == tenth).count();
        assert!((60..=140).contains(&found), "{found} of 1000 in tenth {tenth}");
    }
}
