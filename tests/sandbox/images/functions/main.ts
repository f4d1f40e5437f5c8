// SPDX-License-Identifier: GPL-3.0-or-later
// Stand-in for the Edge Runtime's main service. /<name>/... is answered by <functions directory>/<name>/index.ts, in
// this process: a handler given to Deno.serve, or a default export (a function, or an object with fetch).
// What it does not do: run the stack's own main service, check JWTs (VERIFY_JWT is ignored), isolate functions from
// each other, limit their memory or time, or load modules from the network.
type Handler = (request: Request) => Response | Promise<Response>;

const root = Deno.env.get("FUNCTIONS_DIR") ?? "/home/deno/functions";
const realServe = Deno.serve.bind(Deno);
let captured: Handler | undefined;

// A function calls Deno.serve(handler) or Deno.serve(options, handler): keep the handler, open no port.
// deno-lint-ignore no-explicit-any
(Deno as any).serve = (...args: any[]) => {
  captured = args.find((arg) => typeof arg === "function") ?? args[0]?.handler ?? args[0]?.fetch;
  return { finished: Promise.resolve(), shutdown: () => Promise.resolve(), ref: () => {}, unref: () => {}, addr: {} };
};

const loaded = new Map<string, { mtime: number; handler: Handler }>();
let loading: Promise<unknown> = Promise.resolve();

async function load(name: string): Promise<Handler> {
  const file = `${root}/${name}/index.ts`;
  const mtime = (await Deno.stat(file)).mtime?.getTime() ?? 0;
  const known = loaded.get(name);
  if (known && known.mtime === mtime) return known.handler;
  captured = undefined;
  // the query makes Deno load a changed file again
  const module = await import(`file://${file}?${mtime}`);
  const exported = module.default;
  const handler = typeof exported === "function" ? exported : exported?.fetch?.bind(exported) ?? captured;
  if (typeof handler !== "function") throw new Error("no handler: neither Deno.serve nor a default export");
  loaded.set(name, { mtime, handler });
  return handler;
}

function answer(status: number, msg: string): Response {
  return Response.json({ msg, standin: true }, { status });
}

for (const signal of ["SIGTERM", "SIGINT"] as const) Deno.addSignalListener(signal, () => Deno.exit(0));

realServe({
  port: 9000,
  hostname: "0.0.0.0",
  onListen: (addr) => console.log(JSON.stringify({ msg: "listening", standin: "edge-runtime", port: addr.port })),
}, async (request) => {
  const name = new URL(request.url).pathname.split("/")[1] ?? "";
  if (name === "") return answer(400, "missing function name in request");
  if (!/^[A-Za-z0-9_-]+$/.test(name) || name === "main") return answer(404, "no such function");
  try {
    // one at a time: `captured` belongs to the function being loaded
    const turn = loading.then(() => load(name));
    loading = turn.catch(() => {});
    return await (await turn)(request);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return answer(404, "no such function");
    console.error(error);
    return answer(500, String(error));
  }
});
