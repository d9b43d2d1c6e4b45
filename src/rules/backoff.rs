//! How long a failed job waits before its next attempt.

use super::limits::AHEAD_MAX_MS;
use crate::error::Error;
use serde::Deserialize;

/// A queue's backoff policy. Durations are text such as "250ms", "5s", "10m", "1h", "1d".
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum Backoff {
    /// base * factor^(attempt - 1), at most max, plus or minus jitter (a share of the delay).
    Exponential {
        #[serde(default = "five_seconds")]
        base: Delay,
        #[serde(default = "two")]
        factor: f64,
        #[serde(default = "one_hour")]
        max: Delay,
        #[serde(default = "tenth")]
        jitter: f64,
    },
    /// base * attempt, at most max.
    Linear {
        base: Delay,
        #[serde(default = "one_day")]
        max: Delay,
        #[serde(default)]
        jitter: f64,
    },
    /// base, always.
    Constant {
        base: Delay,
        #[serde(default)]
        jitter: f64,
    },
    /// The n-th delay after the n-th attempt; the last one from there on.
    List {
        delays: Vec<Delay>,
        #[serde(default)]
        jitter: f64,
    },
}

impl Default for Backoff {
    fn default() -> Self {
        Backoff::Exponential { base: five_seconds(), factor: two(), max: one_hour(), jitter: tenth() }
    }
}

fn five_seconds() -> Delay {
    Delay(5_000)
}
fn one_hour() -> Delay {
    Delay(3_600_000)
}
fn one_day() -> Delay {
    Delay(86_400_000)
}
fn two() -> f64 {
    2.0
}
fn tenth() -> f64 {
    0.1
}

const LIST_MAX: usize = 1_000;
const FACTOR_MAX: f64 = 1_000.0;

impl Backoff {
    /// Reads a policy from its JSON text; the error names the field.
    pub fn parse(json: &str) -> Result<Backoff, Error> {
        let policy: Backoff = serde_json::from_str(json).map_err(|problem| Error::Invalid {
            argument: "backoff".into(),
            rule: format!("be a backoff policy: {}", reason(&problem)),
            value: None,
            hint: Some("For example {\"kind\": \"exponential\", \"base\": \"5s\", \"factor\": 2, \"max\": \"1h\", \"jitter\": 0.1}; other kinds: linear, constant, list."),
        })?;
        policy.check()?;
        Ok(policy)
    }

    fn check(&self) -> Result<(), Error> {
        let jitter = match self {
            Backoff::Exponential { factor, jitter, .. } => {
                if !(1.0..=FACTOR_MAX).contains(factor) {
                    return Err(Error::invalid_value("backoff.factor", "be between 1 and 1000", factor));
                }
                jitter
            }
            Backoff::List { delays, jitter } => {
                if delays.is_empty() || delays.len() > LIST_MAX {
                    return Err(Error::invalid("backoff.delays", "have 1 to 1000 entries"));
                }
                jitter
            }
            Backoff::Linear { jitter, .. } | Backoff::Constant { jitter, .. } => jitter,
        };
        if (0.0..=1.0).contains(jitter) {
            Ok(())
        } else {
            Err(Error::invalid_value("backoff.jitter", "be between 0 and 1", jitter))
        }
    }

    /// Milliseconds to wait after attempt number `attempt` (1 is the first). `random` in 0..1 places the delay within its jitter.
    /// Never negative, never above ten years.
    pub fn delay_ms(&self, attempt: i32, random: f64) -> i64 {
        let attempt = attempt.max(1);
        let (ms, jitter) = match self {
            Backoff::Exponential { base, factor, max, jitter } => {
                let grown = base.ms() * factor.powi(attempt.saturating_sub(1));
                (grown.min(max.ms()), *jitter)
            }
            Backoff::Linear { base, max, jitter } => ((base.ms() * f64::from(attempt)).min(max.ms()), *jitter),
            Backoff::Constant { base, jitter } => (base.ms(), *jitter),
            Backoff::List { delays, jitter } => {
                let nth = usize::try_from(attempt).unwrap_or(usize::MAX).saturating_sub(1);
                (delays.get(nth).or(delays.last()).map_or(0.0, Delay::ms), *jitter)
            }
        };
        let spread = ms * jitter * (2.0 * random.clamp(0.0, 1.0) - 1.0);
        // `as` saturates, and NaN becomes 0.
        ((ms + spread) as i64).clamp(0, AHEAD_MAX_MS)
    }
}

/// Milliseconds, written as a number and a unit: ms, s, m, h, d.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Delay(i64);

impl Delay {
    fn ms(&self) -> f64 {
        self.0 as f64
    }
}

impl TryFrom<String> for Delay {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let unit_ms: i64 = match unit.trim() {
            "ms" => 1,
            "s" => 1_000,
            "m" | "min" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(format!("\"{}\" is not a duration such as 250ms, 5s, 10m, 1h or 1d", shorten(&text))),
        };
        number
            .parse::<i64>()
            .ok()
            .and_then(|n| n.checked_mul(unit_ms))
            .filter(|ms| (0..=AHEAD_MAX_MS).contains(ms))
            .map(Delay)
            .ok_or_else(|| format!("\"{}\" is not a duration between 0 and ten years", shorten(&text)))
    }
}

fn shorten(text: &str) -> String {
    text.chars().take(40).collect()
}

/// serde's own words, without its "at line 1 column 20".
fn reason(problem: &serde_json::Error) -> String {
    let text = problem.to_string();
    text.split(" at line ").next().unwrap_or_default().to_string()
}
