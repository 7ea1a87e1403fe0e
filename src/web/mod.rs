//! What every side of HTTP here has in common: whom a client trusts, how a door takes connections, how a query is read, how an API is
//! described. Knows nothing of who uses it.

pub mod connection;
#[cfg(test)]
pub(crate) mod description;
pub mod door;
pub mod query;
#[cfg(feature = "tls")]
pub mod tls;
