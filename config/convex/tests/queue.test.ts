import { createHash } from "node:crypto";
import { convexTest } from "convex-test";
import { anyApi as api } from "convex/server";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import schema from "../schema";

const modules = {
  "/convex/_generated/api.js": async () => ({}),
  "/convex/agent.ts": () => import("../agent"),
  "/convex/ui.ts": () => import("../ui"),
};
const TOKEN = "t".repeat(32);
const box = { sandboxId: "sb", token: TOKEN };
const tokenHash = createHash("sha256").update(TOKEN).digest("hex");

let t: ReturnType<typeof convexTest>;
beforeEach(async () => {
  vi.useFakeTimers();
  t = convexTest(schema, modules);
  await t.mutation(api.agent.admit, { sandboxId: "sb", tokenHash });
});
afterEach(() => vi.useRealTimers());

const send = (text = "do", more = {}) => t.mutation(api.ui.send, { sandboxId: "sb", text, clientKey: text, ...more });
const claim = (id: string, workerId = "w", more = {}) => t.mutation(api.agent.claim, { ...box, id, workerId, ...more });
const append = (id: string, from: number, events: string[], attempt = 1, workerId = "w") =>
  t.mutation(api.agent.append, { ...box, id, workerId, attempt, from, events });
const complete = (id: string, more = {}) =>
  t.mutation(api.agent.complete, { ...box, id, workerId: "w", attempt: 1, status: "done", lastSeq: 3, result: "{}", ...more });
const page = (id: string) => t.query(api.ui.stream, { id, from: 1, to: 100 });
const status = async (id: string) => (await t.query(api.ui.prompt, { id })).status;
const passes = async (ms: number) => {
  vi.advanceTimersByTime(ms);
  await t.finishInProgressScheduledFunctions();
};

test("sending twice sends once", async () => {
  expect(await send()).toBe(await send());
  await expect(send("  ")).rejects.toThrow("EmptyPrompt");
  await expect(send("x".repeat(1_000_000))).rejects.toThrow("LongPrompt");
});

test("a wrong token sees and does nothing", async () => {
  const id = await send();
  await expect(t.query(api.agent.inbox, { ...box, token: "wrong" })).rejects.toThrow("Unauthorized");
  await expect(claim(id, "w", { token: "wrong" })).rejects.toThrow("Unauthorized");
  await t.mutation(api.agent.dismiss, { sandboxId: "sb" });
  await expect(claim(id)).rejects.toThrow("Unauthorized");
});

test("another box's prompt is unknown", async () => {
  await t.mutation(api.agent.admit, { sandboxId: "other", tokenHash });
  const id = await send();
  await expect(claim(id, "w", { sandboxId: "other" })).rejects.toThrow("NotFound");
});

test("a box with an owner is that user's alone", async () => {
  await t.mutation(api.agent.admit, { sandboxId: "sb", tokenHash, owner: "me" });
  await expect(send()).rejects.toThrow("Unauthorized");
  const me = t.withIdentity({ tokenIdentifier: "me" });
  const id = await me.mutation(api.ui.send, { sandboxId: "sb", text: "do", clientKey: "k" });
  await expect(page(id)).rejects.toThrow("Unauthorized");
  expect(await me.query(api.ui.stream, { id, from: 1, to: 9 })).toEqual([]);
});

test("a claim is given once, and again to the same worker", async () => {
  const id = await send();
  expect(await claim(id)).toMatchObject({ ok: true, attempt: 1, nextSeq: 1, text: "do" });
  expect(await claim(id)).toMatchObject({ ok: true, attempt: 1 });
  expect(await claim(id, "other")).toEqual({ ok: false, status: "claimed" });
  const { pending, claimed } = await t.query(api.agent.inbox, box);
  expect([pending, claimed]).toMatchObject([[], [{ id, workerId: "w", attempt: 1, cancel: false }]]);
});

test("a session has one prompt at a time", async () => {
  const [a, b, c] = [await send("a"), await send("b"), await send("c", { session: "else" })];
  await claim(a);
  expect(await claim(b)).toEqual({ ok: false, status: "busy" });
  expect(await claim(c)).toMatchObject({ ok: true });
});

test("events come once and without gaps, however they are sent", async () => {
  const id = await send();
  await claim(id);
  expect(await append(id, 1, ["a", "b"])).toEqual({ next: 3 });
  expect(await append(id, 1, ["a", "b"])).toEqual({ next: 3 });
  expect(await append(id, 2, ["b", "c"])).toEqual({ next: 4 });
  expect(await append(id, 9, ["z"])).toEqual({ next: 4 });
  expect(await page(id)).toEqual(["a", "b", "c"]);
});

