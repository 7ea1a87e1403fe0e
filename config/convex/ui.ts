// What the app's user interface calls.
import { v } from "convex/values";
import { mutation, over, query, refuse, type Reads, userOf } from "./functions";

const TEXT_MAX = 900_000; // a document holds 1 MiB

async function mine(ctx: Reads, id: Parameters<typeof ctx.db.get<"prompts">>[0]) {
  const prompt = await ctx.db.get(id);
  if (!prompt) return refuse("NotFound", "no such prompt");
  await userOf(ctx, prompt.sandboxId);
  return prompt;
}

/** Sends a prompt. With the same `clientKey` it is sent once, however often this is called. */
export const send = mutation({
  args: {
    sandboxId: v.string(),
    session: v.optional(v.string()),
    text: v.string(),
    clientKey: v.string(),
    options: v.optional(v.string()),
  },
  handler: async (ctx, { sandboxId, session = "main", text, clientKey, options }) => {
    await userOf(ctx, sandboxId);
    if (text.trim() === "") return refuse("EmptyPrompt");
    if (new TextEncoder().encode(text).length > TEXT_MAX) return refuse("LongPrompt", `at most ${TEXT_MAX} bytes`);
    const known = await ctx.db
      .query("prompts")
      .withIndex("by_clientKey", (q) => q.eq("sandboxId", sandboxId).eq("clientKey", clientKey))
      .unique();
    if (known) return known._id;
    return await ctx.db.insert("prompts", { sandboxId, session, text, options, clientKey, status: "pending", attempt: 0 });
  },
});

export const cancel = mutation({
  args: { id: v.id("prompts") },
  handler: async (ctx, { id }) => {
    const prompt = await mine(ctx, id);
    if (prompt.status === "pending") {
      await ctx.db.patch(id, { status: "cancelled", result: JSON.stringify({ status: "cancelled", reason: "cancelled" }) });
    } else if (prompt.status === "claimed") {
      await ctx.db.patch(id, { cancelRequested: true });
    }
    return null;
  },
});

/** `answer` is JSON: {"behavior":"allow"|"deny","message"?,"remember"?} or {"answers":{question: answer}}. */
export const answer = mutation({
  args: { id: v.id("prompts"), question: v.string(), answer: v.string() },
  handler: async (ctx, { id, question, answer }) => {
    await mine(ctx, id);
    const row = await ctx.db
      .query("questions")
      .withIndex("by_question", (q) => q.eq("promptId", id).eq("questionId", question))
      .unique();
    if (row?.status !== "open") return refuse("NoQuestion");
    await ctx.db.patch(row._id, { status: "answered", answer });
    return null;
  },
});

/** A prompt and its open questions. */
export const prompt = query({
  args: { id: v.id("prompts") },
  handler: async (ctx, { id }) => {
    const { session, text, status, attempt, lastSeq, result, cancelRequested } = await mine(ctx, id);
    const questions = await ctx.db
      .query("questions")
      .withIndex("by_prompt", (q) => q.eq("promptId", id).eq("status", "open"))
      .collect();
    const open = questions.map((question) => ({ question: question.questionId, body: question.body }));
    return { session, text, status, attempt, lastSeq, result, cancelRequested, questions: open };
  },
});

/** A page of events: batches that begin at number `from` or later, but before `to`. A page that is full is never computed again. */
export const stream = query({
  args: { id: v.id("prompts"), from: v.number(), to: v.number() },
  handler: async (ctx, { id, from, to }) => {
    await mine(ctx, id);
    const batches = await ctx.db
      .query("batches")
      .withIndex("by_prompt", (q) => q.eq("promptId", id).gte("from", from).lt("from", to))
      .take(256);
    return batches.flatMap((batch) => batch.events);
  },
});

/** The prompts of a conversation, newest first. */
export const session = query({
  args: { sandboxId: v.string(), session: v.string(), count: v.optional(v.number()) },
  handler: async (ctx, { sandboxId, session, count = 50 }) => {
    await userOf(ctx, sandboxId);
    const rows = await ctx.db
      .query("prompts")
      .withIndex("by_session", (q) => q.eq("sandboxId", sandboxId).eq("session", session))
      .order("desc")
      .take(Math.min(count, 200));
    return rows.map((row) => ({ id: row._id, text: row.text.slice(0, 2000), status: row.status, over: over(row) }));
  },
});

/** How the agent is. `lastSeen` more than 100 s ago: it is not heard of. */
export const status = query({
  args: { sandboxId: v.string() },
  handler: async (ctx, { sandboxId }) => {
    await userOf(ctx, sandboxId);
    const of = <T extends "agents" | "heartbeats">(table: T) =>
      ctx.db
        .query(table)
        .withIndex("by_sandbox", (q) => q.eq("sandboxId", sandboxId as never))
        .unique();
    const agent = await of("agents");
    const beat = await of("heartbeats");
    return { state: agent?.state ?? "off", detail: agent?.detail ?? "", bootId: beat?.bootId ?? null, lastSeen: beat?.lastSeen ?? null };
  },
});
