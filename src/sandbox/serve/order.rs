//! What is asked for when a sandbox is started: the body as it comes, and what is kept of it.

use super::keys::hex;
use super::problem::{FieldError, Problem};
use crate::sandbox::provider::Secret;
use crate::sandbox::record::check_name;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// The longest command, address or name.
const LONGEST: usize = 4096;
/// What the server itself says to the sandbox.
const OURS: [&str; 4] = ["SANDBOX_ID", "SANDBOX_EXPIRES_AT", "SANDKEEP_TOKEN", "SANDKEEP_REPORT_URL"];

/// Starts a sandbox, or makes sure that the one of this id is as it should be.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StartBody {
    /// Where the project is cloned from. No credentials in it: a private repository's token is the server's.
    #[schema(example = "https://github.com/acme/shop")]
    github_repo_url: String,
    /// A branch or tag; the repository's own if absent.
    #[serde(default)]
    branch_name: Option<String>,
    /// The install command; what the project says if absent, none if empty.
    #[serde(default)]
    #[schema(example = "npm install")]
    install_command: Option<String>,
    /// The dev command; what the project says if absent.
    #[serde(default)]
    #[schema(example = "npm run dev")]
    development_command: Option<String>,
    /// The dev server's port; what the project says if absent.
    #[serde(default)]
    #[schema(value_type = Option<u16>, minimum = 1, maximum = 65535, example = 3000)]
    port: Option<i64>,
    /// The sandbox to start, and its SANDBOX_ID; a new one if absent.
    #[serde(default)]
    sandbox_id: Option<String>,
    /// Whose files these are in the store; the sandbox's id if absent.
    #[serde(default)]
    project_id: Option<String>,
    /// Variables for the supervisor beside those that the server gives to every sandbox. Kept in memory alone.
    #[serde(default)]
    environment: BTreeMap<String, String>,
}

impl std::fmt::Debug for StartBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StartBody")
            .field("github_repo_url", &self.github_repo_url)
            .finish_non_exhaustive()
    }
}

/// What a start was asked for. Names of variables, never values.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Order {
    /// Where the project is cloned from.
    pub github_repo_url: String,
    /// A branch or tag.
    pub branch_name: Option<String>,
    /// The install command.
    pub install_command: Option<String>,
    /// The dev command.
    pub development_command: Option<String>,
    /// The dev server's port.
    pub port: Option<u16>,
    /// The sandbox that was named, if one was.
    pub sandbox_id: Option<String>,
    /// Whose files these are in the store.
    pub project_id: Option<String>,
    /// The names of the variables that came with the request.
    #[serde(default)]
    pub environment_names: Vec<String>,
}

/// Variables and their values.
pub type Environment = Vec<(String, Secret)>;

impl StartBody {
    /// What is asked for, valid, and the environment that came with it.
    ///
    /// # Errors
    /// Everything that is wrong with it, at once.
    pub fn checked(self) -> Result<(Order, Environment), Problem> {
        let mut errors = Errors::default();
        errors.check("githubRepoUrl", repo(&self.github_repo_url));
        let branch_name = self.branch_name.filter(|branch| !branch.is_empty());
        errors.check("branchName", branch_name.as_deref().map_or(Ok(()), branch));
        errors.check("installCommand", self.install_command.as_deref().map_or(Ok(()), command));
        errors.check("developmentCommand", self.development_command.as_deref().map_or(Ok(()), command));
        let port = self.port.map(port).transpose();
        errors.check("port", port.as_ref().map(|_| ()).map_err(Clone::clone));
        let named = self.sandbox_id.as_deref().map_or(Ok(()), check_name);
        let said = |fault: crate::sandbox::Fault| match fault.hint {
            Some(hint) => format!("{}: {hint}", fault.message),
            None => fault.message,
        };
        errors.check("sandboxId", named.map_err(said));
        errors.check("projectId", self.project_id.as_deref().map_or(Ok(()), project));
        for (name, value) in &self.environment {
            errors.check(&format!("environment/{}", pointer(name)), variable(name, value));
        }
        if !errors.0.is_empty() {
            return Err(Problem::fields(errors.0));
        }
        let order = Order {
            github_repo_url: self.github_repo_url.trim().to_owned(),
            branch_name,
            install_command: self.install_command,
            development_command: self.development_command,
            port: port.unwrap_or(None),
            sandbox_id: self.sandbox_id,
            project_id: self.project_id,
            environment_names: self.environment.keys().cloned().collect(),
        };
        let environment = self.environment.into_iter();
        Ok((order, environment.map(|(name, value)| (name, Secret::new(value))).collect()))
    }
}

impl Order {
    /// Tells two orders apart. Values of variables are not in it.
    pub fn fingerprint(&self) -> String {
        let text = serde_json::to_vec(self).unwrap_or_default();
        hex(&Sha256::digest(text))
    }
}

#[derive(Default)]
struct Errors(Vec<FieldError>);

impl Errors {
    fn check(&mut self, field: &str, checked: Result<(), String>) {
        if let Err(detail) = checked {
            self.0.push(FieldError {
                pointer: format!("/{field}"),
                detail,
            });
        }
    }
}

