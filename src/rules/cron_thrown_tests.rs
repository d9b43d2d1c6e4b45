//! Thrown expressions against a second implementation, which walks through the days or minutes of a window and asks for each of them
//! whether it is a run: another way to the same answer than the search in `wall_clock`.

use super::cron_tests::{EPOCH_S, SECOND, show, table};
use super::timetable::zone;
use jiff::Timestamp;

/// xorshift64*, seeded.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % n
    }

    fn between(&mut self, from: u64, to: u64) -> u64 {
        from + self.below(to - from + 1)
    }
}

/// An expression that was thrown, and what it means.
#[derive(Default, Debug)]
struct Thrown {
    text: String,
    seconds: Vec<bool>,
    minutes: Vec<bool>,
    hours: Vec<bool>,
    days: Vec<bool>,
    months: Vec<bool>,
    weekdays: Vec<bool>,
    last_day: bool,
    last_workday: bool,
    workdays_near: Vec<u64>,
    nth_weekdays: Vec<(u64, u64)>,
    last_weekdays: Vec<u64>,
    any_day: bool,
    any_weekday: bool,
    both_days: bool,
    by_the_clock: bool,
}

/// A field: its text, the values it allows, whether it has a star.
fn throw_field(random: &mut Random, min: u64, max: u64, star_in: u64) -> (String, Vec<bool>, bool) {
    let mut allowed = vec![false; max as usize + 1];
    if random.below(100) < star_in {
        allowed[min as usize..].fill(true);
        return ("*".into(), allowed, true);
    }
    let mut parts = Vec::new();
    let mut star = false;
    for _ in 0..random.between(1, 3) {
        let (a, b) = (random.between(min, max), random.between(min, max));
        let (from, to) = (a.min(b), a.max(b));
        let step = random.between(1, max.min(20));
        let (text, from, to, step) = match random.below(6) {
            0 => {
                star = true;
                (format!("*/{step}"), min, max, step)
            }
            1 => (format!("{from}-{to}/{step}"), from, to, step),
            2 => (format!("{from}-{to}"), from, to, 1),
            _ => (format!("{from}"), from, from, 1),
        };
        (from..=to).step_by(step as usize).for_each(|value| allowed[value as usize] = true);
        parts.push(text);
    }
    (parts.join(","), allowed, star)
}

fn throw(random: &mut Random, stars: u64) -> Thrown {
    let mut thrown = Thrown::default();
    let has_seconds = random.below(2) == 0;
    let (second, star) = if has_seconds {
        let (text, allowed, star) = throw_field(random, 0, 59, stars / 2);
        thrown.seconds = allowed;
        (text, star)
    } else {
        thrown.seconds = (0..60).map(|second| second == 0).collect();
        (String::new(), false)
    };
    thrown.by_the_clock |= star;
    let (minute, allowed, star) = throw_field(random, 0, 59, stars);
    (thrown.minutes, thrown.by_the_clock) = (allowed, thrown.by_the_clock | star);
    let (hour, allowed, star) = throw_field(random, 0, 23, stars);
    (thrown.hours, thrown.by_the_clock) = (allowed, thrown.by_the_clock | star);
    let (mut day, allowed, _) = throw_field(random, 1, 31, 50);
    thrown.days = allowed;
    thrown.any_day = day == "*";
    if !thrown.any_day {
        match random.below(6) {
            0 => {
                thrown.last_day = true;
                day += ",L";
            }
            1 => {
                thrown.last_workday = true;
                day += ",LW";
            }
            2 => {
                let near = random.between(1, 31);
                thrown.workdays_near.push(near);
                day += &format!(",{near}W");
            }
            _ => {}
        }
    }
    let (mut month, allowed, _) = throw_field(random, 1, 12, 60);
    thrown.months = allowed;
    if month == "7" && random.below(2) == 0 {
        month = "jul".into();
    }
    let (mut weekday, mut allowed, _) = throw_field(random, 0, 7, 50);
    allowed[0] |= allowed[7];
    thrown.weekdays = allowed;
    thrown.any_weekday = weekday == "*";
    if !thrown.any_weekday {
        match random.below(5) {
            0 => {
                let (day, nth) = (random.between(0, 7), random.between(1, 5));
                thrown.nth_weekdays.push((day % 7, nth));
                weekday += &format!(",{day}#{nth}");
            }
            1 => {
                let day = random.between(0, 7);
                thrown.last_weekdays.push(day % 7);
                weekday += &format!(",{day}L");
            }
            _ => {}
        }
        if random.below(5) == 0 {
            thrown.both_days = true;
            weekday = format!("+{weekday}");
        }
    }
    thrown.text = format!("{second} {minute} {hour} {day} {month} {weekday}");
    thrown
}

