//! The API's description, made from the types and the handlers themselves.
//!
//! It is a file beside this one: what makes it is half a megabyte of code that would say the same each time. The test holds the file to the
//! types, and writes it anew when SANDKEEP_UPDATE is set.

/// The OpenAPI 3.1 document.
pub fn document() -> &'static str {
    include_str!("openapi.json")
}

#[cfg(test)]
mod tests {
    use super::super::routes::{reads, streams, supervisor, units, workers};
    use crate::web::description::{BearerToken, describes, is_what_is_written};
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
        components(schemas(crate::control::event_log::Missed, crate::control::event_log::Transition, crate::control::event_log::Notice)),
        modifiers(&BearerToken),
        security(("token" = []))
    )]
    struct Description;

    #[test]
    fn every_route_is_described_and_nothing_else_is() {
        describes(&Description::openapi(), crate::control::api::paths());
    }

    #[test]
    fn the_document_says_what_the_types_say() {
        is_what_is_written(&Description::openapi(), super::document(), "src/control/openapi.json");
    }
}
