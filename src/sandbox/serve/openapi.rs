//! The API's description, made from the types and the handlers themselves.

use super::routes::{operations, reads, sandboxes};
use crate::web::description::BearerToken;
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

/// The OpenAPI 3.1 document.
pub fn document() -> utoipa::openapi::OpenApi {
    Description::openapi()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_is_described_and_nothing_else_is() {
        crate::web::description::describes(&document(), super::super::api::paths());
    }
}
