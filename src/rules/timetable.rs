//! When a schedule runs, and which of the runs that are due are made. Moments are microseconds since 2000, as Postgres keeps them;
//! every run, a tick, is at a whole second.

use super::cron::Rhythm;
use super::limits::LATE_MS;
use crate::error::Error;
use jiff::tz::{TimeZone, TimeZoneDatabase};
use std::sync::LazyLock;

/// The zones that are part of the library.
static ZONES: LazyLock<TimeZoneDatabase> = LazyLock::new(TimeZoneDatabase::bundled);

const SECOND: i64 = 1_000_000;
/// From 1970 to 2000.
const EPOCH_S: i64 = 946_684_800;

/// A time zone by its name in the IANA database, however its letters are written.
pub fn zone(name: &str) -> Result<TimeZone, Error> {
    let found = ZONES.get(name).ok().filter(|zone| !zone.is_unknown() && zone.iana_name().is_some());
    found.ok_or_else(|| {
        Error::invalid_value("timezone", "be the name of a time zone", name.escape_debug())
            .with_hint("Names are those of the IANA database, such as Europe/Berlin or UTC.")
    })
}

/// A rhythm, its zone and its bounds.
#[derive(Debug, Clone)]
pub struct Timetable {
    pub rhythm: Rhythm,
    pub zone: TimeZone,
    /// Intervals count from here.
    pub anchor: i64,
    /// The first moment that may be a tick.
    pub starts_at: Option<i64>,
    /// The first moment that may not.
    pub ends_at: Option<i64>,
}

/// What is done with ticks that were missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CatchUp {
    Skip,
    Last,
    All { most: i32 },
}

/// What is to be done now.
#[derive(Debug, PartialEq, Eq)]
pub struct Due {
    /// Ticks to run, in order.
    pub ticks: Vec<i64>,
    /// The tick after them, which may be due as well.
    pub then: Option<i64>,
}

/// The next whole second.
pub fn whole_second(micros: i64) -> i64 {
    micros.saturating_add(SECOND - 1).div_euclid(SECOND).saturating_mul(SECOND)
}

impl Timetable {
    /// The first tick after a moment.
    pub fn next(&self, after: i64) -> Option<i64> {
        let after = self.starts_at.map_or(after, |starts_at| after.max(starts_at.saturating_sub(1)));
        self.next_of_rhythm(after).filter(|tick| self.ends_at.is_none_or(|ends_at| *tick < ends_at))
    }

    /// The last tick up to a moment.
    pub fn last(&self, until: i64) -> Option<i64> {
        let until = self.ends_at.map_or(until, |ends_at| until.min(ends_at.saturating_sub(1)));
        self.last_of_rhythm(until).filter(|tick| self.starts_at.is_none_or(|starts_at| *tick >= starts_at))
    }

    /// Does the rhythm come at all, whatever its bounds?
    pub fn ever_comes(&self, after: i64) -> bool {
        self.next_of_rhythm(after).is_some()
    }

    fn next_of_rhythm(&self, after: i64) -> Option<i64> {
        match &self.rhythm {
            Rhythm::Calendar(calendar) => calendar.next(&self.zone, seconds(after)?).and_then(micros),
            Rhythm::Every(interval_s) => {
                let interval = interval_s.checked_mul(SECOND)?;
                let passed = after.checked_sub(self.anchor)?.div_euclid(interval);
                self.anchor.checked_add(passed.saturating_add(1).max(0).checked_mul(interval)?)
            }
        }
    }

    fn last_of_rhythm(&self, until: i64) -> Option<i64> {
        match &self.rhythm {
            Rhythm::Calendar(calendar) => calendar.last(&self.zone, seconds(until)?).and_then(micros),
            Rhythm::Every(interval_s) => {
                let interval = interval_s.checked_mul(SECOND)?;
                let passed = until.checked_sub(self.anchor)?.div_euclid(interval);
                self.anchor.checked_add(passed.checked_mul(interval)?).filter(|_| passed >= 0)
            }
        }
    }

    /// What is due at `now`, from the tick `next` on: at most `batch` ticks at a time.
    ///
    /// A tick that is no more than LATE_MS late is not missed, and always run. Of the missed ones `Skip` runs none; `Last` the newest,
    /// unless one that is not missed is due as well; `All` the newest so many.
    pub fn due(&self, next: i64, now: i64, catch_up: CatchUp, batch: usize) -> Due {
        let in_time = now.saturating_sub(LATE_MS.saturating_mul(1_000));
        let mut tick = if next >= in_time { Some(next) } else { self.first_of_missed(next, in_time, now, catch_up) };
        let mut ticks = Vec::new();
        while let Some(due) = tick.filter(|tick| *tick <= now && ticks.len() < batch) {
            ticks.push(due);
            tick = self.next(due);
        }
        Due { ticks, then: tick }
    }

    fn first_of_missed(&self, next: i64, in_time: i64, now: i64, catch_up: CatchUp) -> Option<i64> {
        // The timetable may have changed with the library: what was the next tick stays one.
        let newest = self.last(in_time.saturating_sub(1)).map_or(next, |tick| tick.max(next));
        let coming = self.next(newest);
        match catch_up {
            CatchUp::Skip => coming,
            CatchUp::Last => coming.filter(|tick| *tick <= now).or(Some(newest)),
            CatchUp::All { most } => {
                let before = |tick: &i64| self.last(tick.saturating_sub(1)).filter(|earlier| *earlier > next);
                let most = usize::try_from(most).unwrap_or(1);
                let found: Vec<i64> = std::iter::successors(Some(newest), before).take(most).collect();
                let first = found.last().copied().unwrap_or(newest);
                Some(if found.len() < most { next } else { first })
            }
        }
    }
}

/// Whole seconds since 1970.
fn seconds(micros: i64) -> Option<i64> {
    micros.div_euclid(SECOND).checked_add(EPOCH_S)
}

fn micros(seconds: i64) -> Option<i64> {
    seconds.checked_sub(EPOCH_S)?.checked_mul(SECOND)
}

/// The delay of one tick's job, from 0 to `most_ms`: the same for the same tick, different from name to name. FNV-1a, and the last
/// steps of splitmix64.
pub fn jitter_ms(name: &str, tick: i64, most_ms: i64) -> i64 {
    let bytes = name.bytes().chain(tick.to_be_bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    let hash = hash ^ (hash >> 31);
    let choices = u64::try_from(most_ms).unwrap_or(0).saturating_add(1);
    hash.checked_rem(choices).and_then(|ms| i64::try_from(ms).ok()).unwrap_or(0)
}
