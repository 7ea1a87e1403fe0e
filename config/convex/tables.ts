// The agent's tables. An app that has a schema of its own spreads them into it; see README.md.
import { defineTable } from "convex/server";
import { v } from "convex/values";

export const status = v.union(
  v.literal("pending"),
  v.literal("claimed"),
  v.literal("done"),
  v.literal("failed"),
  v.literal("cancelled"),
);

export const agentTables = {
  // A box that may ask for prompts. Every call of an agent reads its row, so nothing that changes belongs here.
  sandboxes: defineTable({
    sandboxId: v.string(),
    tokenHash: v.string(), // SHA-256 of SANDBOX_TOKEN, hex
    owner: v.optional(v.string()), // tokenIdentifier of the user whose box it is
  }).index("by_sandboxId", ["sandboxId"]),

  // A prompt. Small: what comes out of it is in `batches`.
  prompts: defineTable({
    sandboxId: v.string(),
    session: v.string(),
    text: v.string(),
    options: v.optional(v.string()), // JSON
    clientKey: v.string(), // the sender's, so that sending twice is harmless
    status,
    attempt: v.number(), // fences everything that an agent says of it
    workerId: v.optional(v.string()),
    leaseUntil: v.optional(v.number()),
    cancelRequested: v.optional(v.boolean()),
    lastSeq: v.optional(v.number()), // of the terminal event, known as soon as the prompt is over
    result: v.optional(v.string()), // JSON
  })
    .index("by_sandbox_status", ["sandboxId", "status"])
    .index("by_session", ["sandboxId", "session"])
    .index("by_session_status", ["sandboxId", "session", "status"])
    .index("by_clientKey", ["sandboxId", "clientKey"]),

  // Events, as they came: one row a batch, numbered from 1 without gaps, never changed.
  batches: defineTable({
    promptId: v.id("prompts"),
    from: v.number(),
    to: v.number(),
    events: v.array(v.string()), // each a JSON object
  }).index("by_prompt", ["promptId", "from"]),

  questions: defineTable({
    promptId: v.id("prompts"),
    questionId: v.string(),
    body: v.string(), // JSON
    status: v.union(v.literal("open"), v.literal("answered"), v.literal("closed")),
    answer: v.optional(v.string()), // JSON
  })
    .index("by_prompt", ["promptId", "status"])
    .index("by_question", ["promptId", "questionId"]),

  // How an agent is: written when that changes.
  agents: defineTable({ sandboxId: v.string(), state: v.string(), detail: v.string() }).index("by_sandbox", ["sandboxId"]),

  // That it lives: written every 30 s, apart from everything else, so that nothing else is computed again for it.
  heartbeats: defineTable({ sandboxId: v.string(), bootId: v.string(), lastSeen: v.number() }).index("by_sandbox", ["sandboxId"]),
};
