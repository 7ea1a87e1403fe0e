// What the agent in the sandbox calls. Each function is idempotent: an answer that was lost is asked for again.
import { v } from "convex/values";
import { agentOf, closeQuestions, hold, internal, internalMutation, isOf, mutation, over, promptOf, query, refuse } from "./functions";

const who = { sandboxId: v.string(), token: v.string() };
const claimed = { ...who, id: v.id("prompts"), workerId: v.string(), attempt: v.number() };
const LEASE_MS = 60_000;
const ATTEMPTS = 5;

/** What the agent subscribes to. Reads no clock: a lease that runs out is a write of `expire`. */
export const inbox = query({
  args: who,
  handler: async (ctx, { sandboxId, token }) => {
    await agentOf(ctx, sandboxId, token);
    const some = (status: "pending" | "claimed") =>
      ctx.db
        .query("prompts")
        .withIndex("by_sandbox_status", (q) => q.eq("sandboxId", sandboxId).eq("status", status))
        .take(16);
    const pending = (await some("pending")).map((row) => ({ id: row._id, session: row.session, options: row.options ?? null }));
    const running = [];
    for (const row of await some("claimed")) {
      const answered = await ctx.db
        .query("questions")
        .withIndex("by_prompt", (q) => q.eq("promptId", row._id).eq("status", "answered"))
        .collect();
      running.push({
        id: row._id,
        session: row.session,
        options: row.options ?? null,
        workerId: row.workerId ?? null,
        attempt: row.attempt,
        cancel: row.cancelRequested ?? false,
        answers: answered.map((question) => ({ question: question.questionId, answer: question.answer ?? "null" })),
      });
    }
    return { pending, claimed: running };
  },
});

/** The same worker gets the same attempt back; a new one gets the next attempt and the number of the next event. */
export const claim = mutation({
  args: { ...who, id: v.id("prompts"), workerId: v.string(), leaseMs: v.optional(v.number()) },
  handler: async (ctx, { sandboxId, token, id, workerId, leaseMs = LEASE_MS }) => {
    await agentOf(ctx, sandboxId, token);
    const prompt = await promptOf(ctx, sandboxId, id);
    const granted = async (attempt: number) => {
      // Nobody waits for answers to what was asked before: what is still to be known is asked again.
      await closeQuestions(ctx, id);
      return { ok: true, attempt, text: prompt.text, nextSeq: await nextSeq(ctx, id) };
    };
    if (prompt.status === "claimed" && prompt.workerId === workerId) return await granted(prompt.attempt);
    if (prompt.status !== "pending") return { ok: false, status: prompt.status };
    const running = await ctx.db
      .query("prompts")
      .withIndex("by_session_status", (q) => q.eq("sandboxId", sandboxId).eq("session", prompt.session).eq("status", "claimed"))
      .first();
    if (running) return { ok: false, status: "busy" };
    const attempt = prompt.attempt + 1;
    await ctx.db.patch(id, { status: "claimed", workerId, attempt, leaseUntil: Date.now() + leaseMs });
    await ctx.scheduler.runAfter(leaseMs, internal.agent.expire, { id, attempt });
    return await granted(attempt);
  },
});

export const renew = mutation({
  args: { ...claimed, leaseMs: v.optional(v.number()) },
  handler: async (ctx, { sandboxId, token, id, workerId, attempt, leaseMs = LEASE_MS }) => {
    await agentOf(ctx, sandboxId, token);
    const prompt = await promptOf(ctx, sandboxId, id);
    if (over(prompt) || !isOf(prompt, workerId, attempt)) return { ok: false };
    await hold(ctx, prompt, leaseMs);
    return { ok: true };
  },
});

/** Gives a prompt back whose agent was not heard for the length of its lease. */
export const expire = internalMutation({
  args: { id: v.id("prompts"), attempt: v.number() },
  handler: async (ctx, { id, attempt }) => {
    const prompt = await ctx.db.get(id);
    if (!prompt || prompt.status !== "claimed" || prompt.attempt !== attempt) return;
    const left = (prompt.leaseUntil ?? 0) - Date.now();
    if (left > 0) {
      await ctx.scheduler.runAfter(left, internal.agent.expire, { id, attempt });
      return;
    }
    if (prompt.cancelRequested) {
      await ctx.db.patch(id, { status: "cancelled", result: JSON.stringify({ status: "cancelled", reason: "cancelled" }) });
    } else if (attempt >= ATTEMPTS) {
      await ctx.db.patch(id, { status: "failed", result: JSON.stringify({ status: "failed", reason: "attempts" }) });
    } else {
      await ctx.db.patch(id, { status: "pending" });
      return;
    }
    await closeQuestions(ctx, id);
  },
});

async function nextSeq(ctx: Parameters<typeof agentOf>[0], id: Parameters<typeof promptOf>[2]): Promise<number> {
  const last = await ctx.db
    .query("batches")
    .withIndex("by_prompt", (q) => q.eq("promptId", id))
    .order("desc")
    .first();
  return last ? last.to + 1 : 1;
}

