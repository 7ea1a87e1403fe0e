//! What each route does.

pub(super) mod reads;
pub(super) mod streams;
pub(super) mod supervisor;
pub(super) mod units;
pub(super) mod workers;
