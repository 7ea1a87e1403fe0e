//! The status page at `/`: one embedded file, no outside assets.
//!
//! Without the cookie it is a form that asks for the token. The form's answer sets the cookie, which is good for reading alone; the
//! page keeps the token itself in its tab's session storage, which no other port of this host can read, and sends it with whatever
//! changes something.

use super::access::Who;
use super::token::Token;
use axum::Router;
use axum::body::Body;
use axum::extract::{Extension, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http_body_util::{BodyExt, Limited};
use std::time::Duration;

/// The cookie's name.
pub(super) const COOKIE: &str = "sandkeep";

const PAGE: &str = include_str!("page.html");
const LOGIN: &str = include_str!("login.html");

/// Nothing from elsewhere is loaded or asked, nobody may frame it.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:; \
                      form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

pub(super) fn router(token: Token) -> Router {
    Router::new().route("/", get(page)).route("/login", post(login)).with_state(token)
}

async fn page(Extension(who): Extension<Who>) -> Response {
    match who {
        Who::Token | Who::Cookie | Who::Owner => html(StatusCode::OK, PAGE),
        Who::Anybody | Who::Unit(_) => html(StatusCode::UNAUTHORIZED, LOGIN),
    }
}

/// Takes the token as plain text and answers with the cookie.
async fn login(State(token): State<Token>, body: Body) -> Response {
    let read = tokio::time::timeout(Duration::from_secs(10), Limited::new(body, 4096).collect()).await;
    let given = read.ok().and_then(Result::ok).map(|body| body.to_bytes());
    let given = given.as_deref().map(String::from_utf8_lossy).unwrap_or_default();
    if !token.is(given.trim()) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let cookie = format!("{COOKIE}={}; HttpOnly; SameSite=Strict; Path=/; Max-Age=2592000", token.cookie());
    let mut response = StatusCode::NO_CONTENT.into_response();
    if let Ok(cookie) = HeaderValue::from_str(&cookie) {
        response.headers_mut().insert(header::SET_COOKIE, cookie);
    }
    response
}

fn html(status: StatusCode, text: &'static str) -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CACHE_CONTROL, "no-store"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    ];
    (status, headers, text).into_response()
}