fn month_length(year: i64, month: u64) -> u64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Year, month, day and weekday (0 is Sunday) of a day counted from 1 January 2000, a Saturday, by counting.
fn date(days_since_2000: i64) -> (i64, u64, u64, u64) {
    let weekday = (days_since_2000 + 6).rem_euclid(7) as u64;
    let (mut year, mut left) = (2000, days_since_2000);
    loop {
        let length: i64 = (1..=12).map(|month| month_length(year, month) as i64).sum();
        if left < length {
            break;
        }
        (year, left) = (year + 1, left - length);
    }
    let mut month = 1;
    while left >= month_length(year, month) as i64 {
        left -= month_length(year, month) as i64;
        month += 1;
    }
    (year, month, left as u64 + 1, weekday)
}

impl Thrown {
    fn has_day(&self, (year, month, day, weekday): (i64, u64, u64, u64)) -> bool {
        if !self.months[month as usize] {
            return false;
        }
        let length = month_length(year, month);
        let weekday_of = |other: u64| (weekday + 35 + other - day) % 7;
        let is_workday = |day: u64| !matches!(weekday_of(day), 0 | 6);
        // The nearest of the month; before rather than after on a Saturday, as both are as near never.
        let near = |wanted: u64| {
            (wanted <= length)
                .then(|| (1..=length).filter(|day| is_workday(*day)).min_by_key(|day| (day.abs_diff(wanted), *day)))
                .flatten()
        };
        let by_day = self.days[day as usize]
            || self.last_day && day == length
            || self.last_workday && (1..=length).rev().find(|day| is_workday(*day)) == Some(day)
            || self.workdays_near.iter().any(|wanted| near(*wanted) == Some(day));
        let by_weekday = self.weekdays[weekday as usize]
            || self.nth_weekdays.iter().any(|(wanted, nth)| *wanted == weekday && day.div_ceil(7) == *nth)
            || self.last_weekdays.iter().any(|wanted| *wanted == weekday && day + 7 > length);
        match (self.any_day, self.any_weekday) {
            (true, true) => true,
            (true, false) => by_weekday,
            (false, true) => by_day,
            (false, false) if self.both_days => by_day && by_weekday,
            (false, false) => by_day || by_weekday,
        }
    }

    fn has_minute(&self, second_of_day: i64) -> bool {
        self.hours[(second_of_day / 3600) as usize] && self.minutes[(second_of_day / 60 % 60) as usize]
    }

    fn seconds_of_minute(&self) -> impl Iterator<Item = i64> + '_ {
        self.seconds.iter().enumerate().filter(|(_, allowed)| **allowed).map(|(second, _)| second as i64)
    }
}

#[test]
fn eight_thousand_expressions_in_utc() {
    const DAYS: i64 = 2_200;
    let mut random = Random(0x5eed_0001);
    let mut none = 0;
    for _ in 0..8_000 {
        let thrown = throw(&mut random, 30);
        let table = table(&thrown.text, "UTC");
        let after = (random.below(80 * 366) * 86_400 + random.below(86_400)) as i64;
        let found = (after / 86_400..after / 86_400 + DAYS).filter(|day| thrown.has_day(date(*day))).find_map(|day| {
            (0..1440).map(|minute| minute * 60).filter(|second| thrown.has_minute(*second)).find_map(|minute| {
                thrown.seconds_of_minute().map(|second| day * 86_400 + minute + second).find(|moment| *moment > after)
            })
        });
        let next = table.next(after * SECOND);
        match found {
            Some(moment) => assert_eq!(next, Some(moment * SECOND), "{} after {}", thrown.text, show(after * SECOND)),
            None => {
                none += 1;
                assert!(next.is_none_or(|tick| tick > (after + (DAYS - 1) * 86_400) * SECOND), "{} after {after}", thrown.text);
            }
        }
        // Backwards: the one before is the one after which this one comes.
        if let (Some(next), Some(last)) = (next, table.last(after * SECOND)) {
            assert_eq!(table.last(next), Some(next), "{} until {}", thrown.text, show(next));
            assert!(last <= after * SECOND, "{}", thrown.text);
            assert_eq!(table.next(last), Some(next), "{} after {}", thrown.text, show(last));
        }
    }
    assert!(none < 1_000, "{none} of them come too rarely to show anything");
}

/// A minute of a window: when it begins, the day it belongs to as the clocks show it, the second of that day.
struct Minute {
    at: i64,
    date: (i64, u64, u64, u64),
    second: i64,
    offset: i64,
}

