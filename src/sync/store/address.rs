//! Store addresses: `s3://bucket/prefix?endpoint=…&region=auto` and `file:///directory`.

use std::path::PathBuf;

/// Where a store is, without any secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A bucket.
    S3 {
        /// Its name.
        bucket: String,
        /// Before every key; empty or ending in `/`.
        prefix: String,
        /// The service's URL; `None` for Amazon's own.
        endpoint: Option<String>,
        /// `auto` for R2.
        region: String,
    },
    /// A directory.
    File(PathBuf),
}

/// Why an address or what belongs to it is not usable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Neither `s3://` nor `file://`.
    #[error("`{0}` is no store: it must begin with `s3://` or `file:///`")]
    Scheme(String),
    /// No bucket or no directory in it.
    #[error("`{0}` names no {1}")]
    Empty(String, &'static str),
    /// A parameter after `?` that means nothing.
    #[error("`{0}` is no parameter of a store: there are `endpoint` and `region`")]
    Parameter(String),
    /// Some of the four variables but not all.
    #[error("the store is only half described: {} not set", .0.join(", "))]
    Half(Vec<&'static str>),
    /// The id would not stay one component of a key.
    #[error("the project id `{0}` cannot be part of a key: letters, digits, `_`, `-`, `.` and `/` can, `.` and `..` alone cannot")]
    Project(String),
}

/// The variables that describe R2, in the order in which they are named.
pub const R2_VARIABLES: [&str; 4] = ["R2_ENDPOINT", "R2_ACCESS_KEY_ID", "R2_SECRET_ACCESS_KEY", "R2_BUCKET_NAME"];

impl Address {
    /// Reads an address.
    pub fn parse(url: &str) -> Result<Self, AddressError> {
        if let Some(path) = url.strip_prefix("file://") {
            let path = PathBuf::from(path);
            return if path.is_absolute() {
                Ok(Self::File(path))
            } else {
                Err(AddressError::Empty(url.into(), "absolute directory"))
            };
        }
        let Some(rest) = url.strip_prefix("s3://") else {
            return Err(AddressError::Scheme(url.into()));
        };
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
        if bucket.is_empty() {
            return Err(AddressError::Empty(url.into(), "bucket"));
        }
        let (mut endpoint, mut region) = (None, "auto".to_owned());
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=') {
                Some(("endpoint", value)) => endpoint = Some(decode(value)),
                Some(("region", value)) => region = decode(value),
                _ => return Err(AddressError::Parameter(pair.into())),
            }
        }
        let prefix = prefix.trim_matches('/');
        Ok(Self::S3 {
            bucket: bucket.into(),
            prefix: if prefix.is_empty() { String::new() } else { format!("{prefix}/") },
            endpoint,
            region,
        })
    }

    /// What the four `R2_*` variables describe; `None` when none is set.
    pub fn from_variables(look_up: impl Fn(&str) -> Option<String>) -> Result<Option<Self>, AddressError> {
        let value = |name: &str| look_up(name).filter(|value| !value.is_empty());
        let missing: Vec<_> = R2_VARIABLES.into_iter().filter(|name| value(name).is_none()).collect();
        match (missing.len(), value("R2_ENDPOINT"), value("R2_BUCKET_NAME")) {
            (4, _, _) => Ok(None),
            (0, endpoint, Some(bucket)) => Ok(Some(Self::S3 {
                bucket,
                prefix: String::new(),
                endpoint,
                region: "auto".into(),
            })),
            _ => Err(AddressError::Half(missing)),
        }
    }

    /// The same store, one project's part of it.
    pub fn for_project(self, id: &str) -> Result<Self, AddressError> {
        let good = id.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-./".contains(&b))
            && id.split('/').all(|part| !matches!(part, "" | "." | ".." | ".sandkeep"));
        if !good {
            return Err(AddressError::Project(id.into()));
        }
        Ok(match self {
            Self::S3 {
                bucket,
                prefix,
                endpoint,
                region,
            } => Self::S3 {
                bucket,
                prefix: format!("{prefix}{id}/"),
                endpoint,
                region,
            },
            Self::File(path) => Self::File(path.join(id)),
        })
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::S3 { bucket, prefix, .. } => write!(f, "s3://{bucket}/{prefix}"),
            Self::File(path) => write!(f, "file://{}", path.display()),
        }
    }
}

/// Undoes percent encoding; what is not encoded well stays as it is.
pub fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let pair = bytes
            .get(at + 1..at + 3)
            .filter(|_| bytes[at] == b'%')
            .and_then(|pair| std::str::from_utf8(pair).ok());
        match pair.and_then(|pair| u8::from_str_radix(pair, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s3(bucket: &str, prefix: &str, endpoint: Option<&str>, region: &str) -> Address {
        Address::S3 {
            bucket: bucket.into(),
            prefix: prefix.into(),
            endpoint: endpoint.map(Into::into),
            region: region.into(),
        }
    }

    #[test]
    fn reads_addresses() {
        assert_eq!(Address::parse("file:///srv/x"), Ok(Address::File("/srv/x".into())));
        assert_eq!(Address::parse("s3://b"), Ok(s3("b", "", None, "auto")));
        assert_eq!(
            Address::parse("s3://b/some/where/?endpoint=http%3A%2F%2F127.0.0.1:9&region=eu"),
            Ok(s3("b", "some/where/", Some("http://127.0.0.1:9"), "eu"))
        );
        assert_eq!(Address::parse("gs://b"), Err(AddressError::Scheme("gs://b".into())));
        assert_eq!(Address::parse("s3:///x"), Err(AddressError::Empty("s3:///x".into(), "bucket")));
        assert_eq!(Address::parse("s3://b?regoin=x"), Err(AddressError::Parameter("regoin=x".into())));
        assert_eq!(
            Address::parse("file://x"),
            Err(AddressError::Empty("file://x".into(), "absolute directory"))
        );
    }

    #[test]
    fn half_a_description_names_the_rest() {
        let look_up = |name: &str| (name != "R2_BUCKET_NAME" && name != "R2_ENDPOINT").then(|| "x".to_owned());
        let error = Address::from_variables(look_up).expect_err("it is half set");
        assert_eq!(
            error.to_string(),
            "the store is only half described: R2_ENDPOINT, R2_BUCKET_NAME not set"
        );
        assert_eq!(Address::from_variables(|_| None), Ok(None));
        assert_eq!(
            Address::from_variables(|_| Some("x".into())),
            Ok(Some(s3("x", "", Some("x"), "auto")))
        );
    }

    #[test]
    fn a_project_is_one_prefix() {
        assert_eq!(
            s3("b", "p/", None, "auto").for_project("u1/x"),
            Ok(s3("b", "p/u1/x/", None, "auto"))
        );
        for id in ["", ".", "..", "a/../b", "/a", "a b", ".sandkeep"] {
            assert!(Address::File("/s".into()).for_project(id).is_err(), "{id:?}");
        }
    }
}
