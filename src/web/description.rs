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
    let mut made = serde_json::to_string(document).unwrap();
    made.push('\n');
    if std::env::var_os("SANDKEEP_UPDATE").is_some() {
        std::fs::write(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(file), made).unwrap();
        return;
    }
    let parsed = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap_or_default();
    assert_eq!(
        parsed(written),
        parsed(&made),
        "{file} is old: run this test with SANDKEEP_UPDATE=1"
    );
    assert_eq!(written, made);
}
