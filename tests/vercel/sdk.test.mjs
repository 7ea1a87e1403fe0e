// What the vendor's SDK must find: run by `cargo test --test vercel` against the double, by hand with a real token against the service.
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { Writable } from "node:stream";
import { after, before, describe, test } from "node:test";
import { APIError, Sandbox, Snapshot } from "@vercel/sandbox";
import { arrived, asked, clear, credentials, fetch, inflict, order, real } from "./service.mjs";

const account = { ...credentials, fetch };
const name = (what) => `sandkeep-${what}-${randomUUID().slice(0, 8)}`;
const PORT = 20000 + Math.floor(Math.random() * 20000);
const GENERATIONS = [
  { of: "the default image", params: {}, cwd: "/vercel" },
  { of: "an older runtime", params: { runtime: "node24" }, cwd: "/vercel/sandbox" },
];
const status = (expected, code) => (error) => {
  assert.ok(error instanceof APIError, `${error}`);
  assert.equal(error.response.status, expected, error.message);
  if (code) assert.equal(error.json?.error?.code, code);
  return true;
};

for (const { of, params, cwd } of GENERATIONS) {
  describe(`a sandbox of ${of}`, () => {
    let sandbox;
    before(async () => {
      sandbox = await Sandbox.create({ ...account, ...params, name: name("sdk"), ports: [PORT], timeout: 300_000, env: { FROM_CREATE: "c" }, tags: { suite: "sandkeep" } });
    });
    after(() => sandbox?.delete());

    test("says what it is", () => {
      assert.equal(sandbox.status, "running");
      assert.equal(sandbox.cwd, cwd);
      assert.equal(sandbox.persistent, true);
      assert.ok(sandbox.expiresAt.getTime() > Date.now());
      assert.equal(sandbox.runtime, params.runtime);
      assert.match(sandbox.currentSession().sessionId, /^sbx_/);
    });

    test("runs commands: output, exit code, environment, directory", async () => {
      const result = await sandbox.runCommand("sh", ["-c", "echo out; echo err >&2; exit 3"]);
      assert.equal(result.exitCode, 3);
      assert.equal(await result.stdout(), "out\n");
      assert.equal(await result.stderr(), "err\n");
      const variables = await sandbox.runCommand({ cmd: "sh", args: ["-c", "echo $FROM_CREATE $MINE; pwd"], env: { MINE: "m" }, cwd: "/tmp" });
      assert.equal(await variables.stdout(), "c m\n/tmp\n");
      assert.equal((await (await sandbox.runCommand("pwd")).stdout()).trim(), cwd);
      assert.equal((await sandbox.runCommand("sh", ["-c", "definitely-not-a-program"])).exitCode, 127);
    });

    test("has a user that is not root, who may become it", async () => {
      const user = (await (await sandbox.runCommand("id", ["-un"])).stdout()).trim();
      assert.equal(user, params.runtime ? "vercel-sandbox" : "ubuntu");
      const root = await sandbox.runCommand({ cmd: "id", args: ["-u"], sudo: true });
      assert.equal((await root.stdout()).trim(), "0");
    });

    test("streams what a waited command says", async () => {
      const heard = [];
      const stdout = new Writable({ write(chunk, _, done) { heard.push(chunk.toString()); done(); } });
      await sandbox.runCommand({ cmd: "sh", args: ["-c", "echo one; sleep 0.3; echo two"], stdout });
      assert.equal(heard.join(""), "one\ntwo\n");
      assert.ok(heard.length >= 2, "it came while it ran");
    });

    test("writes and reads files, with their modes", async () => {
      const bytes = Buffer.from([0, 255, 254, 128, 65]);
      await sandbox.writeFiles([
        { path: "relative.bin", content: bytes },
        { path: "/tmp/deep/er/run.sh", content: "#!/bin/sh\necho ran\n", mode: 0o755 },
      ]);
      assert.deepEqual(await sandbox.readFileToBuffer({ path: `${cwd}/relative.bin` }), bytes);
      assert.equal(await sandbox.readFileToBuffer({ path: "missing" }), null);
      const run = await sandbox.runCommand("/tmp/deep/er/run.sh");
      assert.equal(await run.stdout(), "ran\n");
      const owner = await sandbox.runCommand("stat", ["-c", "%U", "/tmp/deep/er/run.sh"]);
      assert.equal((await owner.stdout()).trim(), params.runtime ? "vercel-sandbox" : "ubuntu");
    });

    test("has a file system facade", async () => {
      const root = `/tmp/fs-${randomUUID().slice(0, 8)}`;
      await sandbox.fs.mkdir(`${root}/a/b`, { recursive: true });
      await sandbox.fs.writeFile(`${root}/a/text`, "héllo");
      await sandbox.fs.appendFile(`${root}/a/text`, "!");
      assert.equal(await sandbox.fs.readFile(`${root}/a/text`, "utf8"), "héllo!");
      await sandbox.fs.symlink("text", `${root}/a/link`);
      await sandbox.fs.chmod(`${root}/a/text`, "640");
      assert.equal((await sandbox.fs.stat(`${root}/a/text`)).mode & 0o777, 0o640);
      const entries = await sandbox.fs.readdir(`${root}/a`, { withFileTypes: true });
      assert.deepEqual(entries.map((entry) => entry.name).sort(), ["b", "link", "text"]);
      await assert.rejects(sandbox.fs.readFile(`${root}/none`), { code: "ENOENT" });
      await sandbox.fs.rm(root, { recursive: true });
      assert.equal(await sandbox.fs.exists(root), false);
    });

    test("makes directories that are root's, one level at a time", async () => {
      const root = `/tmp/made-${randomUUID().slice(0, 8)}`;
      await sandbox.mkDir(root);
      assert.equal((await sandbox.runCommand("test", ["-d", root])).exitCode, 0);
      assert.notEqual((await sandbox.runCommand("touch", [`${root}/x`])).exitCode, 0);
      await assert.rejects(sandbox.mkDir(`${root}/none/below`), status(400));
    });

    test("detached commands go on, are found again, are heard from their beginning, and killed", async () => {
      const detached = await sandbox.runCommand({ cmd: "sh", args: ["-c", "trap 'echo bye; exit 7' TERM; echo begun; while :; do sleep 0.1; done"], detached: true });
      assert.equal(detached.exitCode, null);
      const again = await sandbox.getCommand(detached.cmdId);
      assert.equal(again.exitCode, null);
      for await (const line of again.logs()) {
        assert.deepEqual(line, { stream: "stdout", data: "begun\n" });
        break;
      }
      await again.kill("SIGTERM");
      assert.equal((await again.wait()).exitCode, 7);
      let heard = "";
      for await (const line of (await sandbox.getCommand(detached.cmdId)).logs()) heard += line.data;
      assert.equal(heard, "begun\nbye\n");
    });

    test("the exit code of a signal", async () => {
      for (const [signal, code] of [["SIGTERM", 143], ["SIGINT", 130], ["SIGKILL", 137]]) {
        const detached = await sandbox.runCommand({ cmd: "sleep", args: ["600"], detached: true });
        await detached.kill(signal);
        assert.equal((await detached.wait()).exitCode, code, signal);
      }
      const slow = await sandbox.runCommand({ cmd: "sleep", args: ["600"], timeoutMs: 300 });
      assert.equal(slow.exitCode, 137);
    });

    test("an exposed port is reached from outside", async () => {
      const program = `require("http").createServer((_, answer) => answer.end("hello")).listen(${PORT}, "0.0.0.0", () => console.log("listening"))`;
      await sandbox.writeFiles([{ path: "server.js", content: program }]);
      const server = await sandbox.runCommand({ cmd: "node", args: ["server.js"], detached: true });
      for await (const line of server.logs()) if (line.data.includes("listening")) break;
      assert.equal(await (await fetch(sandbox.domain(PORT))).text(), "hello");
      await server.kill();
      await server.wait();
    });

    test("the deadline moves, up to the plan's", async () => {
      const before = sandbox.currentSession().timeout;
      await sandbox.extendTimeout(60_000);
      assert.equal(sandbox.currentSession().timeout, before + 60_000);
      await assert.rejects(sandbox.extendTimeout(5 * 24 * 3600_000), status(400, "sandbox_timeout_invalid"));
    });

    test("a network policy is kept", async () => {
      assert.equal(await sandbox.updateNetworkPolicy("deny-all"), "deny-all");
      assert.equal(await sandbox.updateNetworkPolicy("allow-all"), "allow-all");
    });

    test("other users and groups", async () => {
      const user = await sandbox.createUser(`u${randomUUID().slice(0, 6)}`);
      const home = await user.runCommand("pwd");
      // The double cannot become another user than its two: `sudo` is not in its machines.
      if (real) assert.equal((await home.stdout()).trim(), user.homeDir);
      const group = await sandbox.createGroup(`g${randomUUID().slice(0, 6)}`);
      await sandbox.addUserToGroup(user.username, group.groupname);
    });

    test("stops, and comes back by itself with its files and without its processes", async () => {
      await sandbox.writeFiles([{ path: "kept.txt", content: "kept" }]);
      const running = await sandbox.runCommand({ cmd: "sleep", args: ["600"], detached: true });
      const first = sandbox.currentSession().sessionId;
      await sandbox.stop();
      assert.equal(sandbox.status, "stopped");
      assert.ok(sandbox.currentSnapshotId);
      const listed = await Sandbox.get({ ...account, name: sandbox.name, resume: false });
      assert.equal(listed.status, "stopped");
      assert.equal((await sandbox.readFileToBuffer({ path: "kept.txt" })).toString(), "kept");
      assert.notEqual(sandbox.currentSession().sessionId, first);
      await assert.rejects(sandbox.getCommand(running.cmdId), status(404));
      assert.equal((await sandbox.runCommand("sh", ["-c", "pgrep -x sleep || echo none"])).exitCode, 0);
      const { sessions } = await sandbox.listSessions();
      assert.equal(sessions.length, 2);
    });
  });
}

