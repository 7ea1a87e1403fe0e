//! The query of a request.

use axum::extract::Query;
use axum::http::Uri;
use serde::de::DeserializeOwned;

/// Reads it.
///
/// # Errors
/// What is wrong with it, for people.
pub fn read<T: DeserializeOwned>(uri: &Uri) -> Result<T, String> {
    let Query(query) = Query::try_from_uri(uri).map_err(|error| {
        let source = std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
        format!("reading the query: {source}")
    })?;
    Ok(query)
}
