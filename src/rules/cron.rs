//! Reading when a schedule runs: a cron expression, a word such as @daily, or an interval.
//!
//! croner reads the fields. It passes over mistakes that nobody would notice: names in the wrong field, empty parts, steps longer
//! than their field. Those are refused here first.

use super::limits::{CRON_BYTES, EVERY_MAX_S};
use crate::error::Error;
use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};

/// What the text of a schedule says.
#[derive(Debug, Clone, PartialEq)]
pub enum Rhythm {
    /// Times of the calendar and the clock, in a time zone.
    Calendar(Box<Calendar>),
    /// Seconds from one run to the next.
    Every(i64),
}

#[derive(Debug, Clone, PartialEq)]
pub struct Calendar {
    pub cron: Cron,
    /// The second, minute or hour is a wildcard: it runs whenever a clock on the wall shows a time that matches. Otherwise each time
    /// that is named is one run, also if the clocks are put forward past it, or back and show it twice.
    pub by_the_clock: bool,
}

struct Field {
    name: &'static str,
    most: u32,
    names: &'static [&'static str],
    marks: &'static [&'static str],
}

const DAYS: &[&str] = &["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"];
const MONTHS: &[&str] = &["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"];
const FIELDS: [Field; 6] = [
    Field { name: "second", most: 59, names: &[], marks: &[] },
    Field { name: "minute", most: 59, names: &[], marks: &[] },
    Field { name: "hour", most: 23, names: &[], marks: &[] },
    Field { name: "day of month", most: 31, names: &[], marks: &["L", "W", "LW"] },
    Field { name: "month", most: 12, names: MONTHS, marks: &[] },
    Field { name: "day of week", most: 7, names: DAYS, marks: &["L"] },
];
const WORDS: [(&str, &str); 7] = [
    ("@YEARLY", "0 0 1 1 *"),
    ("@ANNUALLY", "0 0 1 1 *"),
    ("@MONTHLY", "0 0 1 * *"),
    ("@WEEKLY", "0 0 * * 0"),
    ("@DAILY", "0 0 * * *"),
    ("@MIDNIGHT", "0 0 * * *"),
    ("@HOURLY", "0 * * * *"),
];

fn refuse(text: &str, problem: &str) -> Error {
    Error::invalid_value("cron", format!("say when it runs: {problem}"), text.escape_debug())
        .with_hint("For example '*/5 * * * *' (minute, hour, day of month, month, day of week), '@daily', or '10 minutes'.")
}

impl Rhythm {
    pub fn parse(text: &str) -> Result<Rhythm, Error> {
        if text.len() > CRON_BYTES {
            let (limit, size) = (format!("{CRON_BYTES} bytes"), format!("{} bytes", text.len()));
            return Err(Error::TooLong { argument: "cron", limit, size });
        }
        let upper = text.trim().to_ascii_uppercase();
        let is_interval = upper.starts_with("@EVERY ");
        match every(upper.strip_prefix("@EVERY ").unwrap_or(&upper)) {
            Some(seconds) if (1..=EVERY_MAX_S).contains(&seconds) => return Ok(Rhythm::Every(seconds)),
            Some(_) => return Err(refuse(text, "an interval is between 1 second and 366 days")),
            None if is_interval => {
                return Err(refuse(text, "an interval is whole numbers with units, such as 1 hour 30 minutes"));
            }
            None => {}
        }
        let fields = match WORDS.iter().find(|(word, _)| *word == upper) {
            Some((_, fields)) => fields,
            None if upper.starts_with('@') => return Err(refuse(text, "there is no such word")),
            None => upper.as_str(),
        };
        calendar(fields).map(|calendar| Rhythm::Calendar(Box::new(calendar))).map_err(|problem| refuse(text, &problem))
    }
}

fn calendar(text: &str) -> Result<Calendar, String> {
    let mut parts: Vec<&str> = text.split_ascii_whitespace().collect();
    if parts.len() == 5 {
        parts.insert(0, "0");
    }
    if parts.len() != FIELDS.len() {
        return Err(format!("it has {} fields instead of five, or six with the second first", text.split_whitespace().count()));
    }
    FIELDS.iter().zip(&parts).try_for_each(|(field, part)| field.check(part))?;
    let parser = CronParser::builder().seconds(Seconds::Required).year(Year::Disallowed).build();
    let cron = parser.parse(&parts.join(" ")).map_err(|problem| problem.to_string())?;
    let pattern = &cron.pattern;
    let by_the_clock = pattern.seconds.from_wildcard || pattern.minutes.from_wildcard || pattern.hours.from_wildcard;
    Ok(Calendar { cron, by_the_clock })
}

impl Field {
    fn check(&self, text: &str) -> Result<(), String> {
        let name = self.name;
        let parts = || text.strip_prefix('+').unwrap_or(text).split(',');
        for part in parts() {
            if part.is_empty() {
                return Err(format!("the {name} has an empty part"));
            }
            let (range, step) = part.split_once('/').map_or((part, None), |(range, step)| (range, Some(step)));
            if step.is_some_and(|step| !step.parse().is_ok_and(|step: u32| (1..=self.most).contains(&step))) {
                return Err(format!("a step of the {name} is a number from 1 to {}", self.most));
            }
            let mut words = range.split(|c: char| !c.is_alphabetic()).filter(|word| !word.is_empty());
            if let Some(word) = words.find(|word| !self.allows(word)) {
                return Err(format!("the {name} cannot have \"{word}\""));
            }
            let mut numbers = range.split(|c: char| !c.is_ascii_digit()).filter(|digits| !digits.is_empty());
            if numbers.any(|digits| !digits.parse().is_ok_and(|number: u32| number <= self.most)) {
                return Err(format!("the {name} is at most {}", self.most));
            }
            if range.contains("#L") {
                return Err(format!("the last one of a {name} is written as 5L"));
            }
        }
        if parts().any(|part| part == "L") && parts().any(|part| part == "LW") {
            return Err(format!("the {name} has both L and LW"));
        }
        Ok(())
    }

    fn allows(&self, word: &str) -> bool {
        let is_name = |word: &str| self.names.contains(&word);
        self.marks.contains(&word) || is_name(word) || (self.name == "day of week" && word.strip_suffix('L').is_some_and(is_name))
    }
}

/// Seconds of whole numbers with units; None for a text that is something else. Too large ones are more than any limit.
fn every(text: &str) -> Option<i64> {
    let mut rest = text.trim_start();
    let mut sum = 0i64;
    while !rest.is_empty() {
        let (number, behind) = rest.split_at(rest.bytes().take_while(u8::is_ascii_digit).count());
        let behind = behind.trim_start();
        let (unit, behind) = behind.split_at(behind.bytes().take_while(u8::is_ascii_alphabetic).count());
        let unit_s: i64 = match unit {
            "S" | "SEC" | "SECS" | "SECOND" | "SECONDS" => 1,
            "M" | "MIN" | "MINS" | "MINUTE" | "MINUTES" => 60,
            "H" | "HOUR" | "HOURS" => 3_600,
            "D" | "DAY" | "DAYS" => 86_400,
            "W" | "WEEK" | "WEEKS" => 604_800,
            _ => return None,
        };
        if number.is_empty() {
            return None;
        }
        sum = sum.saturating_add(number.parse().unwrap_or(i64::MAX).saturating_mul(unit_s));
        rest = behind.trim_start();
    }
    (!text.trim().is_empty()).then_some(sum)
}
