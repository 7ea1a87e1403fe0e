//! Where files are kept: `[sync] store`, or what the four R2 variables name.

use super::super::config::Config;
use super::super::faults::{Faults, Span};
use super::super::file::File;
use super::super::spec::{Main, Worker};
use super::Surroundings;
use std::collections::BTreeMap;

/// The variables that together name a store.
const R2: [&str; 4] = ["R2_ENDPOINT", "R2_ACCESS_KEY_ID", "R2_SECRET_ACCESS_KEY", "R2_BUCKET_NAME"];

/// The store's URL, without keys; `None` = off.
pub(super) fn resolve(file: &File, config: &Config, around: &Surroundings<'_>, faults: &mut Faults<'_>) -> Option<String> {
    let written = file.sync.as_ref().and_then(|at| at.value.find("store"));
    let (store, span): (&str, Span) = written.map_or(("", None), |at| {
        (at.value.value.as_str().unwrap_or_default().trim(), at.span.clone())
    });
    let workers = config
        .units
        .iter()
        .any(|unit| matches!(unit.main, Main::Worker(Worker::Restore | Worker::Sync)));
    let wanted = workers || around.sync_written || around.flags.store.is_some();
    let store = match store {
        "off" => None,
        "" => from_r2(around.environment, wanted, faults),
        url => {
            if let Some((why, hint)) = store_fault(url) {
                faults.error(&span, "sync.store", format!("the store cannot be used: {why}"), Some(hint));
            }
            Some(url.to_owned())
        }
    };
    let homeless = store.is_some() && wanted && config.project_id.is_empty() && !faults.about("project.id");
    if homeless {
        let hint = "set `[project] id`, SANDKEEP_PROJECT_ID or SANDBOX_ID, or turn the store off: `[sync] store = \"off\"`".to_owned();
        faults.error(
            &span,
            "project.id",
            "a store is set, but no project id: whose files are these?",
            Some(hint),
        );
    }
    store
}

fn from_r2(environment: &BTreeMap<String, String>, wanted: bool, faults: &mut Faults<'_>) -> Option<String> {
    let value = |name: &str| environment.get(name).map(|value| value.trim()).filter(|value| !value.is_empty());
    let (set, missing): (Vec<&str>, Vec<&str>) = R2.iter().partition(|name| value(name).is_some());
    if missing.is_empty() {
        let (endpoint, bucket) = (value("R2_ENDPOINT")?, value("R2_BUCKET_NAME")?);
        return Some(format!("s3://{}?endpoint={}&region=auto", escape(bucket), escape(endpoint)));
    }
    if !set.is_empty() && wanted {
        let message = format!(
            "{} {} set, but not {}: the store needs all four",
            list(&set),
            if set.len() == 1 { "is" } else { "are" },
            list(&missing)
        );
        let hint = format!("set {}, or take the others away", list(&missing));
        faults.error(&None, "sync.store", message, Some(hint));
    }
    None
}

fn list(names: &[&str]) -> String {
    match names {
        [one] => (*one).to_owned(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
        [] => String::new(),
    }
}

/// Escapes what would end or change a part of the URL.
fn escape(text: &str) -> String {
    let special = |c: char| matches!(c, '%' | '&' | '#' | '+' | '?' | '=') || c.is_whitespace() || c.is_control();
    text.chars().fold(String::new(), |mut out, c| {
        if special(c) {
            let mut bytes = [0; 4];
            out.extend(c.encode_utf8(&mut bytes).bytes().map(|byte| format!("%{byte:02X}")));
        } else {
            out.push(c);
        }
        out
    })
}

/// What is wrong with a store's URL, and what to do. The URL itself is not repeated: it may hold what is wrong.
fn store_fault(url: &str) -> Option<(String, String)> {
    let forms = "write `s3://bucket/prefix?endpoint=https://…&region=auto` or `file:///directory`".to_owned();
    let keys = "give keys in the environment: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the R2 variables".to_owned();
    if let Some(path) = url.strip_prefix("file://") {
        let fine = path.starts_with('/') && path.len() > 1;
        return (!fine).then(|| {
            (
                "a `file://` store needs an absolute path".to_owned(),
                "write `file:///directory`".to_owned(),
            )
        });
    }
    let Some(rest) = url.strip_prefix("s3://") else {
        return Some(("it begins with neither `s3://` nor `file://`".to_owned(), forms));
    };
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let bucket = place.split('/').next().unwrap_or_default();
    if bucket.contains('@') {
        return Some(("its URL holds a key".to_owned(), keys));
    }
    let bucket_character = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    if bucket.is_empty() || !bucket.chars().all(bucket_character) {
        return Some(("it names no bucket".to_owned(), forms));
    }
    query.split('&').filter(|pair| !pair.is_empty()).find_map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let name = name.to_lowercase();
        if ["access_key", "secret", "accesskey", "session_token", "password"]
            .iter()
            .any(|word| name.contains(word))
        {
            Some(("its URL holds a key".to_owned(), keys.clone()))
        } else if name == "endpoint" && !value.starts_with("http") {
            Some(("its `endpoint` is not an http or https URL".to_owned(), forms.clone()))
        } else {
            None
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_stores_from_others() {
        for url in ["s3://b", "s3://b/p/q?endpoint=https://x.example&region=auto", "file:///tmp/store"] {
            assert_eq!(store_fault(url), None, "{url}");
        }
        for url in [
            "s3://",
            "file://store",
            "file:///",
            "ftp://x",
            "s3://k:s@b",
            "s3://b?secret_access_key=x",
            "s3://b?endpoint=x",
        ] {
            assert!(store_fault(url).is_some(), "{url}");
        }
    }

    #[test]
    fn escapes_for_urls() {
        assert_eq!(escape("https://a.example:9000/x?y=1&z"), "https://a.example:9000/x%3Fy%3D1%26z");
    }
}
