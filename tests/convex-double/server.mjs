// A Convex deployment on loopback, for tests: the functions of a folder (by convex-test) behind Convex's public HTTP API and its
// WebSocket sync protocol, as both official clients speak them.
//   node server.mjs [--dir ../../config/convex] [--port 0] [--admin-key K] [--tls-cert FILE --tls-key FILE]
// stdout line 1: {"url":"http://127.0.0.1:PORT","adminKey":"..."}
import http from "node:http";
import https from "node:https";
import { AsyncResource } from "node:async_hooks";
import fs from "node:fs";
import path from "node:path";
import { pathToFileURL } from "node:url";
import { WebSocketServer } from "ws";
import esbuild from "esbuild";
import { convexTest } from "convex-test";
import { convexToJson, jsonToConvex, getDocumentSize } from "convex/values";

const arg = (n, d) => { const i = process.argv.indexOf("--" + n); return i < 0 ? d : process.argv[i + 1]; };
const DIR = path.resolve(arg("dir", path.join(import.meta.dirname, "../../config/convex")));
const ADMIN = arg("admin-key", "double|admin");
const MAX_DOC = 1 << 20, CHUNK = Number(arg("chunk-bytes", 5_000_000)), PING_MS = Number(arg("ping-ms", 15000));

// ---- load function modules ------------------------------------------------
// Beside the packages that they import, and apart for each process.
const BUILD = path.join(import.meta.dirname, "node_modules", `.functions-${process.pid}`);
process.on("exit", () => fs.rmSync(BUILD, { recursive: true, force: true }));
for (const signal of ["SIGTERM", "SIGINT"]) process.on(signal, () => process.exit(0));
process.stdin.on("end", () => process.exit(0)).resume(); // whoever started it is gone
const files = fs.existsSync(DIR) ? fs.readdirSync(DIR).filter((f) => /\.(ts|js|mjs)$/.test(f) && !/\.(d|test|config)\./.test(f)).map((f) => path.join(DIR, f)) : [];
await esbuild.build({ entryPoints: files, outdir: BUILD, outbase: DIR, bundle: true, splitting: true, format: "esm", platform: "node", packages: "external", outExtension: { ".js": ".mjs" }, logLevel: "error" });
const modules = { "/convex/_generated/api.js": async () => ({}) };
for (const f of files) {
  const rel = path.relative(DIR, f).replace(/\.[^.]+$/, "");
  modules[`/convex/${rel}.js`] = () => import(pathToFileURL(path.join(BUILD, rel + ".mjs")).href);
}
const schema = modules["/convex/schema.js"] ? (await modules["/convex/schema.js"]()).default : undefined;
let t;
async function reset() {
  t = convexTest({ schema, modules, transactionLimits: true });
  if (!globalThis.Convex.__double) { // see every write syscall, also those of scheduled functions
    const orig = globalThis.Convex;
    globalThis.Convex = { __double: true, get syscall() { return orig.syscall; }, get jsSyscall() { return orig.jsSyscall; },
      get asyncSyscall() { const f = orig.asyncSyscall; return async (op, json) => {
        if (op === "1.0/insert" || op === "1.0/replace") { const n = getDocumentSize(jsonToConvex(JSON.parse(json).value)); if (n > MAX_DOC) throw new Error(`Value is too large (${(n / MAX_DOC).toFixed(2)} MiB > maximum size 1 MiB)`); }
        const r = await f(op, json); if (WRITES.has(op)) onWrite(); return r; }; } };
  }
  sessionRequests.clear();
}
const root = new AsyncResource("double-root");
const WRITES = new Set(["1.0/insert", "1.0/replace", "1.0/shallowMerge", "1.0/remove"]);
let lastTs = BigInt(Date.now()) * 1000000n;
const conns = new Set(), sessionRequests = new Map(), trace = [];
const faults = []; // {on:"mutation"|"action"|"query"|"http"|"connect", path?, times, do:"drop-before"|"drop-after"|"delay"|"error"|"http", ms?, status?, code?, message?}
let outage = false; // nobody but an admin is served
const stats = { connections: 0, executed: {}, deduped: 0 };
// A write happened in a transaction that may still be running; our queries wait for its lock, so they see it committed.
function onWrite() { const now = BigInt(Date.now()) * 1000000n; lastTs = now > lastTs ? now : lastTs + 1n; root.runInAsyncScope(() => { for (const c of conns) c.schedule(); }); } // leave the mutation's async context, else our queries would count as nested in it
const takeFault = (on, p) => { const i = faults.findIndex((f) => f.on === on && (!f.path || f.path === p)); if (i < 0) return null; const f = faults[i]; if (--f.times <= 0) faults.splice(i, 1); return f; };

