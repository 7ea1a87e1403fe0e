//! What the agent may ask of the supervisor: an MCP server over stdio that speaks to the control socket.