describe("the account", () => {
  test("lists by tag and in pages, gets by name, deletes", async () => {
    const suite = randomUUID().slice(0, 8);
    const made = [];
    for (const _ of [1, 2]) made.push(await Sandbox.create({ ...account, name: name("list"), tags: { suite } }));
    const page = await Sandbox.list({ ...account, tags: { suite }, limit: 1 });
    assert.equal(page.sandboxes.length, 1);
    const all = [];
    for await (const sandbox of page) all.push(sandbox.name);
    assert.deepEqual(all.sort(), made.map((sandbox) => sandbox.name).sort());
    for (const sandbox of made) await sandbox.delete();
    await assert.rejects(Sandbox.get({ ...account, name: made[0].name }), status(404));
  });

  test("a name is one sandbox's", async () => {
    let created = 0;
    const taken = name("once");
    const onCreate = async () => { created += 1; };
    const first = await Sandbox.getOrCreate({ ...account, name: taken, onCreate });
    await Sandbox.getOrCreate({ ...account, name: taken, onCreate });
    assert.equal(created, 1);
    await assert.rejects(Sandbox.create({ ...account, name: taken }), status(400, "bad_request"));
    await first.delete();
  });

  test("a wrong token is refused", async () => {
    await assert.rejects(Sandbox.get({ ...account, token: "wrong", name: "x" }), status(403, "forbidden"));
  });

  test("a repository becomes the working directory", { skip: !process.env.VERCEL_TEST_REPO && "VERCEL_TEST_REPO names no repository" }, async () => {
    const sandbox = await Sandbox.create({ ...account, runtime: "node24", source: { type: "git", url: process.env.VERCEL_TEST_REPO, depth: 1 } });
    const git = await sandbox.runCommand("git", ["rev-parse", "--show-toplevel"]);
    assert.equal((await git.stdout()).trim(), "/vercel/sandbox", await git.stderr());
    await sandbox.delete();
  });

  test("snapshots, and forks of them", async () => {
    const source = await Sandbox.create({ ...account, name: name("fork") });
    await source.fs.writeFile("/tmp/state", "captured");
    const snapshot = await source.snapshot();
    assert.equal((await Snapshot.get({ ...account, snapshotId: snapshot.snapshotId })).sourceSessionId, snapshot.sourceSessionId);
    await source.fs.writeFile("/tmp/state", "changed");
    const fork = await Sandbox.fork({ ...account, sourceSandbox: source.name, name: name("forked") });
    assert.equal(await fork.fs.readFile("/tmp/state", "utf8"), "captured");
    await fork.delete();
    await source.delete();
    await snapshot.delete();
    await assert.rejects(
      Sandbox.create({ ...account, source: { type: "snapshot", snapshotId: snapshot.snapshotId } }),
      status(410, "snapshot_not_found"),
    );
  });
});