// ---- values ----------------------------------------------------------------
const u64 = (n) => { const b = Buffer.alloc(8); b.writeBigUInt64LE(BigInt(n)); return b.toString("base64"); };
const fromU64 = (s) => Buffer.from(s, "base64").readBigUInt64LE();
function clean(v) { // Value.export_clean()
  if (typeof v === "bigint") return v.toString();
  if (typeof v === "number") return Number.isNaN(v) ? "NaN" : v === Infinity ? "Infinity" : v === -Infinity ? "-Infinity" : v;
  if (v instanceof ArrayBuffer) return Buffer.from(v).toString("base64");
  if (Array.isArray(v)) return v.map(clean);
  if (v && typeof v === "object") return Object.fromEntries(Object.entries(v).map(([k, x]) => [k, clean(x)]));
  return v ?? null;
}
const canon = (p) => { let [m, f = "default"] = p.split(":"); return m.replace(/\.js$/, "") + ":" + f; };

// ---- identity --------------------------------------------------------------
class AuthFail extends Error {}
function identityOf(tok) { // {tokenType, value, impersonating|actingAs}
  if (!tok || tok.tokenType === "None") return { kind: "none" };
  if (tok.tokenType === "Admin") {
    if (tok.value !== ADMIN && tok.value.split("|").pop() !== ADMIN.split("|").pop()) throw new AuthFail("The provided deploy key was invalid for deployment 'double'.");
    return { kind: "admin", user: tok.acting_as ?? tok.impersonating };
  }
  let c; try { c = JSON.parse(Buffer.from(tok.value.split(".")[1], "base64url").toString()); } catch { throw new AuthFail("Could not parse JWT payload."); }
  if (!c.sub || !c.iss || !c.exp) throw new AuthFail("Missing sub, iss or exp");
  if (c.exp * 1000 < Date.now()) throw new AuthFail("Token expired");
  const { sub, iss, exp, iat, aud, ...rest } = c; // signature is NOT verified: tests only
  return { kind: "user", exp: exp * 1000, user: { subject: sub, issuer: iss, tokenIdentifier: `${iss}|${sub}`, ...rest } };
}
function headerToken(req, url) {
  const h = req.headers.authorization;
  if (h && /^convex /i.test(h)) { const [k, act] = h.slice(7).replace(/^[^|:]*:(?=[^|]*\|)/, "").split(":"); return { tokenType: "Admin", value: k, impersonating: act && JSON.parse(Buffer.from(act, "base64")) }; }
  if (h && /^bearer /i.test(h)) return { tokenType: "User", value: h.slice(7) };
  if (url.searchParams.get("adminKey")) return { tokenType: "Admin", value: url.searchParams.get("adminKey") };
  return { tokenType: "None" };
}

// ---- run a function --------------------------------------------------------
async function exec(kind, rawPath, args, who) {
  const p = canon(rawPath), [mod, name] = p.split(":");
  const fail = (m) => ({ ok: false, message: m });
  let fn; try { fn = (await modules[`/convex/${mod}.js`]())[name]; } catch { /* no such module */ }
  if (!fn || !(fn.isQuery || fn.isMutation || fn.isAction) || !(fn.isPublic || who.kind === "admin"))
    return fail(`Could not find public function for '${p.replace(/:default$/, "")}'. Did you forget to run \`npx convex dev\` or \`npx convex deploy\`?`);
  const is = fn.isQuery ? "query" : fn.isMutation ? "mutation" : "action";
  if (kind !== "any" && kind !== is) return fail(`Trying to execute ${mod}.js:${name} as ${kind === "query" ? "Query" : kind === "mutation" ? "Mutation" : "Action"}, but it is defined as ${is[0].toUpperCase() + is.slice(1)}.`);
  stats.executed[p] = (stats.executed[p] ?? 0) + 1;
  const logLines = [];
  try {
    const acc = who.user ? t.withIdentity(who.user) : t;
    const value = await acc.fun({ udfPath: p, componentPath: "" }, jsonToConvex(args));
    return { ok: true, kind: is, json: convexToJson(value === undefined ? null : value), value: value ?? null, logLines };
  } catch (e) {
    const id = Math.random().toString(16).slice(2, 18);
    const data = e && Symbol.for("ConvexError") in Object(e) ? convexToJson(e.data) : undefined;
    const message = `[Request ID: ${id}] Server Error\nUncaught ${data !== undefined ? "ConvexError: " + (typeof e.data === "string" ? e.data : JSON.stringify(data)) : e?.name + ": " + e?.message}\n    at handler (../convex/${mod}.ts:1:1)\n`;
    return { ok: false, kind: is, message, data, logLines };
 }
}