/** Takes events from number `from` on. What is there already is dropped; a gap is not taken. Returns the number that comes next. */
export const append = mutation({
  args: { ...claimed, from: v.number(), events: v.array(v.string()) },
  handler: async (ctx, { sandboxId, token, id, workerId, attempt, from, events }) => {
    await agentOf(ctx, sandboxId, token);
    const prompt = await promptOf(ctx, sandboxId, id);
    if (!isOf(prompt, workerId, attempt)) return refuse("LeaseLost");
    if (prompt.status === "pending") await hold(ctx, prompt, LEASE_MS);
    const next = await nextSeq(ctx, id);
    const fresh = events.slice(Math.max(0, next - from));
    const to = from + events.length - 1;
    if (from > next || fresh.length === 0) return { next };
    if (over(prompt) && to > (prompt.lastSeq ?? 0)) return refuse("Over");
    await ctx.db.insert("batches", { promptId: id, from: next, to, events: fresh });
    return { next: to + 1 };
  },
});

/** Ends a prompt. May come before the last events do: `lastSeq` says up to which number to wait. */
export const complete = mutation({
  args: {
    ...claimed,
    status: v.union(v.literal("done"), v.literal("failed"), v.literal("cancelled")),
    lastSeq: v.number(),
    result: v.string(),
  },
  handler: async (ctx, { sandboxId, token, id, workerId, attempt, status, lastSeq, result }) => {
    await agentOf(ctx, sandboxId, token);
    const prompt = await promptOf(ctx, sandboxId, id);
    if (!isOf(prompt, workerId, attempt)) return refuse("LeaseLost");
    if (over(prompt)) return { ok: prompt.status === status, again: true };
    await ctx.db.patch(id, { status, lastSeq, result, leaseUntil: undefined, cancelRequested: undefined });
    await closeQuestions(ctx, id);
    return { ok: true, again: false };
  },
});

/** Asks a person; without a body, the question is settled. */
export const ask = mutation({
  args: { ...claimed, question: v.string(), body: v.optional(v.string()) },
  handler: async (ctx, { sandboxId, token, id, workerId, attempt, question, body }) => {
    await agentOf(ctx, sandboxId, token);
    const prompt = await promptOf(ctx, sandboxId, id);
    if (over(prompt) || !isOf(prompt, workerId, attempt)) return { ok: false };
    const row = await ctx.db
      .query("questions")
      .withIndex("by_question", (q) => q.eq("promptId", id).eq("questionId", question))
      .unique();
    if (body !== undefined && !row) await ctx.db.insert("questions", { promptId: id, questionId: question, body, status: "open" });
    if (body === undefined && row && row.status !== "closed") await ctx.db.patch(row._id, { status: "closed" });
    return { ok: true };
  },
});

/** Every 30 s, and when the state changes: then with `state` and `detail`. */
export const heartbeat = mutation({
  args: { ...who, bootId: v.string(), state: v.optional(v.string()), detail: v.optional(v.string()) },
  handler: async (ctx, { sandboxId, token, bootId, state, detail = "" }) => {
    await agentOf(ctx, sandboxId, token);
    const beat = await ctx.db
      .query("heartbeats")
      .withIndex("by_sandbox", (q) => q.eq("sandboxId", sandboxId))
      .unique();
    const lastSeen = Date.now();
    if (beat) await ctx.db.patch(beat._id, { bootId, lastSeen });
    else await ctx.db.insert("heartbeats", { sandboxId, bootId, lastSeen });
    if (state === undefined) return null;
    const agent = await ctx.db
      .query("agents")
      .withIndex("by_sandbox", (q) => q.eq("sandboxId", sandboxId))
      .unique();
    if (!agent) await ctx.db.insert("agents", { sandboxId, state, detail });
    else if (agent.state !== state || agent.detail !== detail) await ctx.db.patch(agent._id, { state, detail });
    return null;
  },
});

/** Lets a box in: for the app's own action that makes it. `npx convex run agent:admit '{…}'` by hand. */
export const admit = internalMutation({
  args: { sandboxId: v.string(), tokenHash: v.string(), owner: v.optional(v.string()) },
  handler: async (ctx, row) => {
    const known = await ctx.db
      .query("sandboxes")
      .withIndex("by_sandboxId", (q) => q.eq("sandboxId", row.sandboxId))
      .unique();
    if (known) await ctx.db.replace(known._id, row);
    else await ctx.db.insert("sandboxes", row);
    return null;
  },
});

/** Shuts a box out for good. */
export const dismiss = internalMutation({
  args: { sandboxId: v.string() },
  handler: async (ctx, { sandboxId }) => {
    const known = await ctx.db
      .query("sandboxes")
      .withIndex("by_sandboxId", (q) => q.eq("sandboxId", sandboxId))
      .unique();
    if (known) await ctx.db.delete(known._id);
    return null;
  },
});