/// Three days around a change of the clocks.
fn window(timezone: &str, change: &str) -> Vec<Minute> {
    let zone = zone(timezone).expect("a zone");
    let middle = change.parse::<Timestamp>().expect("a time").as_second();
    (-2160..2160)
        .map(|minute| {
            let at = middle + minute * 60;
            let offset = i64::from(zone.to_offset(Timestamp::from_second(at).expect("a time")).seconds());
            let shown = at - EPOCH_S + offset;
            Minute { at: at - EPOCH_S, date: date(shown.div_euclid(86_400)), second: shown.rem_euclid(86_400), offset }
        })
        .collect()
}

/// The runs of a window, by asking each of its minutes; and whether these are all.
fn naive_runs(thrown: &Thrown, window: &[Minute], from: usize) -> (Vec<i64>, bool) {
    let matches = |date, second| thrown.has_day(date) && thrown.has_minute(second);
    let mut runs = Vec::new();
    for n in from.max(1)..window.len() {
        let (before, minute) = (&window[n - 1], &window[n]);
        let skipped = (minute.offset - before.offset).max(0) / 60;
        if skipped > 0 && !thrown.by_the_clock {
            let end = (minute.at + minute.offset).div_euclid(60);
            let is_skipped =
                (end - skipped..end).any(|shown| matches(date((shown * 60).div_euclid(86_400)), (shown * 60).rem_euclid(86_400)));
            if is_skipped {
                runs.push(minute.at);
            }
        }
        let is_repeated =
            || window[..n].iter().rev().take(300).any(|other| other.date == minute.date && other.second == minute.second);
        if matches(minute.date, minute.second) && (thrown.by_the_clock || !is_repeated()) {
            runs.extend(thrown.seconds_of_minute().map(|second| minute.at + second));
        }
        if runs.len() > 100 {
            break;
        }
    }
    let is_all = runs.len() <= 100;
    runs.dedup();
    (runs, is_all)
}

#[test]
fn two_thousand_expressions_around_changes_of_the_clocks() {
    let windows = [
        ("Europe/Berlin", "2026-03-29T01:00:00Z"),
        ("Europe/Berlin", "2026-10-25T01:00:00Z"),
        ("America/New_York", "2027-03-14T07:00:00Z"),
        ("America/New_York", "2027-11-07T06:00:00Z"),
        ("Australia/Lord_Howe", "2026-10-03T15:30:00Z"),
        ("Australia/Lord_Howe", "2026-04-04T15:00:00Z"),
        ("America/Sao_Paulo", "2018-11-04T03:00:00Z"),
        ("America/Sao_Paulo", "2018-02-18T02:00:00Z"),
        ("Africa/Casablanca", "2026-02-15T02:00:00Z"),
        ("Asia/Kathmandu", "2026-02-15T02:00:00Z"),
    ]
    .map(|(name, change)| (name, window(name, change)));
    let mut random = Random(0x5eed_0002);
    let (mut compared, mut nothing) = (0, 0);
    for n in 0..2_000 {
        let (name, window) = &windows[n % windows.len()];
        let thrown = throw(&mut random, 45);
        let table = table(&thrown.text, name);
        let from = random.between(1, 2_400) as usize;
        let (expected, is_all) = naive_runs(&thrown, window, from);
        let after = window[from].at - 1;
        let end = window.last().map_or(0, |minute| minute.at);
        let mut tick = after * SECOND;
        for run in &expected {
            let before = tick;
            tick = table.next(tick).unwrap_or(i64::MAX);
            assert_eq!(tick, run * SECOND, "{} in {name} after {}", thrown.text, show(before));
            // And back.
            assert_eq!(table.last(tick), Some(tick), "{} in {name} until {}", thrown.text, show(tick));
            if before > after * SECOND {
                assert_eq!(table.last(tick - 1), Some(before), "{} in {name} before {}", thrown.text, show(tick));
            }
            compared += 1;
        }
        // The last one until any moment, the second time around included.
        for _ in 0..5 {
            let until = window[random.between(from as u64, 4_319) as usize].at + random.below(60) as i64;
            if let Some(last) = expected.iter().rfind(|run| **run <= until).filter(|_| is_all) {
                assert_eq!(
                    table.last(until * SECOND),
                    Some(last * SECOND),
                    "{} in {name} until {}",
                    thrown.text,
                    show(until * SECOND)
                );
            }
        }
        if is_all {
            assert!(table.next(tick).is_none_or(|tick| tick > end * SECOND), "{} in {name} after {}", thrown.text, show(tick));
        }
        nothing += usize::from(expected.is_empty());
    }
    assert!(compared > 50_000 && nothing < 1_200, "{compared} runs, {nothing} expressions without one");
}
