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
    use super::super::routes::{operations, reads, sandboxes};
    use crate::web::description::{BearerToken, describes, is_what_is_written};
    use utoipa::OpenApi;

    #[derive(OpenApi)]
    #[openapi(
        info(
            title = "sandkeep serve",
            description = "Starts sandboxes with their workers, says how they do, stops them. Bearer token for everything but /livez.",
            license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0")
        ),
        paths(
            reads::livez,
            reads::metrics,
            reads::openapi,
            reads::fleet,
            operations::events,
            operations::operation,
            operations::operation_events,
            sandboxes::start,
            sandboxes::list,
            sandboxes::one,
            sandboxes::worker,
            sandboxes::stop,
            sandboxes::report,
        ),
        modifiers(&BearerToken),
        security(("token" = []))
    )]
    struct Description;

    #[test]
    fn every_route_is_described_and_nothing_else_is() {
        describes(&Description::openapi(), super::super::api::paths());
    }

    #[test]
    fn the_document_says_what_the_types_say() {
        is_what_is_written(&Description::openapi(), super::document(), "src/sandbox/serve/openapi.json");
    }
}
