// What agent.ts and ui.ts are made of: builders with the types of these tables, who may do what, and claims.
import {
  anyApi,
  type DataModelFromSchemaDefinition,
  type GenericMutationCtx,
  type GenericQueryCtx,
  internalMutationGeneric,
  type MutationBuilder,
  mutationGeneric,
  type QueryBuilder,
  queryGeneric,
} from "convex/server";
import { ConvexError, type GenericId } from "convex/values";
import type schema from "./schema";

export type DataModel = DataModelFromSchemaDefinition<typeof schema>;
export type Reads = GenericQueryCtx<DataModel>;
export type Writes = GenericMutationCtx<DataModel>;
export type Prompt = DataModel["prompts"]["document"];

export const query = queryGeneric as QueryBuilder<DataModel, "public">;
export const mutation = mutationGeneric as MutationBuilder<DataModel, "public">;
export const internalMutation = internalMutationGeneric as MutationBuilder<DataModel, "internal">;
export const internal = anyApi;

/** A failure that a program can read: production hides every other text. */
export const refuse = (code: string, detail = ""): never => {
  throw new ConvexError({ code, detail });
};

async function sha256(text: string): Promise<string> {
  const digest = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(text));
  return [...new Uint8Array(digest)].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

const sandbox = (ctx: Reads, sandboxId: string) =>
  ctx.db
    .query("sandboxes")
    .withIndex("by_sandboxId", (q) => q.eq("sandboxId", sandboxId))
    .unique();

/** An agent: knows the token of its box. */
export async function agentOf(ctx: Reads, sandboxId: string, token: string): Promise<void> {
  const row = await sandbox(ctx, sandboxId);
  if (!row || row.tokenHash !== (await sha256(token))) refuse("Unauthorized");
}

/** A user: owns the box. A box without an owner is open to whoever knows its id. */
export async function userOf(ctx: Reads, sandboxId: string): Promise<void> {
  const row = await sandbox(ctx, sandboxId);
  if (!row) return refuse("NotFound", "no such sandbox");
  if (row.owner === undefined) return;
  const identity = await ctx.auth.getUserIdentity();
  if (identity?.tokenIdentifier !== row.owner) refuse("Unauthorized");
}

export const over = (prompt: Prompt): boolean => prompt.status !== "pending" && prompt.status !== "claimed";

/** A prompt of this box; ids of others are unknown here. */
export async function promptOf(ctx: Reads, sandboxId: string, id: GenericId<"prompts">): Promise<Prompt> {
  const prompt = await ctx.db.get(id);
  if (!prompt || prompt.sandboxId !== sandboxId) return refuse("NotFound", "no such prompt");
  return prompt;
}

/** Whether this attempt is the one that counts, be its lease over or not, as long as nobody else has claimed since. */
export const isOf = (prompt: Prompt, workerId: string, attempt: number): boolean =>
  prompt.workerId === workerId && prompt.attempt === attempt;

/** Writes a lease anew, also one that ran out while its agent could not be heard. */
export async function hold(ctx: Writes, prompt: Prompt, leaseMs: number): Promise<void> {
  await ctx.db.patch(prompt._id, { status: "claimed", leaseUntil: Date.now() + leaseMs });
  if (prompt.status === "pending") {
    await ctx.scheduler.runAfter(leaseMs, internal.agent.expire, { id: prompt._id, attempt: prompt.attempt });
  }
}

export async function closeQuestions(ctx: Writes, promptId: GenericId<"prompts">): Promise<void> {
  for (const status of ["open", "answered"] as const) {
    const rows = await ctx.db
      .query("questions")
      .withIndex("by_prompt", (q) => q.eq("promptId", promptId).eq("status", status))
      .collect();
    for (const row of rows) await ctx.db.patch(row._id, { status: "closed" });
  }
}
