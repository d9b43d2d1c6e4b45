//! Which texts are names. ASCII only: two names that look alike are alike, and no name needs quoting in a log line.

use crate::error::Error;

/// The queue that is always there.
pub const DEFAULT_QUEUE: &str = "default";

const QUEUE_RULE: &str = "be 1 to 63 characters of A-Z a-z 0-9 _ . : -";
const LABEL_RULE: &str = "be 1 to 128 characters of A-Z a-z 0-9 _ . : / @ -";

fn queue_char(c: u8) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, b'_' | b'.' | b':' | b'-')
}

fn label_char(c: u8) -> bool {
    queue_char(c) || matches!(c, b'/' | b'@')
}

/// A queue name: `^[A-Za-z0-9_.:-]{1,63}$`. No comma, so that several names fit in one argument.
pub fn queue(argument: &'static str, name: &str) -> Result<(), Error> {
    if (1..=63).contains(&name.len()) && name.bytes().all(queue_char) {
        Ok(())
    } else {
        Err(Error::invalid_value(argument, QUEUE_RULE, name.escape_debug()))
    }
}

/// A worker name or kind: `^[A-Za-z0-9_.:/@-]{1,128}$`.
pub fn label(argument: &'static str, name: &str) -> Result<(), Error> {
    if (1..=128).contains(&name.len()) && name.bytes().all(label_char) {
        Ok(())
    } else {
        Err(Error::invalid_value(argument, LABEL_RULE, name.escape_debug()))
    }
}
