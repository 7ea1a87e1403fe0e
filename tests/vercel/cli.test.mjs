// What the vendor's command line must find.
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { randomUUID } from "node:crypto";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, before, test } from "node:test";
import { credentials, real } from "./service.mjs";

const here = import.meta.dirname;
const name = `sandkeep-cli-${randomUUID().slice(0, 8)}`;
let scratch;

/** Runs `sandbox …`; its exit code and what it said. */
function sandbox(...args) {
  const env = {
    ...process.env,
    VERCEL_AUTH_TOKEN: credentials.token,
    VERCEL_TELEMETRY_DISABLED: "1",
    SANDBOX_SKIP_VERSION_CHECK: "1",
    CI: "1",
    NO_COLOR: "1",
    HOME: scratch,
    ...(real ? {} : { NODE_OPTIONS: `--import ${path.join(here, "service.mjs")}` }),
  };
  const program = path.join(here, "node_modules/.bin/sandbox");
  return new Promise((done) => {
    execFile(program, args, { env, timeout: 60_000 }, (error, stdout, stderr) => done({ code: error ? error.code : 0, stdout, stderr }));
  });
}
const scope = ["--scope", credentials.teamId, "--project", credentials.projectId];

before(async () => {
  scratch = await mkdtemp(path.join(tmpdir(), "sandbox-cli-"));
});
after(() => rm(scratch, { recursive: true }));

test("create says the name on standard output", async () => {
  const created = await sandbox("create", "--name", name, "--timeout", "5m", ...scope);
  assert.equal(created.code, 0, created.stderr);
  assert.equal(created.stdout.trim(), name);
});

test("exec passes output and exit code on", async () => {
  const ran = await sandbox("exec", ...scope, name, "sh", "-c", "echo out; echo err >&2; exit 5");
  assert.equal(ran.code, 5, ran.stderr);
  assert.equal(ran.stdout, "out\n");
  assert.match(ran.stderr, /err/);
});

test("cp copies in and out", async () => {
  const [from, to] = ["from.txt", "to.txt"].map((file) => path.join(scratch, file));
  await writeFile(from, "through the sandbox");
  const copied = await sandbox("cp", ...scope, from, `${name}:/tmp/in.txt`);
  assert.equal(copied.code, 0, copied.stderr);
  const back = await sandbox("cp", ...scope, `${name}:/tmp/in.txt`, to);
  assert.equal(back.code, 0, back.stderr);
  assert.equal(await readFile(to, "utf8"), "through the sandbox");
});

test("ls shows it", async () => {
  const listed = await sandbox("ls", ...scope);
  assert.equal(listed.code, 0, listed.stderr);
  assert.match(listed.stdout, new RegExp(name));
});

test("stop ends it, and exec brings it back with its files", async () => {
  const stopped = await sandbox("stop", ...scope, name);
  assert.equal(stopped.code, 0, stopped.stderr);
  const ran = await sandbox("exec", ...scope, name, "cat", "/tmp/in.txt");
  assert.equal(ran.stdout, "through the sandbox", ran.stderr);
});

test("rm removes it", async () => {
  const removed = await sandbox("rm", ...scope, name);
  assert.equal(removed.code, 0, removed.stderr);
  const gone = await sandbox("exec", ...scope, name, "true");
  assert.notEqual(gone.code, 0);
});
