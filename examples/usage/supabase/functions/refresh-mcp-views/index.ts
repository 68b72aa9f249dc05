// Asks the application to refresh the roll-ups of usage: way B of docs/how-to/usage-analytics.md.
//
//   supabase secrets set REFRESH_ENDPOINT_URL=https://app.example.org/api/mcp/analytics/refresh-views
//   supabase secrets set REFRESH_ENDPOINT_SECRET=...   # if the endpoint asks for a bearer token
//   supabase functions deploy refresh-mcp-views
//
// Whoever may call this function is Supabase's to check (verify_jwt is on by default).

Deno.serve(async () => {
  try {
    const url = Deno.env.get("REFRESH_ENDPOINT_URL");
    const secret = Deno.env.get("REFRESH_ENDPOINT_SECRET");
    if (!url) throw new Error("REFRESH_ENDPOINT_URL is not set");

    const answer = await fetch(url, {
      method: "POST",
      headers: secret ? { Authorization: `Bearer ${secret}` } : {},
      signal: AbortSignal.timeout(140_000), // before the platform gives up, which is after 150 s
    });
    const text = await answer.text();
    let data = null;
    try {
      data = JSON.parse(text);
    } catch {
      throw new Error(`the endpoint answered ${answer.status} and no JSON`);
    }
    // A status of 200 alone is no success: an answer may say that a view failed.
    if (!answer.ok || data?.success !== true) {
      const why = data?.message ?? data?.detail ?? "it does not say why";
      throw new Error(`the endpoint answered ${answer.status}: ${why}`);
    }
    return Response.json({ success: true, message: data.message, data });
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    console.error(`refresh-mcp-views: ${why}`);
    return Response.json({ success: false, error: why }, { status: 500 });
  }
});
