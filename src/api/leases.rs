//! Private functions for views and rescues: what shared memory knows of a lease.

use super::required;
use crate::clock::Timestamp;
use crate::error::Error;
use crate::pg::call::{Answer, Call, Outcome};
use crate::pg::leases;
use uuid::Uuid;

fn lease(call: &Call) -> Result<(Uuid, i64), Error> {
    Ok((required(call.uuid(0), "id")?, required(call.bigint(1), "lease")?))
}

/// `jobq._seen_at(id, lease, seen_at)`: the later of the two.
pub fn seen_at(call: &Call) -> Outcome {
    let (id, lease) = lease(call)?;
    let by_row = call.timestamp(2).unwrap_or(Timestamp(i64::MIN));
    Ok(Answer::Timestamp(leases::known(id, lease).map_or(by_row, |known| by_row.max(known.1))))
}

/// `jobq._lease_expires_at(id, lease, lease_expires_at)`: the later of the two.
pub fn lease_expires_at(call: &Call) -> Outcome {
    let (id, lease) = lease(call)?;
    let by_row = call.timestamp(2).unwrap_or(Timestamp(i64::MIN));
    Ok(Answer::Timestamp(leases::known(id, lease).map_or(by_row, |known| by_row.max(known.0))))
}

/// `jobq._progress(id, lease, progress)`: the one told last, which is in shared memory if there is one.
pub fn progress(call: &Call) -> Outcome {
    let (id, lease) = lease(call)?;
    let by_row = call.double(2).unwrap_or(-1.0);
    Ok(Answer::Double(leases::known(id, lease).map(|known| known.2).filter(|progress| *progress >= 0.0).unwrap_or(by_row)))
}

/// `jobq._is_kept(id, lease, expired, not_seen_since)`
pub fn is_kept(call: &Call) -> Outcome {
    let (id, lease) = lease(call)?;
    Ok(Answer::Bool(leases::is_kept(id, lease, required(call.boolean(2), "expired")?, call.timestamp(3))))
}

/// `jobq._is_lost(id, lease, expired, not_seen_since)`
pub fn is_lost(call: &Call) -> Outcome {
    let (id, lease) = lease(call)?;
    Ok(Answer::Bool(leases::is_lost(id, lease, required(call.boolean(2), "expired")?, call.timestamp(3))))
}
