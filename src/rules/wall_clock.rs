//! Times of the calendar in a time zone, whose clocks may be put forward and back.
//!
//! croner searches a calendar without time zones; what becomes of the times it finds is decided here. A time that the clocks skip is
//! run at the first moment after the gap, one that they show twice at the first time; but a calendar that goes by the clock runs
//! whenever a clock on the wall shows a matching time. All moments are seconds since 1970.

use super::cron::Calendar;
use croner::errors::CronError;
use croner::{CivilDate, CivilDateTime, CivilTime, CronDateTime, Resolution, Weekday};
use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, Offset, TimeZone};
use jiff::{SignedDuration, Timestamp};
use std::cmp::Ordering;

/// A search ends after so many years: the 29th of February comes on the same weekday at least that often.
const YEARS: u32 = 41;

/// A time as a clock on the wall shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Wall(DateTime);

impl CronDateTime for Wall {
    fn to_civil(&self) -> CivilDateTime {
        let part = |number: i8| u32::from(number.unsigned_abs());
        CivilDateTime::new(
            CivilDate::from_parts_unchecked(self.0.year().into(), part(self.0.month()), part(self.0.day())),
            CivilTime::from_parts_unchecked(part(self.0.hour()), part(self.0.minute()), part(self.0.second())),
        )
    }

    fn civil_weekday(&self) -> Weekday {
        Weekday::from_days_from_sunday(u32::from(self.0.weekday().to_sunday_zero_offset().unsigned_abs()))
    }

    fn resolve_civil(&self, civil: CivilDateTime) -> Result<Resolution<Self>, CronError> {
        let is_too_far = civil.year().abs_diff(self.0.year().into()) > YEARS;
        let part = |number: u32| i8::try_from(number).unwrap_or(i8::MAX);
        let year = i16::try_from(civil.year()).ok().filter(|_| !is_too_far).ok_or(CronError::TimeSearchLimitExceeded)?;
        DateTime::new(
            year,
            part(civil.month()),
            part(civil.day()),
            part(civil.hour()),
            part(civil.minute()),
            part(civil.second()),
            0,
        )
        .map(|time| Resolution::Single(Wall(time)))
        .map_err(|_| CronError::InvalidDate)
    }

    fn checked_add_seconds(&self, seconds: i64) -> Option<Self> {
        self.0.checked_add(SignedDuration::from_secs(seconds)).ok().map(Wall)
    }

    fn cmp_instant(&self, other: &Self) -> Ordering {
        self.cmp(other)
    }
}

/// When the clocks of a zone show a time.
enum Moment {
    Once(i64),
    /// They are put back, at `back`.
    Twice {
        first: i64,
        second: i64,
        back: i64,
    },
    /// They are put forward, at `end`.
    Skipped {
        end: i64,
    },
}

fn show(zone: &TimeZone, at: i64) -> Option<Wall> {
    Some(Wall(zone.to_datetime(Timestamp::from_second(at).ok()?)))
}

fn moment(zone: &TimeZone, wall: Wall) -> Option<Moment> {
    let by = |offset: Offset| Some(offset.to_timestamp(wall.0).ok()?.as_second());
    // The first change to this offset after a moment shortly before it.
    let change = |since: i64, offset: Offset| {
        let mut changes = zone.following(Timestamp::from_second(since).ok()?);
        changes.find(|change| change.offset() == offset).map(|change| change.timestamp().as_second())
    };
    Some(match zone.to_ambiguous_timestamp(wall.0).offset() {
        AmbiguousOffset::Unambiguous { offset } => Moment::Once(by(offset)?),
        AmbiguousOffset::Fold { before, after } => {
            let first = by(before)?;
            Moment::Twice { first, second: by(after)?, back: change(first, after)? }
        }
        AmbiguousOffset::Gap { after, .. } => Moment::Skipped { end: change(by(after)?, after)? },
    })
}

impl Calendar {
    /// The first run after a moment; None if there is none in a lifetime.
    pub fn next(&self, zone: &TimeZone, after: i64) -> Option<i64> {
        if self.by_the_clock { self.next_by_the_clock(zone, after) } else { self.next_once(zone, after) }
    }

    /// The last run up to a moment.
    pub fn last(&self, zone: &TimeZone, until: i64) -> Option<i64> {
        if self.by_the_clock { self.last_by_the_clock(zone, until) } else { self.last_once(zone, until) }
    }

