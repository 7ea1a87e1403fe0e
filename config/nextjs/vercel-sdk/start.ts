// Puts a project into a Vercel Sandbox under sandkeep, with the vendor's SDK alone: write one file, run one command.
import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { Sandbox } from "@vercel/sandbox";

/** The health endpoint's port in the sandbox, unless the request has another. */
const HEALTH_PORT = 7878;
/** How long the project may take until it is ready. */
const READY_WITHIN_MS = 15 * 60_000;

/** What to start. */
export interface StartRequest {
  /** The sandbox's name: the same name is the same sandbox. */
  name: string;
  /** The project's repository, `https://…`. */
  repo: string;
  branch?: string | undefined;
  /** For a private repository. It is used for the clone and left in no file. */
  repoToken?: string | undefined;
  /** Install and dev command, and the dev server's port; without them what the project says. */
  install?: string | undefined;
  dev?: string | undefined;
  port?: number | undefined;
  healthPort?: number | undefined;
  /** The bearer token of the health endpoint: a random one of yours, kept with the project. */
  token: string;
  /** What the supervisor gets: keys of the agent, of the store. */
  environment?: Record<string, string> | undefined;
  /** How long the sandbox lives. */
  timeoutMs?: number | undefined;
  /** The static sandkeep binary for linux/amd64, as a file of this deployment. */
  binary: string;
}

/** Where it is. */
export interface Started {
  name: string;
  previewUrl: string;
  healthUrl: string;
  /** The supervisor's command: `sandbox.getCommand(commandId)` has its output. */
  commandId: string;
  expiresAt: Date | undefined;
}

/** Credentials and a `fetch` other than the usual ones; functions on Vercel need none. */
export interface Account {
  token?: string;
  teamId?: string;
  projectId?: string;
  fetch?: typeof globalThis.fetch;
}

// Done twice it is the same: of two clones one wins, and of two supervisors one finds the other. What Git was given to log in is taken
// out of the environment before the project sees it.
const START = `
set -eu
binary=$1 directory=$2 repo=$3 branch=$4
shift 4
if [ ! -d "$directory/.git" ]; then
  fresh="$directory.$$"
  git clone --quiet \${branch:+--branch "$branch"} -- "$repo" "$fresh"
  mv -T "$fresh" "$directory" || rm -rf "$fresh"
fi
unset GIT_CONFIG_COUNT GIT_CONFIG_KEY_0 GIT_CONFIG_VALUE_0
cd "$directory"
exec "$binary" up "$@"
`;

/** Starts, resumes, or finds running; returns when the project is ready. */
export async function startSandbox(request: StartRequest, account: Account = {}): Promise<Started> {
  const { sandbox, port, healthPort } = await open(request, account);
  const binary = await bringIn(sandbox, request.binary);
  const command = await sandbox.runCommand({
    cmd: "/bin/sh",
    args: ["-c", START, "start", binary, `${sandbox.cwd}/${request.name}`, request.repo, request.branch ?? "", ...upArguments(request, port, healthPort)],
    env: {
      ...request.environment,
      ...gitLogin(request),
      SANDKEEP_TOKEN: request.token,
      SANDBOX_ID: sandbox.name,
      ...(sandbox.expiresAt && { SANDBOX_EXPIRES_AT: sandbox.expiresAt.toISOString() }),
    },
    detached: true,
  });
  const started: Started = {
    name: sandbox.name,
    previewUrl: sandbox.domain(port),
    healthUrl: sandbox.domain(healthPort),
    commandId: command.cmdId,
    expiresAt: sandbox.expiresAt,
  };
  await ready(sandbox, started, account.fetch ?? globalThis.fetch);
  return started;
}

/** The supervisor's status document; `undefined` where none answers. */
export async function sandboxStatus(started: Pick<Started, "healthUrl">, token: string, fetch = globalThis.fetch): Promise<unknown> {
  const answer = await fetch(`${started.healthUrl}/v1/status`, { headers: { authorization: `Bearer ${token}` } }).catch(() => undefined);
  return answer?.ok ? answer.json() : undefined;
}

/** Drains (sync flushed), then ends the session; its files stay. */
export async function stopSandbox(name: string, account: Account = {}): Promise<void> {
  const sandbox = await Sandbox.get({ ...account, name, resume: false });
  if (sandbox.status !== "running") return;
  const down = 'for binary in "$0"/.sandkeep/sandkeep-*; do exec "$binary" down; done';
  await sandbox.runCommand("/bin/sh", ["-c", down, sandbox.cwd]);
  await sandbox.stop();
}

async function open(request: StartRequest, account: Account) {
  const port = request.port ?? 3000;
  const healthPort = request.healthPort ?? HEALTH_PORT;
  const sandbox = await Sandbox.getOrCreate({
    ...account,
    name: request.name,
    ports: [port, healthPort],
    resume: true,
    ...(request.timeoutMs !== undefined && { timeout: request.timeoutMs }),
  });
  return { sandbox, port, healthPort };
}

/** The one file: under its digest's name, so that another version is another file. */
async function bringIn(sandbox: Sandbox, file: string): Promise<string> {
  const content = await readFile(file);
  const digest = createHash("sha256").update(content).digest("hex").slice(0, 16);
  const path = `${sandbox.cwd}/.sandkeep/sandkeep-${digest}`;
  const there = await sandbox.runCommand("test", ["-x", path]);
  if (there.exitCode !== 0) await sandbox.writeFiles([{ path, content, mode: 0o755 }]);
  return path;
}

function upArguments(request: StartRequest, port: number, healthPort: number): string[] {
  const flags = { "--install": request.install, "--dev": request.dev, "--port": String(port), "--listen": `0.0.0.0:${healthPort}` };
  return Object.entries(flags).flatMap(([flag, value]) => (value === undefined ? [] : [flag, value]));
}

/** Git's log-in for the clone, in the environment, where no list of processes shows it. */
function gitLogin(request: StartRequest): Record<string, string> {
  if (request.repoToken === undefined) return {};
  const basic = Buffer.from(`x-access-token:${request.repoToken}`).toString("base64");
  return {
    GIT_CONFIG_COUNT: "1",
    GIT_CONFIG_KEY_0: `http.${new URL(request.repo).origin}/.extraHeader`,
    GIT_CONFIG_VALUE_0: `Authorization: Basic ${basic}`,
  };
}

/** Waits for `/readyz`; throws with the supervisor's own words when it ended, or time is up. */
async function ready(sandbox: Sandbox, started: Started, fetch: typeof globalThis.fetch): Promise<void> {
  const until = Date.now() + READY_WITHIN_MS;
  for (let wait = 100; ; wait = Math.min(wait * 2, 3000)) {
    const answer = await fetch(`${started.healthUrl}/readyz`, { signal: AbortSignal.timeout(10_000) }).catch(() => undefined);
    if (answer?.status === 200) return;
    const command = await sandbox.getCommand(started.commandId);
    const failed = command.exitCode !== null && command.exitCode !== 0;
    if (failed || Date.now() > until) {
      const said = failed ? await command.output() : JSON.stringify(await answer?.json().catch(() => undefined));
      throw new Error(`${started.name} is not ready: ${failed ? `exit code ${command.exitCode}` : "time is up"}: ${said.slice(-2000)}`);
    }
    await new Promise((done) => setTimeout(done, wait));
  }
}
