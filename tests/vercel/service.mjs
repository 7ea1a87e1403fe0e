// Where the vendor's clients find the service: the double named by the environment, or the real one.
//   VERCEL_FAKE_API, VERCEL_FAKE_ADMIN           the double's two addresses
//   VERCEL_TOKEN, VERCEL_TEAM_ID, VERCEL_PROJECT_ID   the real service, where the double is not given
// Loaded with `node --import`, it also turns every `fetch` of a program (the vendor's command line) to the double.
const api = process.env.VERCEL_FAKE_API;
export const real = api === undefined;
export const credentials = real
  ? { token: process.env.VERCEL_TOKEN, teamId: process.env.VERCEL_TEAM_ID, projectId: process.env.VERCEL_PROJECT_ID }
  : { token: "token", teamId: "team_test", projectId: "prj_test" };

const plain = globalThis.fetch;

/** The real address of a request: the API's, or that of a port which a sandbox has exposed. */
function target(url) {
  if (real) return url;
  const exposed = /^https:\/\/.*-(\d+)\.vercel\.run(.*)$/.exec(url);
  if (exposed) return `http://127.0.0.1:${exposed[1]}${exposed[2]}`;
  return url.replace(/^https:\/\/(vercel\.com\/api|api\.vercel\.com)/, api);
}

export const fetch = (input, init) => plain(target(String(input)), init);
if (!real) globalThis.fetch = fetch;

const admin = async (method, path, body) => {
  const response = await plain(process.env.VERCEL_FAKE_ADMIN + path, {
    method,
    headers: { "content-type": "application/json" },
    body: body === undefined ? undefined : JSON.stringify(body),
  });
  if (!response.ok) throw new Error(`${method} ${path}: ${response.status} ${await response.text()}`);
  return response.status === 204 ? undefined : response.json();
};

/** Orders faults of the double. */
export const order = (...faults) => admin("POST", "/faults", faults);
/** Takes them back. */
export const clear = () => admin("DELETE", "/faults");
/** Does to a sandbox what the platform may do. */
export const inflict = (name, what) => admin("POST", `/sandboxes/${name}/${what}`);
/** The requests of an operation since the last call. */
export async function asked(operation) {
  const requests = await admin("GET", "/requests");
  await admin("DELETE", "/requests");
  return requests.filter((request) => request.op === operation);
}
/** Waits until requests of all these operations came. */
export async function arrived(...operations) {
  for (let seen = []; !operations.every((one) => seen.includes(one)); await new Promise((done) => setTimeout(done, 20))) {
    seen = (await admin("GET", "/requests")).map((request) => request.op);
  }
}
