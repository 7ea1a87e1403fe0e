// app/api/operations/[id]/events/route.ts: the steps of a start as they happen, for `new EventSource("/api/operations/ID/events")`.
// A browser that was cut off resumes by itself: it sends the id of the last event that it got. The stream ends with the operation; close
// the EventSource on the event `operation` whose state is `succeeded`, `failed` or `cancelled`.

export const dynamic = "force-dynamic";

export async function GET(request: Request, { params }: { params: Promise<{ id: string }> }): Promise<Response> {
  const { id } = await params;
  const { SANDKEEP_SERVE_URL: base = "http://127.0.0.1:7879", SANDKEEP_SERVE_TOKEN: token } = process.env;
  const last = request.headers.get("last-event-id");
  const answer = await fetch(`${base}/v1/operations/${encodeURIComponent(id)}/events`, {
    headers: { authorization: `Bearer ${token}`, ...(last && { "last-event-id": last }) },
    signal: request.signal,
    cache: "no-store",
  });
  const type = answer.headers.get("content-type") ?? "application/problem+json";
  return new Response(answer.body, { status: answer.status, headers: { "content-type": type, "cache-control": "no-store" } });
}
