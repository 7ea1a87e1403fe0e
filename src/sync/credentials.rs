//! Keys to the store: from the environment, a file, a command or a URL; temporary ones are read again before they end.
//!
//! The last three give JSON, in the form of AWS's `credential_process` (`AccessKeyId`, …, `Expiration`) or of R2's API
//! (`accessKeyId`, …, `expiration`). Keys that do not end have no place in a box whose agent can become root.

use serde::Deserialize;
use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

/// Temporary keys are read again this long before they end.
const EARLY: Duration = Duration::from_secs(300);
/// How long a command or URL may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// Where the keys come from.
#[derive(Clone, PartialEq, Eq)]
pub enum Source {
    /// These, which do not change.
    Fixed(Keys),
    /// A file, read again when they are about to end.
    File(PathBuf),
    /// A command for `/bin/sh -c`.
    Command(String),
    /// A GET; the token, where there is one, goes with it as bearer.
    Url {
        /// Where.
        url: String,
        /// `Authorization: Bearer …`.
        token: Option<String>,
    },
}

/// A key pair.
#[derive(Clone, PartialEq, Eq)]
pub struct Keys {
    /// The id, which is no secret.
    pub access_key_id: String,
    /// The secret.
    pub secret_access_key: String,
    /// Goes with temporary keys.
    pub session_token: Option<String>,
    /// When they end.
    pub expires_at: Option<SystemTime>,
}

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// None of the variables is set.
    #[error(
        "no keys to the store: set R2_ACCESS_KEY_ID and R2_SECRET_ACCESS_KEY, or one of R2_CREDENTIALS_FILE, R2_CREDENTIALS_COMMAND, R2_CREDENTIALS_URL"
    )]
    None,
    /// The source did not give any.
    #[error("getting keys from {from}: {why}")]
    Source {
        /// The source.
        from: String,
        /// The reason; never the keys.
        why: String,
    },
}

impl Source {
    /// The source that the environment names; explicit ones first, then `R2_*`, then `AWS_*`.
    pub fn from_variables(look_up: impl Fn(&str) -> Option<String>) -> Result<Self, CredentialsError> {
        let value = |name: &str| look_up(name).filter(|value| !value.is_empty());
        if let Some(path) = value("R2_CREDENTIALS_FILE") {
            return Ok(Self::File(path.into()));
        }
        if let Some(command) = value("R2_CREDENTIALS_COMMAND") {
            return Ok(Self::Command(command));
        }
        if let Some(url) = value("R2_CREDENTIALS_URL") {
            let token = value("R2_CREDENTIALS_TOKEN");
            return Ok(Self::Url { url, token });
        }
        for family in ["R2", "AWS"] {
            let pair = (
                value(&format!("{family}_ACCESS_KEY_ID")),
                value(&format!("{family}_SECRET_ACCESS_KEY")),
            );
            if let (Some(access_key_id), Some(secret_access_key)) = pair {
                return Ok(Self::Fixed(Keys {
                    access_key_id,
                    secret_access_key,
                    session_token: value(&format!("{family}_SESSION_TOKEN")),
                    expires_at: None,
                }));
            }
        }
        Err(CredentialsError::None)
    }

    /// Reads the keys.
    pub async fn read(&self) -> Result<Keys, CredentialsError> {
        let text = match self {
            Self::Fixed(keys) => return Ok(keys.clone()),
            Self::File(path) => tokio::fs::read_to_string(path).await.map_err(|error| self.failed(error))?,
            Self::Command(command) => {
                let mut shell = tokio::process::Command::new("/bin/sh");
                shell.arg("-c").arg(command).stdin(std::process::Stdio::null()).kill_on_drop(true);
                // The three of ours that a worker passes on; never the notify socket.
                shell.env_remove("NOTIFY_SOCKET");
                let output = tokio::time::timeout(PATIENCE, shell.output()).await;
                let output = output
                    .map_err(|_| self.failed("it took too long"))?
                    .map_err(|error| self.failed(error))?;
                if !output.status.success() {
                    return Err(self.failed(output.status));
                }
                String::from_utf8(output.stdout).map_err(|_| self.failed("its output is not UTF-8"))?
            }
            Self::Url { url, token } => self.ask(url, token.as_deref()).await?,
        };
        parse(&text).map_err(|why| self.failed(why))
    }

