// Asks the application to refresh the roll-ups of usage: way B of docs/how-to/usage-analytics.md.
//
//   supabase secrets set REFRESH_ENDPOINT_URL=https://app.example.org/api/mcp/analytics/refresh-views
//   supabase secrets set REFRESH_ENDPOINT_SECRET=...   # if the endpoint asks for a bearer token
//   supabase functions deploy refresh-mcp-views
//
// Whoever may call this function is Supabase's to check (verify_jwt is on by default). It lets
// OPTIONS through unchecked, so nothing but POST, and GET for crons that know no other, refreshes.

const PATIENCE = 140; // seconds: the platform gives up after 150

Deno.serve(async (request) => {
  if (!["POST", "GET"].includes(request.method)) {
    const why = `${request.method} refreshes nothing: use POST`;
    return failure(why, 405, { Allow: "POST, GET" });
  }
  try {
    const data = await refresh();
    return Response.json({ success: true, message: data.message, data });
  } catch (error) {
    const { message, cause } = error as Error;
    // The cause is for the log alone: it may name hosts that a caller need not know.
    console.error(`refresh-mcp-views: ${message}`, ...(cause ? [cause] : []));
    return failure(message, 500);
  }
});

function failure(error: string, status: number, headers: HeadersInit = {}) {
  return Response.json({ success: false, error }, { status, headers });
}

async function refresh() {
  const { status, ok, redirected, text } = await ask();
  // A redirect can make the POST a GET, and lose the secret.
  const moved = redirected ? " (after a redirect)" : "";
  let data;
  try {
    data = JSON.parse(text);
  } catch {
    throw new Error(`the endpoint answered ${status} and no JSON${moved}`);
  }
  // A status of 200 alone is no success: an answer may say that a view failed.
  if (!ok || data?.success !== true) {
    const why = data?.message ?? data?.detail ?? "it does not say why";
    const said = typeof why === "string" ? why : JSON.stringify(why);
    throw new Error(`the endpoint answered ${status}: ${said}${moved}`);
  }
  return data;
}

async function ask() {
  const url = Deno.env.get("REFRESH_ENDPOINT_URL");
  if (!url) throw new Error("REFRESH_ENDPOINT_URL is not set");
  if (!/^https?:\/\//.test(url)) {
    throw new Error("REFRESH_ENDPOINT_URL does not begin with https://");
  }
  const headers = authorization();
  const signal = AbortSignal.timeout(PATIENCE * 1000);
  try {
    const answer = await fetch(url, { method: "POST", headers, signal });
    const { status, ok, redirected } = answer;
    return { status, ok, redirected, text: await answer.text() };
  } catch (error) {
    const why = (error as Error).name === "TimeoutError"
      ? `the endpoint did not answer in ${PATIENCE} s; its refresh may go on`
      : "the endpoint cannot be reached";
    throw new Error(why, { cause: error });
  }
}

function authorization() {
  const secret = Deno.env.get("REFRESH_ENDPOINT_SECRET");
  try {
    return new Headers(secret ? { Authorization: `Bearer ${secret}` } : {});
  } catch { // what Deno says holds the secret
    throw new Error("REFRESH_ENDPOINT_SECRET cannot stand in a header");
  }
}