// What the vendor's client makes of what goes wrong, which ours has to do better or as well.
describe("faults of the double", { skip: real && "the service takes no orders" }, () => {
  let sandbox;
  before(async () => {
    sandbox = await Sandbox.create({ ...account, name: name("faults") });
  });
  after(async () => {
    await clear();
    await sandbox?.delete();
  });

  test("a 500 is tried again, of a command that ran too: it runs twice", async () => {
    await order({ on: "run", do: "status-after", status: 500 });
    await asked("run");
    await sandbox.runCommand("sh", ["-c", "echo x >> /tmp/ran"]);
    assert.equal((await asked("run")).length, 2);
    assert.equal(await sandbox.fs.readFile("/tmp/ran", "utf8"), "x\nx\n");
  });

  test("a 429 is waited for, within reason", async () => {
    await order({ on: "get", do: "status", status: 429, retry_after: 1 });
    await Sandbox.get({ ...account, name: sandbox.name });
    await order({ on: "get", do: "status", status: 429, retry_after: 60 });
    await assert.rejects(Sandbox.get({ ...account, name: sandbox.name }), status(429));
  });

  test("402 and 403 are said at once", async () => {
    await order({ on: "create", do: "status", status: 402 }, { on: "create", do: "status", status: 403 });
    await assert.rejects(Sandbox.create({ ...account }), status(402));
    await assert.rejects(Sandbox.create({ ...account }), status(403));
  });

  test("a stream that is cut has no end", async () => {
    await order({ on: "run", do: "short", bytes: 420 });
    await assert.rejects(sandbox.runCommand("sh", ["-c", "echo one; sleep 1; echo two"]), /Stream ended before command finished|JSON/);
    await order({ on: "run", do: "error-line", lines: 1, code: "sandbox_stream_closed" });
    await assert.rejects(sandbox.runCommand("echo", ["x"]), { code: "sandbox_stream_closed" });
  });

  test("slow bodies are read to their end", async () => {
    await order({ on: "run", do: "slow", bytes: 40, ms: 10 });
    assert.equal(await (await sandbox.runCommand("echo", ["slowly"])).stdout(), "slowly\n");
  });

  test("a session that ends under a command", async () => {
    const running = await sandbox.runCommand({ cmd: "sleep", args: ["600"], detached: true });
    await asked("any");
    const both = Promise.all([
      assert.rejects(running.wait(), status(410, "sandbox_stopped")),
      assert.rejects(async () => { for await (const _ of running.logs()); }, { code: "sandbox_stopped" }),
    ]);
    await arrived("command", "logs");
    await inflict(sandbox.name, "stop");
    await both;
  });

  test("410 and 422 are a new session, once", async () => {
    await order({ on: "run", do: "status", status: 422, code: "sandbox_snapshotting" });
    assert.equal((await sandbox.runCommand("true")).exitCode, 0);
    await inflict(sandbox.name, "stop");
    await inflict(sandbox.name, "lose-disk");
    assert.equal(await (await sandbox.runCommand("sh", ["-c", "ls -A /tmp"])).stdout(), "");
  });
});