test("a lease that runs out gives the prompt back; the old attempt is fenced off", async () => {
  const id = await send();
  await claim(id);
  await append(id, 1, ["a"]);
  await passes(30_000);
  await t.mutation(api.agent.renew, { ...box, id, workerId: "w", attempt: 1 });
  await passes(31_000);
  expect(await status(id)).toBe("claimed");
  await passes(30_000);
  expect(await status(id)).toBe("pending");
  expect(await claim(id, "other")).toMatchObject({ ok: true, attempt: 2, nextSeq: 2 });
  await expect(append(id, 2, ["late"])).rejects.toThrow("LeaseLost");
  await expect(complete(id)).rejects.toThrow("LeaseLost");
  expect(await t.mutation(api.agent.renew, { ...box, id, workerId: "w", attempt: 1 })).toEqual({ ok: false });
  expect(await append(id, 2, ["b"], 2, "other")).toEqual({ next: 3 });
});

test("whoever was only out of reach takes up the claim again", async () => {
  const id = await send();
  await claim(id);
  await passes(60_000);
  expect(await status(id)).toBe("pending");
  expect(await append(id, 1, ["a"])).toEqual({ next: 2 });
  expect(await status(id)).toBe("claimed");
  await passes(61_000);
  expect(await status(id)).toBe("pending");
});

test("after five attempts it has failed", async () => {
  const id = await send();
  for (let attempt = 1; attempt <= 5; attempt++) {
    expect(await claim(id, `w${attempt}`)).toMatchObject({ attempt });
    await passes(60_000);
  }
  expect(await status(id)).toBe("failed");
});

test("the end may be told before the last events", async () => {
  const id = await send();
  await claim(id);
  await append(id, 1, ["a"]);
  expect(await complete(id)).toEqual({ ok: true, again: false });
  expect(await complete(id)).toEqual({ ok: true, again: true });
  expect(await complete(id, { status: "failed" })).toEqual({ ok: false, again: true });
  expect(await append(id, 2, ["b", "end"])).toEqual({ next: 4 });
  await expect(append(id, 4, ["more"])).rejects.toThrow("Over");
  expect(await status(id)).toBe("done");
  expect(await claim(id)).toEqual({ ok: false, status: "done" });
});

test("cancel", async () => {
  const [a, b] = [await send("a"), await send("b", { session: "else" })];
  await t.mutation(api.ui.cancel, { id: a });
  expect(await status(a)).toBe("cancelled");
  await claim(b);
  await t.mutation(api.ui.cancel, { id: b });
  expect((await t.query(api.agent.inbox, box)).claimed).toMatchObject([{ id: b, cancel: true }]);
  await complete(b);
  await t.mutation(api.ui.cancel, { id: b });
  expect(await status(b)).toBe("done");
});

test("a question is asked once, answered once, and settled", async () => {
  const id = await send();
  await claim(id);
  const ask = (body?: string) => t.mutation(api.agent.ask, { ...box, id, workerId: "w", attempt: 1, question: "q", body });
  const answers = async () => (await t.query(api.agent.inbox, box)).claimed[0].answers;
  await ask("{}");
  await ask("{}");
  expect((await t.query(api.ui.prompt, { id })).questions).toEqual([{ question: "q", body: "{}" }]);
  await t.mutation(api.ui.answer, { id, question: "q", answer: '{"behavior":"allow"}' });
  await expect(t.mutation(api.ui.answer, { id, question: "q", answer: "{}" })).rejects.toThrow("NoQuestion");
  expect(await answers()).toEqual([{ question: "q", answer: '{"behavior":"allow"}' }]);
  await ask();
  expect(await answers()).toEqual([]);
});

test("who claims again finds no question of before", async () => {
  const id = await send();
  await claim(id);
  for (const question of ["open", "answered"])
    await t.mutation(api.agent.ask, { ...box, id, workerId: "w", attempt: 1, question, body: "{}" });
  await t.mutation(api.ui.answer, { id, question: "answered", answer: "{}" });
  await claim(id);
  expect((await t.query(api.ui.prompt, { id })).questions).toEqual([]);
  expect((await t.query(api.agent.inbox, box)).claimed[0].answers).toEqual([]);
});

test("the status is written when it changes, the heartbeat always", async () => {
  const beat = (more = {}) => t.mutation(api.agent.heartbeat, { ...box, bootId: "b", ...more });
  await beat({ state: "running", detail: "{}" });
  const { lastSeen } = await t.query(api.ui.status, { sandboxId: "sb" });
  vi.advanceTimersByTime(30_000);
  await beat();
  const later = await t.query(api.ui.status, { sandboxId: "sb" });
  expect(later).toMatchObject({ state: "running", bootId: "b" });
  expect(later.lastSeen).toBe(lastSeen! + 30_000);
});
