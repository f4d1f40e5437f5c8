// A function to start from: edit it, or add a directory of your own beside it. Multibase writes this file once.
//   curl -H "apikey: $ANON_KEY" "$SUPABASE_PUBLIC_URL/functions/v1/hello?name=you"

Deno.serve((request: Request) => {
  const name = new URL(request.url).searchParams.get("name") ?? "Edge Functions";
  return Response.json({ message: `Hello from ${name}!` });
});
