//! What the OpenAPI documents have in common.

use utoipa::Modify;
use utoipa::openapi::OpenApi;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};

/// The scheme `token`: a bearer token.
pub(crate) struct BearerToken;

impl Modify for BearerToken {
    fn modify(&self, openapi: &mut OpenApi) {
        let scheme = SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build());
        openapi.components.get_or_insert_default().add_security_scheme("token", scheme);
    }
}

/// Every route that is served is described and nothing else is, and every reference leads somewhere.
pub(crate) fn describes(document: &OpenApi, mut served: Vec<&str>) {
    let document = serde_json::to_value(document).unwrap();
    assert_eq!(document["openapi"], "3.1.0");
    let mut described: Vec<&str> = document["paths"].as_object().unwrap().keys().map(String::as_str).collect();
    described.sort_unstable();
    served.sort_unstable();
    assert_eq!(described, served);
    let mut stack = vec![&document];
    while let Some(value) = stack.pop() {
        match value {
            serde_json::Value::Object(fields) => {
                if let Some(serde_json::Value::String(reference)) = fields.get("$ref") {
                    let pointer = reference.strip_prefix('#').unwrap();
                    assert!(document.pointer(pointer).is_some(), "{reference}");
                }
                stack.extend(fields.values());
            }
            serde_json::Value::Array(items) => stack.extend(items),
            _ => {}
        }
    }
}

/// The document in the file is the one that the types make; with SANDKEEP_UPDATE it is written there.
pub(crate) fn is_what_is_written(document: &OpenApi, written: &str, file: &str) {
    let made = lines(&serde_json::to_value(document).unwrap(), 0) + "\n";
    if std::env::var_os("SANDKEEP_UPDATE").is_some() {
        std::fs::write(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(file), made).unwrap();
        return;
    }
    assert!(
        written == made,
        "{file} is old: run this test with SANDKEEP_UPDATE=1, and look at the diff"
    );
}

/// A line for each route and for each type: small, and what changes side by side can be merged.
fn lines(value: &serde_json::Value, depth: usize) -> String {
    match value {
        serde_json::Value::Object(fields) if depth < 3 && !fields.is_empty() => {
            let fields = fields
                .iter()
                .map(|(key, value)| format!("{}:{}", serde_json::json!(key), lines(value, depth + 1)));
            format!("{{\n{}\n}}", fields.collect::<Vec<_>>().join(",\n"))
        }
        other => other.to_string(),
    }
}
