// The app's side, through the official JavaScript client: sends a prompt over HTTP, watches it over the socket until it is over.
//   CONVEX_URL=… node app.mjs SANDBOX SESSION TEXT   prints {"id","prompt","events"}
import { ConvexClient, ConvexHttpClient } from "convex/browser";
import { anyApi as api } from "convex/server";

const [sandboxId, session, text] = process.argv.slice(2);
const http = new ConvexHttpClient(process.env.CONVEX_URL);
const id = await http.mutation(api.ui.send, { sandboxId, session, text, clientKey: crypto.randomUUID() });
const socket = new ConvexClient(process.env.CONVEX_URL);
const watched = {};
await new Promise((resolve) => {
  const look = () => {
    const { prompt, events } = watched;
    const last = events?.length ? JSON.parse(events.at(-1)).seq : 0;
    if (prompt && !["pending", "claimed"].includes(prompt.status) && last === prompt.lastSeq) resolve();
  };
  socket.onUpdate(api.ui.prompt, { id }, (prompt) => look((watched.prompt = prompt)));
  socket.onUpdate(api.ui.stream, { id, from: 1, to: 1000 }, (events) => look((watched.events = events)));
});
console.log(JSON.stringify({ id, ...watched }));
await socket.close();
process.exit(0);