    async fn ask(&self, url: &str, token: Option<&str>) -> Result<String, CredentialsError> {
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(crate::web::tls::config())
            .timeout(PATIENCE)
            .build();
        let mut request = client.map_err(|error| self.failed(error.without_url()))?.get(url);
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        let response = request.send().await.and_then(reqwest::Response::error_for_status);
        let response = response.map_err(|error| self.failed(error.without_url()))?;
        response.text().await.map_err(|error| self.failed(error.without_url()))
    }

    fn failed(&self, why: impl fmt::Display) -> CredentialsError {
        CredentialsError::Source {
            from: format!("{self:?}"),
            why: why.to_string(),
        }
    }
}

impl Keys {
    /// Whether they are to be read again by now.
    pub fn are_stale(&self, now: SystemTime) -> bool {
        self.expires_at.is_some_and(|end| end < now + EARLY)
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(_) => f.write_str("the environment"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Command(_) => f.write_str("R2_CREDENTIALS_COMMAND"),
            Self::Url { .. } => f.write_str("R2_CREDENTIALS_URL"),
        }
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys")
            .field("access_key_id", &self.access_key_id)
            .finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
struct Wire {
    #[serde(alias = "AccessKeyId", alias = "accessKeyId")]
    access_key_id: String,
    #[serde(alias = "SecretAccessKey", alias = "secretAccessKey")]
    secret_access_key: String,
    #[serde(alias = "SessionToken", alias = "sessionToken")]
    session_token: Option<String>,
    #[serde(alias = "Expiration", alias = "expiration", alias = "expiresAt")]
    expires_at: Option<String>,
}

fn parse(text: &str) -> Result<Keys, String> {
    // serde_json's own message could quote the secret.
    let wire: Wire = serde_json::from_str(text).map_err(|error| format!("not the JSON that was expected (line {})", error.line()))?;
    let expires_at = match wire.expires_at.as_deref() {
        None | Some("") => None,
        Some(text) => {
            let end: jiff::Timestamp = text.parse().map_err(|_| "its end is no RFC 3339 time".to_owned())?;
            let since_epoch = Duration::try_from(end.duration_since(jiff::Timestamp::UNIX_EPOCH)).unwrap_or_default();
            Some(SystemTime::UNIX_EPOCH + since_epoch)
        }
    };
    Ok(Keys {
        access_key_id: wire.access_key_id,
        secret_access_key: wire.secret_access_key,
        session_token: wire.session_token.filter(|token| !token.is_empty()),
        expires_at,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spellings_are_read() {
        let aws = r#"{"Version":1,"AccessKeyId":"a","SecretAccessKey":"s","SessionToken":"t","Expiration":"2026-01-02T03:04:05Z"}"#;
        let keys = parse(aws).expect("good");
        assert_eq!((keys.access_key_id.as_str(), keys.session_token.as_deref()), ("a", Some("t")));
        let end = keys.expires_at.expect("it ends");
        assert!(keys.are_stale(end) && keys.are_stale(end - Duration::from_secs(299)) && !keys.are_stale(end - Duration::from_secs(301)));
        let r2 = r#"{"accessKeyId":"a","secretAccessKey":"s","sessionToken":""}"#;
        assert_eq!(parse(r2).expect("good").session_token, None);
    }

    #[test]
    fn no_secret_is_shown() {
        let error = parse(r#"{"secretAccessKey":"hush", "accessKeyId": 5}"#).expect_err("bad");
        assert!(!error.contains("hush"), "{error}");
        let keys = parse(r#"{"accessKeyId":"a","secretAccessKey":"hush"}"#).expect("good");
        assert!(!format!("{keys:?} {:?}", Source::Fixed(keys.clone())).contains("hush"));
    }

    #[tokio::test]
    async fn a_command_and_a_file_give_keys() {
        let json = r#"{"accessKeyId":"a","secretAccessKey":"s"}"#;
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("keys");
        std::fs::write(&path, json).expect("written");
        let from_file = Source::File(path.clone()).read().await.expect("keys");
        let from_command = Source::Command(format!("cat {}", path.display())).read().await.expect("keys");
        assert_eq!(from_file, from_command);
        let error = Source::Command("exit 3".into()).read().await.expect_err("it fails");
        assert_eq!(error.to_string(), "getting keys from R2_CREDENTIALS_COMMAND: exit status: 3");
    }
}
