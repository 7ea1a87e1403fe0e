//! The API's description, made from the types and the handlers themselves.

use super::routes::{reads, streams, supervisor, units, workers};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "sandkeep",
        description = "How a sandbox does, and what can be done about it. Served over the Unix socket and over TCP with a bearer token.",
        license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0")
    ),
    paths(
        reads::livez,
        reads::readyz,
        reads::healthz,
        reads::metrics,
        reads::openapi,
        reads::status,
        units::unit,
        units::why,
        units::start,
        units::stop,
        units::restart,
        units::reload,
        units::kill,
        streams::unit_logs,
        streams::logs,
        streams::events,
        supervisor::wait,
        supervisor::reload,
        supervisor::shutdown,
        supervisor::upgrade,
        supervisor::request,
        workers::sync_flush,
        workers::sync_pull,
        workers::agent_ask,
        workers::agent_list,
        workers::agent_prompt,
        workers::agent_events,
        workers::agent_cancel,
        workers::agent_answer,
    ),
    components(schemas(super::event_log::Missed, super::event_log::Transition, super::event_log::Notice)),
    modifiers(&BearerToken),
    security(("token" = []))
)]
struct Description;

struct BearerToken;

impl Modify for BearerToken {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        let scheme = SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build());
        openapi.components.get_or_insert_default().add_security_scheme("token", scheme);
    }
}

/// The OpenAPI 3.1 document.
pub fn document() -> utoipa::openapi::OpenApi {
    Description::openapi()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_is_described_and_nothing_else_is() {
        let document = serde_json::to_value(document()).unwrap();
        assert_eq!(document["openapi"], "3.1.0");
        let mut described: Vec<&str> = document["paths"].as_object().unwrap().keys().map(String::as_str).collect();
        let mut served = crate::control::api::paths();
        described.sort_unstable();
        served.sort_unstable();
        assert_eq!(described, served);
    }

    #[test]
    fn every_reference_leads_somewhere() {
        let document = serde_json::to_value(document()).unwrap();
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
}
