//! The API's description, made from the types and the handlers themselves.

use super::routes::{reads, streams, supervisor, units, workers};
use crate::web::description::BearerToken;
use utoipa::OpenApi;

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

/// The OpenAPI 3.1 document.
pub fn document() -> utoipa::openapi::OpenApi {
    Description::openapi()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_is_described_and_nothing_else_is() {
        crate::web::description::describes(&document(), crate::control::api::paths());
    }
}