// ---- HTTP API --------------------------------------------------------------
const send = (res, status, body) => { res.writeHead(status, { "content-type": "application/json", "access-control-allow-origin": "*" }); res.end(JSON.stringify(body)); };
const httpErr = (res, status, code, message) => send(res, status, { code, message });
const readBody = (req) => new Promise((ok, no) => { const b = []; let n = 0; req.on("data", (c) => { n += c.length; if (n > (1 << 24) + 2000) { no(Object.assign(new Error("too large"), { status: 413 })); req.destroy(); } else b.push(c); }); req.on("end", () => ok(Buffer.concat(b).toString())); req.on("error", no); });
function udfResponse(r, format, dflt) {
  const enc = (format ?? dflt) === "convex_encoded_json" || format === "convex_json";
  const ll = r.logLines?.length ? { logLines: r.logLines } : {};
  if (r.ok) return { status: "success", value: enc ? r.json : clean(r.value), ...ll };
  return { status: "error", errorMessage: r.message, ...(r.data !== undefined ? { errorData: enc ? r.data : clean(jsonToConvex(r.data)) } : {}), ...ll };
}
const TLS = arg("tls-cert") && { cert: fs.readFileSync(arg("tls-cert")), key: fs.readFileSync(arg("tls-key")) };
const server = (TLS ? https : http).createServer(TLS || {}, async (req, res) => {
  const url = new URL(req.url, "http://x");
  try {
    if (req.method === "OPTIONS") { res.writeHead(204, { "access-control-allow-origin": "*", "access-control-allow-headers": "*" }); return res.end(); }
    if (url.pathname === "/version") return res.end("double-0.1");
    if (url.pathname === "/instance_name") return res.end("double");
    if (url.pathname.startsWith("/_double/")) return await control(url, req, res);
    const m = /^\/api\/(query|mutation|action|function|query_ts|query_at_ts|query_batch|run\/.+)$/.exec(url.pathname);
    if (!m || (req.method !== "POST" && !(m[1] === "query" && req.method === "GET"))) return httpErr(res, 404, "NotFound", "no such route");
    if (m[1] === "query_ts") return send(res, 200, { ts: u64(lastTs) });
    let body;
    if (req.method === "GET") body = { path: url.searchParams.get("path"), args: JSON.parse(url.searchParams.get("args") ?? "{}"), format: url.searchParams.get("format") };
    else { const raw = await readBody(req); try { body = JSON.parse(raw); } catch (e) { return httpErr(res, 400, "BadJsonBody", `Failed to parse the request body as JSON: ${e.message}`); } }
    if (outage && headerToken(req, url).tokenType !== "Admin") return req.socket.destroy();
    const f = takeFault("http", body.path);
    if (f?.do === "http") return httpErr(res, f.status ?? 503, f.code ?? "ServiceUnavailable", f.message ?? "double");
    if (f?.do === "drop-before") return req.socket.destroy();
    if (f?.do === "delay") await new Promise((r) => setTimeout(r, f.ms));
    let who; try { who = identityOf(headerToken(req, url)); } catch (e) { if (e instanceof AuthFail) return httpErr(res, 401, "Unauthenticated", e.message); throw e; }
    const one = async (kind, b, dflt) => udfResponse(await exec(kind, b.path, Array.isArray(b.args) ? (b.args[0] ?? {}) : (b.args ?? {}), who), b.format, dflt);
    let out;
    if (m[1] === "query_batch") { out = { results: [] }; for (const q of body.queries) out.results.push(await one("query", q)); }
    else if (m[1].startsWith("run/")) { const parts = m[1].slice(4).split("/").map(decodeURIComponent); const fn = parts.pop(); out = await one("any", { ...body, path: parts.join("/") + ":" + fn }); }
    else out = await one(m[1] === "function" ? "any" : m[1] === "query_at_ts" ? "query" : m[1], body);
    if (f?.do === "drop-after") return req.socket.destroy();
    send(res, 200, out);
  } catch (e) { httpErr(res, e.status ?? 500, "InternalServerError", String(e.message)); }
});

