// config/nextjs/vercel-sdk/start.ts, built by its test, against the double.
import assert from "node:assert/strict";
import { test } from "node:test";
import { sandboxStatus, startSandbox, stopSandbox } from "./node_modules/.start/start.js";
import { asked, credentials, fetch, inflict, order } from "./service.mjs";

const account = { ...credentials, fetch };
const { TEST_REPO: repo, TEST_BINARY: binary } = process.env;
const [port, healthPort] = [Number(process.env.TEST_PORT), Number(process.env.TEST_HEALTH_PORT)];
const token = "a-token-of-the-project";
const request = {
  name: "app", repo, binary, port, healthPort, token, timeoutMs: 1_800_000,
  install: "npm install --no-audit --no-fund --offline",
  environment: { ANTHROPIC_API_KEY: "sk-of-the-sdk" },
};

test("starts, is found running, comes back, stops", async () => {
  const started = await startSandbox(request, account);
  assert.equal(await (await fetch(started.previewUrl)).text(), "hello from the project");
  const status = await sandboxStatus(started, token, fetch);
  assert.equal(status.ready, true);
  assert.equal(status.sandbox, "app");

  await asked("write");
  await order({ on: "run", do: "status-after", status: 500 });
  await startSandbox(request, account);
  assert.equal((await asked("write")).length, 0, "the binary is there");
  assert.equal((await sandboxStatus(started, token, fetch)).pid, status.pid, "and runs once");

  await inflict("app", "stop");
  const resumed = await startSandbox(request, account);
  assert.equal(await (await fetch(resumed.previewUrl)).text(), "hello from the project");
  await stopSandbox("app", account);
  await stopSandbox("app", account);
});

test("says what the supervisor said when it cannot start", async () => {
  await assert.rejects(startSandbox({ ...request, name: "wrong", repo: `${repo}-nowhere` }, account), /exit code 128: .*(not found|not exported)/s);
});