/// RFC 6901.
fn pointer(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

fn text(what: &str, text: &str) -> Result<(), String> {
    if text.len() > LONGEST {
        return Err(format!("{what} is longer than {LONGEST} bytes"));
    }
    match text.chars().find(|c| c.is_control() && !matches!(c, '\n' | '\t')) {
        Some(_) => Err(format!("{what} has a control character in it")),
        None => Ok(()),
    }
}

fn repo(url: &str) -> Result<(), String> {
    let url = url.trim();
    text("githubRepoUrl", url)?;
    if url.is_empty() {
        return Err("githubRepoUrl is empty".to_owned());
    }
    if url.starts_with('-') || url.contains(char::is_whitespace) {
        return Err(format!("`{url}` is no address of a repository"));
    }
    let Some((scheme, rest)) = url.split_once("://") else {
        // git@github.com:acme/shop.git
        let short = url
            .split_once(':')
            .is_some_and(|(host, path)| host.contains('@') && !path.is_empty());
        let hint = "write `https://github.com/OWNER/NAME`";
        return if short {
            Ok(())
        } else {
            Err(format!("`{url}` is no address of a repository: {hint}"))
        };
    };
    if !["https", "http", "ssh", "git", "file"].contains(&scheme) {
        return Err(format!(
            "githubRepoUrl begins with `{scheme}://`: https, http, ssh, git or file are known"
        ));
    }
    let authority = rest.split('/').next().unwrap_or("");
    let user = authority.rsplit_once('@').map_or("", |(user, _)| user);
    if user.contains(':') || (scheme.starts_with("http") && !user.is_empty()) {
        // Not repeated: it may be a token.
        return Err("githubRepoUrl has credentials in it: give the server the repository's token instead".to_owned());
    }
    if rest.trim_matches('/').is_empty() {
        return Err(format!("`{url}` names no repository"));
    }
    Ok(())
}

/// As far as git-check-ref-format(1) is about single names.
fn branch(name: &str) -> Result<(), String> {
    text("branchName", name)?;
    let bad = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '~' | '^' | ':' | '?' | '*' | '[' | '\\');
    let wrong = name.starts_with('-') || name.starts_with('/') || name.ends_with('/') || name.ends_with('.');
    if wrong || name.contains(bad) || name.contains("..") || name.contains("@{") || name.contains("//") {
        return Err(format!("`{name}` cannot be the name of a branch"));
    }
    Ok(())
}

fn command(line: &str) -> Result<(), String> {
    text("a command", line)
}

fn port(number: i64) -> Result<u16, String> {
    let port = u16::try_from(number).ok().filter(|port| *port > 0);
    port.ok_or_else(|| format!("{number} is no port: 1 to 65535"))
}

fn project(id: &str) -> Result<(), String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if id.is_empty() || id.len() > 128 || !id.chars().all(fits) || id.starts_with('.') {
        return Err(format!(
            "`{id}` cannot be a project's id: letters, digits, `_`, `-`, `.`, at most 128"
        ));
    }
    Ok(())
}

fn variable(name: &str, value: &str) -> Result<(), String> {
    let starts = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    if !starts || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
        return Err(format!("`{name}` cannot be the name of a variable"));
    }
    if OURS.contains(&name) {
        return Err(format!("`{name}` is given by the server itself"));
    }
    if value.contains('\0') || value.len() > 128 * 1024 {
        return Err(format!("the value of `{name}` cannot be in an environment"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(body: serde_json::Value) -> Result<(Order, Environment), Problem> {
        serde_json::from_value::<StartBody>(body).unwrap().checked()
    }

    #[test]
    fn everything_wrong_is_said_at_once() {
        let problem = checked(serde_json::json!({
            "githubRepoUrl": "https://user:hunter2@github.com/a/b", "branchName": "-x", "installCommand": "a\u{0}b",
            "port": 70000, "sandboxId": "../x", "projectId": "a/b", "environment": {"1/A": "x", "SANDKEEP_TOKEN": "x"},
        }))
        .unwrap_err();
        let pointers: Vec<_> = problem.document.errors.iter().map(|error| error.pointer.as_str()).collect();
        let expected = [
            "/githubRepoUrl",
            "/branchName",
            "/installCommand",
            "/port",
            "/sandboxId",
            "/projectId",
            "/environment/1~1A",
            "/environment/SANDKEEP_TOKEN",
        ];
        assert_eq!(pointers, expected);
        assert!(!problem.document.detail.contains("hunter2"));
    }

    #[test]
    fn addresses_of_repositories() {
        for good in [
            "https://github.com/acme/shop",
            "git@github.com:acme/shop.git",
            "ssh://git@host/x",
            "file:///srv/x",
        ] {
            assert_eq!(repo(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "-u",
            "acme/shop",
            "https://",
            "https://t0ken@github.com/a/b",
            "ftp://a/b",
            "a b",
            "x:y",
        ] {
            assert!(repo(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn values_are_in_no_order_and_no_debug() {
        let body = serde_json::json!({"githubRepoUrl": "https://github.com/a/b", "environment": {"A": "hunter2"}});
        assert!(!format!("{:?}", serde_json::from_value::<StartBody>(body.clone()).unwrap()).contains("hunter2"));
        let (order, environment) = checked(body).unwrap();
        assert_eq!(order.environment_names, ["A"]);
        assert!(!serde_json::to_string(&order).unwrap().contains("hunter2"));
        assert!(!format!("{environment:?}").contains("hunter2"));
    }
}
