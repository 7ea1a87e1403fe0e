"use server";

// The app's three actions: start a sandbox with its worker, say how the worker does, stop it.
// On the app's server: SANDKEEP_SERVE_URL (http://127.0.0.1:7879) and SANDKEEP_SERVE_TOKEN.

import createClient, { type Client } from "openapi-fetch";
import type { components, paths } from "./sandkeep";

type Schemas = components["schemas"];
export type StartInput = Schemas["StartBody"];
export type Started = Schemas["Accepted"];
export type Operation = Schemas["Operation"];
export type WorkerStatus = Schemas["Worker"];
export type WorkerStopped = Schemas["WorkerStopped"];

/** What an action gives: its data, or why there is none, with a `code` that stays as it is and what to do about it. */
export type Result<T> = { ok: true; data: T } | { ok: false; problem: Schemas["Problem"] };

/**
 * Starts a sandbox, or with `sandboxId` makes sure that it is as it should be. Returns at once: `getOperationAction` says how far it is, and
 * the route of `events.ts` streams the steps. `attempt` is one random id for each click: with the same one again (a retry, a double click)
 * nothing is started twice.
 */
export async function startSandboxAction(input: StartInput, attempt: string = crypto.randomUUID()): Promise<Result<Started>> {
  return result(() => keep().POST("/v1/sandboxes", { params: { header: { "Idempotency-Key": attempt } }, body: input }));
}

/** How far a start is: `pending`, `running`, `succeeded` with `result.previewUrl`, `failed` with `failure`, `cancelled`. */
export async function getOperationAction(id: string): Promise<Result<Operation>> {
  return result(() => keep().GET("/v1/operations/{id}", { params: { path: { id } } }));
}

/** `isRunning`, `pid`, `logs` as before; `warnings` says what would be lost with the sandbox; `status` is the whole document. */
export async function getWorkerStatusAction(id: string): Promise<Result<WorkerStatus>> {
  return result(() => keep().GET("/v1/sandboxes/{id}/worker", { params: { path: { id } } }));
}

/** Flushes the files, stops everything in order, ends the sandbox. Show `warnings` to the user, or better: ask `getWorkerStatusAction` before. */
export async function stopWorkerAction(id: string): Promise<Result<WorkerStopped>> {
  return result(() => keep().POST("/v1/sandboxes/{id}/worker/stop", { params: { path: { id } } }));
}

function keep(): Client<paths> {
  const { SANDKEEP_SERVE_URL: baseUrl = "http://127.0.0.1:7879", SANDKEEP_SERVE_TOKEN: token } = process.env;
  return createClient<paths>({ baseUrl, headers: { authorization: `Bearer ${token}` }, cache: "no-store" });
}

type Answer<T> = { data?: T; error?: unknown; response: Response };

async function result<T>(ask: () => Promise<Answer<T>>): Promise<Result<T>> {
  try {
    const { data, error, response } = await ask();
    if (data !== undefined) return { ok: true, data };
    return { ok: false, problem: isProblem(error) ? error : unavailable(`HTTP status ${response.status}`) };
  } catch (error) {
    return { ok: false, problem: unavailable(error instanceof Error ? error.message : String(error)) };
  }
}

function isProblem(value: unknown): value is Schemas["Problem"] {
  return typeof value === "object" && value !== null && "code" in value && "detail" in value;
}

function unavailable(detail: string): Schemas["Problem"] {
  const hint = "is `sandkeep serve` running at SANDKEEP_SERVE_URL?";
  return { type: "urn:sandkeep:problem:unavailable", title: "sandkeep serve does not answer", status: 502, code: "unavailable", detail, hint };
}
