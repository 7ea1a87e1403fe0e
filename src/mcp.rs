//! What the agent may ask of the supervisor: an MCP server over stdio that speaks to the control socket.
//!
//! So that claude debugs the dev server that runs instead of starting a second one. Every answer is bounded, and says so when something
//! else than the dev server answers on its port. What the agent may do is decided by the supervisor (`[control] allow`), not here.

mod answer;
mod tools;

use crate::control::client::{Client, ClientError};
use rmcp::handler::server::ServerHandler;
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, ContentBlock, Implementation, ListToolsResult, PaginatedRequestParams,
    ServerCapabilities, ServerConfig,
};
use rmcp::service::{RequestContext, RoleServer, ServiceExt};
use rmcp::{ErrorData, transport};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::sync::Mutex;

/// What is said of the server itself: claude reads it once.
const INSTRUCTIONS: &str = "The sandbox's processes run under a supervisor. The dev server is the unit `dev` and is running already: do not \
start another one. Use `dev_logs` to see what it says about your change, `dev_restart` when it needs a new start, `preview_check` for what \
the user sees.";

/// Serving MCP: what ended it.
#[derive(Debug, thiserror::Error)]
pub enum McpError {
    /// The client did not speak MCP.
    #[error("beginning the MCP session: {0}")]
    Begin(String),
    /// The session broke.
    #[error("serving MCP: {0}")]
    Serve(String),
}

/// Serves over standard input and output until the input ends.
///
/// # Errors
/// What ended it otherwise.
pub async fn serve(client: Client) -> Result<(), McpError> {
    let server = Server {
        client,
        looked: Mutex::default(),
    };
    let running = server
        .serve(transport::stdio())
        .await
        .map_err(|error| McpError::Begin(error.to_string()))?;
    running
        .waiting()
        .await
        .map(drop)
        .map_err(|error| McpError::Serve(error.to_string()))
}

#[derive(Debug)]
struct Server {
    client: Client,
    /// How far the lines of each unit have been looked at: a cursor.
    looked: Mutex<BTreeMap<String, String>>,
}

impl ServerHandler for Server {
    fn get_info(&self) -> ServerConfig {
        ServerConfig::new(ServerCapabilities::builder().enable_tools().build())
            .with_server_info(Implementation::new("sandkeep", env!("CARGO_PKG_VERSION")))
            .with_instructions(INSTRUCTIONS)
    }

    async fn list_tools(
        &self,
        _request: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        Ok(ListToolsResult::with_all_items(tools::all()))
    }

    async fn call_tool(&self, request: CallToolRequestParams, _context: RequestContext<RoleServer>) -> Result<CallToolResponse, ErrorData> {
        let arguments = request.arguments.unwrap_or_default();
        let result = match self.call(&request.name, &arguments).await {
            Ok(text) => CallToolResult::success(vec![ContentBlock::text(text)]),
            Err(why) => CallToolResult::error(vec![ContentBlock::text(why)]),
        };
        Ok(result.into())
    }
}

impl Server {
    async fn call(&self, tool: &str, arguments: &Map<String, Value>) -> Result<String, String> {
        let text = self.act(tool, arguments).await?;
        // Something else on the port is told whatever was asked, since it explains most of what looks odd.
        let warning = match tool {
            "status" | "preview_check" => None,
            _ => self.status().await.ok().and_then(|status| answer::second_server(&status)),
        };
        Ok(answer::bounded(match warning {
            Some(warning) => format!("{text}\n\n{warning}"),
            None => text,
        }))
    }

    async fn status(&self) -> Result<Value, String> {
        self.client.get("/v1/status").await.map_err(|error| told(&error))
    }
}

/// A failure for the model: what, and what to do.
fn told(error: &ClientError) -> String {
    match error {
        ClientError::Problem(problem) => match &problem.hint {
            Some(hint) => format!("{}\nhint: {hint}", problem.detail),
            None => problem.detail.clone(),
        },
        ClientError::NoSupervisor { .. } | ClientError::Broken(_) | ClientError::Unreadable(_) => error.to_string(),
    }
}