// ---- sync protocol ---------------------------------------------------------
const wss = new WebSocketServer({ noServer: true, maxPayload: 1 << 26 });
server.on("upgrade", (req, sock, head) => {
  if (!/^\/api\/([^/]+\/)?sync$/.test(new URL(req.url, "http://x").pathname)) return sock.destroy();
  if (outage) return sock.destroy();
  const f = takeFault("connect");
  if (f?.do === "http") { sock.end(`HTTP/1.1 ${f.status ?? 503} X\r\ncontent-length: 0\r\n\r\n`); return; }
  if (f) return sock.destroy();
  wss.handleUpgrade(req, sock, head, (ws) => new Conn(ws, req));
});
class Conn {
  queries = new Map(); pending = []; ver = { querySet: 0, identity: 0, ts: 0n }; recv = { querySet: 0, identity: 0 };
  who = { kind: "none" }; scheduled = false; updating = false; closed = false; muts = Promise.resolve(); nMut = 0; connected = false;
  constructor(ws, req) {
    this.ws = ws; this.id = ++stats.connections; conns.add(this);
    const cv = req.headers["convex-client"] ?? (/^\/api\/([0-9][^/]*)\/sync/.exec(req.url) ? "npm-" + RegExp.$1 : "unknown");
    this.client = cv; this.chunks = cv.startsWith("npm-");
    ws.on("message", (d, bin) => { if (bin) return; trace.push({ c: this.id, dir: "in", m: d.toString() }); this.on(d.toString()).catch((e) => this.fatal(e)); });
    ws.on("close", () => { this.closed = true; conns.delete(this); clearInterval(this.ping); clearInterval(this.wsping); });
    ws.on("error", () => {});
    this.ping = setInterval(() => this.send({ type: "Ping" }), PING_MS);
    this.wsping = setInterval(() => ws.ping(), 5000);
  }
  send(m) {
    if (this.closed) return; const s = JSON.stringify(m);
    trace.push({ c: this.id, dir: "out", m: s });
    if (m.type === "Transition" && this.chunks && s.length > CHUNK) {
      const parts = []; for (let i = 0; i < s.length; i += CHUNK) parts.push(s.slice(i, i + CHUNK));
      parts.forEach((chunk, partNumber) => this.ws.send(JSON.stringify({ type: "TransitionChunk", chunk, partNumber, totalParts: parts.length, transitionId: String(s.length) })));
    } else this.ws.send(s);
  }
  fatal(e) { if (e instanceof AuthFail) this.send({ type: "AuthError", error: e.message, baseVersion: this.ver.identity, authUpdateAttempted: !!e.update }); else this.send({ type: "FatalError", error: e.message }); this.ws.close(1008, String(e.message).slice(0, 120)); }
  drop() { this.ws.terminate(); }
  checkAuth() { if (this.who.exp && this.who.exp < Date.now()) throw new AuthFail("Token expired"); return this.who; }
  async on(text) {
    let m; try { m = JSON.parse(text); } catch (e) { throw new Error("Received Invalid JSON on websocket: " + e.message); }
    switch (m.type) {
      case "Connect":
        this.session = m.sessionId; if (m.clientTs != null) this.skew = m.clientTs - Date.now();
        if (m.maxObservedTimestamp && fromU64(m.maxObservedTimestamp) > lastTs) return this.ws.close(1011, "InternalServerError"); // linearizability check
        return;
      case "Authenticate":
        if (m.baseVersion !== this.recv.identity) throw new Error("identity version mismatch");
        try { this.who = identityOf(m); } catch (e) { e.update = true; throw e; }
        this.recv.identity++; return this.schedule();
      case "ModifyQuerySet":
        if (m.baseVersion !== this.recv.querySet) throw new Error(`Base version ${m.baseVersion} passed up doesn't match the current version ${this.recv.querySet}`);
        this.recv.querySet = m.newVersion; this.pending.push(...m.modifications); return this.schedule();
      case "Mutation": {
        if (++this.nMut > 1000) throw new Error("Too many concurrent mutations. Only up to 1000 pending mutations allowed on a single websocket.");
        const who = this.checkAuth();
        this.muts = this.muts.then(() => this.mutation(m, who)).catch((e) => this.fatal(e)).finally(() => this.nMut--); return;
      }
      case "Action": {
        const who = this.checkAuth(), f = takeFault("action", canon(m.udfPath));
        if (f?.do === "drop-before") return this.drop();
        const r = await exec("action", m.udfPath, m.args[0] ?? {}, who);
        if (f?.do === "drop-after") return this.drop();
        this.send({ type: "ActionResponse", requestId: m.requestId, success: r.ok, result: r.ok ? r.json : r.message, ...(r.data !== undefined ? { errorData: r.data } : {}), logLines: r.logLines ?? [] });
        return this.schedule();
      }
      case "Event": return;
      default: throw new Error(`unknown variant \`${m.type}\``);
    }
  }
  async mutation(m, who) {
    const key = this.session && `${this.session}/${m.requestId}`, f = takeFault("mutation", canon(m.udfPath));
    if (f?.do === "drop-before") return this.drop();
    if (f?.do === "delay") await new Promise((r) => setTimeout(r, f.ms));
    let r = key && sessionRequests.get(key);
    if (r) stats.deduped++;
    else {
      const x = await exec("mutation", m.udfPath, m.args[0] ?? {}, who);
      r = { type: "MutationResponse", requestId: m.requestId, success: x.ok, result: x.ok ? x.json : x.message, ts: x.ok ? u64(lastTs) : null, ...(x.data !== undefined ? { errorData: x.data } : {}), logLines: x.logLines ?? [] };
      if (key && x.ok) sessionRequests.set(key, r);
    }
    if (f?.do === "drop-after") return this.drop();           // committed, ack lost
    this.send(r); this.schedule();
  }
  schedule() { this.scheduled = true; if (!this.updating) { this.updating = true; setImmediate(() => this.update().catch((e) => this.fatal(e)).finally(() => { this.updating = false; if (this.scheduled && !this.closed) this.schedule(); })); } }
  async update() {
    this.scheduled = false;
    const who = this.checkAuth(), idv = this.recv.identity, qv = this.recv.querySet, mods = new Map(), ps = this.pending; this.pending = [];
    for (const p of ps) {
      if (p.type === "Add") { if (this.queries.has(p.queryId)) throw new Error("Duplicate query ID: " + p.queryId); this.queries.set(p.queryId, { ...p, hash: undefined }); }
      else { if (!this.queries.delete(p.queryId)) throw new Error("Nonexistent query id: " + p.queryId); mods.set(p.queryId, { type: "QueryRemoved", queryId: p.queryId }); }
    }
    const f = takeFault("query"); if (f?.do === "delay") await new Promise((r) => setTimeout(r, f.ms));
    const ts = lastTs; // convex-test serialises transactions; a commit during the loop re-schedules us
    for (const q of this.queries.values()) {
      const r = await exec("query", q.udfPath, q.args[0] ?? {}, who);
      const hash = JSON.stringify(r.ok ? [1, r.json] : [0, r.message.replace(/^\[Request ID: \w+\] /, ""), r.data]);
      if (hash === q.hash) continue; // real backend too sends nothing for an unchanged result
      q.hash = hash;
      mods.set(q.queryId, r.ok ? { type: "QueryUpdated", queryId: q.queryId, value: r.json, logLines: r.logLines, journal: null }
        : { type: "QueryFailed", queryId: q.queryId, errorMessage: r.message, logLines: r.logLines ?? [], journal: null, ...(r.data !== undefined ? { errorData: r.data } : {}) });
    }
    const end = { querySet: qv, identity: idv, ts }, v = (x) => ({ querySet: x.querySet, identity: x.identity, ts: u64(x.ts) });
    this.send({ type: "Transition", startVersion: v(this.ver), endVersion: v(end), modifications: [...mods.values()], clientClockSkew: this.skew ?? null, serverTs: Date.now() * 1e6 });
    this.ver = end;
  }
}
// ---- control (tests only) --------------------------------------------------
async function control(url, req, res) {
  const body = req.method === "POST" ? JSON.parse((await readBody(req)) || "{}") : {};
  switch (url.pathname.slice(9)) {
    case "fault": faults.push({ times: 1, ...body }); return send(res, 200, {});
    case "outage": outage = body.on; if (outage) for (const c of conns) c.drop(); return send(res, 200, {});
    case "heal": faults.length = 0; outage = false; return send(res, 200, {});
    case "drop": for (const c of conns) c.drop(); return send(res, 200, {});
    case "fatal": for (const c of conns) c.fatal(new Error(body.message ?? "double")); return send(res, 200, {});
    case "autherror": for (const c of conns) c.fatal(Object.assign(new AuthFail(body.message ?? "expired"), { update: body.update })); return send(res, 200, {});
    case "close": for (const c of conns) c.ws.close(body.code ?? 1011, body.reason ?? "InternalServerError"); return send(res, 200, {});
    case "stats": return send(res, 200, { ...stats, open: conns.size });
    case "trace": return send(res, 200, trace.splice(0));
    case "reset": await reset(); for (const c of conns) c.drop(); return send(res, 200, {});
    default: return httpErr(res, 404, "NotFound", url.pathname);
  }
}
await reset();
server.listen(Number(arg("port", 0)), "127.0.0.1", () => process.stdout.write(JSON.stringify({ url: `${TLS ? "https://localhost" : "http://127.0.0.1"}:${server.address().port}`, adminKey: ADMIN }) + "\n"));