    fn forward(&self, from: Wall, inclusive: bool) -> Option<Wall> {
        self.cron.find_next_occurrence(&from, inclusive).ok()
    }

    fn backward(&self, from: Wall, inclusive: bool) -> Option<Wall> {
        self.cron.find_previous_occurrence(&from, inclusive).ok()
    }

    /// Where each time is one run: later times never run earlier, so the first that is later is the next.
    fn next_once(&self, zone: &TimeZone, after: i64) -> Option<i64> {
        let mut wall = show(zone, after)?;
        loop {
            wall = self.forward(wall, false)?;
            let run = match moment(zone, wall)? {
                Moment::Once(at) | Moment::Twice { first: at, .. } | Moment::Skipped { end: at } => at,
            };
            if run > after {
                return Some(run);
            }
        }
    }

    fn last_once(&self, zone: &TimeZone, until: i64) -> Option<i64> {
        let here = show(zone, until)?;
        // The second time around, all that the clocks showed the first time is over.
        let from = match moment(zone, here)? {
            Moment::Twice { back, .. } if until >= back => show(zone, back.checked_sub(1)?)?,
            _ => here,
        };
        let mut wall = self.backward(from, true)?;
        loop {
            let run = match moment(zone, wall)? {
                Moment::Once(at) | Moment::Twice { first: at, .. } | Moment::Skipped { end: at } => at,
            };
            if run <= until {
                return Some(run);
            }
            wall = self.backward(wall, false)?;
        }
    }

    fn next_by_the_clock(&self, zone: &TimeZone, after: i64) -> Option<i64> {
        let here = show(zone, after)?;
        let again = match moment(zone, here)? {
            // Before the clocks show all this once more.
            Moment::Twice { back, .. } if after < back => self.shown_again(zone, here, back),
            _ => None,
        };
        let ahead = self.next_ahead(zone, here, after);
        [again, ahead].into_iter().flatten().min()
    }

    /// What the clocks show a second time, up to what they show now.
    fn shown_again(&self, zone: &TimeZone, here: Wall, back: i64) -> Option<i64> {
        let wall = self.forward(show(zone, back)?, true).filter(|wall| *wall <= here)?;
        match moment(zone, wall)? {
            Moment::Once(at) | Moment::Twice { second: at, .. } => Some(at),
            Moment::Skipped { .. } => None,
        }
    }

    fn next_ahead(&self, zone: &TimeZone, here: Wall, after: i64) -> Option<i64> {
        let (mut wall, mut inclusive) = (here, false);
        loop {
            wall = self.forward(wall, inclusive)?;
            inclusive = false;
            match moment(zone, wall)? {
                Moment::Once(at) if at > after => return Some(at),
                Moment::Twice { first, .. } if first > after => return Some(first),
                Moment::Twice { second, .. } if second > after => return Some(second),
                Moment::Skipped { end } => (wall, inclusive) = (show(zone, end)?, true),
                Moment::Once(_) | Moment::Twice { .. } => {}
            }
        }
    }

    fn last_by_the_clock(&self, zone: &TimeZone, until: i64) -> Option<i64> {
        let here = show(zone, until)?;
        let first_time = match moment(zone, here)? {
            Moment::Twice { back, .. } if until >= back => self.shown_before(zone, here, back),
            _ => None,
        };
        let behind = self.last_behind(zone, here, until);
        [first_time, behind].into_iter().flatten().max()
    }

    /// What the clocks showed the first time, from what they show now on.
    fn shown_before(&self, zone: &TimeZone, here: Wall, back: i64) -> Option<i64> {
        let wall = self.backward(show(zone, back.checked_sub(1)?)?, true).filter(|wall| *wall > here)?;
        match moment(zone, wall)? {
            Moment::Once(at) | Moment::Twice { first: at, .. } => Some(at),
            Moment::Skipped { .. } => None,
        }
    }

    fn last_behind(&self, zone: &TimeZone, here: Wall, until: i64) -> Option<i64> {
        let (mut wall, mut inclusive) = (here, true);
        loop {
            wall = self.backward(wall, inclusive)?;
            inclusive = false;
            match moment(zone, wall)? {
                Moment::Once(at) if at <= until => return Some(at),
                Moment::Twice { second, .. } if second <= until => return Some(second),
                Moment::Twice { first, .. } if first <= until => return Some(first),
                Moment::Skipped { end } => (wall, inclusive) = (show(zone, end.checked_sub(1)?)?, true),
                Moment::Once(_) | Moment::Twice { .. } => {}
            }
        }
    }
}
