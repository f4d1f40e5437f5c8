// SPDX-License-Identifier: GPL-3.0-or-later
// The main service of the Edge Runtime: /<name>/... runs the function in /home/deno/functions/<name>, after its token was
// checked where VERIFY_JWT is "true". It imports nothing, so that functions start on a host without Internet access.

const FUNCTIONS = "/home/deno/functions";
const FUNCTION_NAME = /^[A-Za-z0-9][A-Za-z0-9_-]*$/;

const MEMORY_LIMIT_MB = 150;
// Above the idle timeout of the command line (150 s) and below the gateway's limit for a request (410 s).
const WORKER_TIMEOUT_MS = 400_000;

const VERIFY_JWT = Deno.env.get("VERIFY_JWT") === "true";

// What the runtime adds to Deno, as far as it is used here.
interface UserWorker {
  fetch(request: Request): Promise<Response>;
}
declare const EdgeRuntime: {
  userWorkers: { create(options: Record<string, unknown>): Promise<UserWorker> };
  applySupabaseTag?(from: Request, to: Request): void;
};

type Jwk = JsonWebKey & { kid?: string };

class Refusal extends Error {
  constructor(readonly status: number, readonly code: string, message: string) {
    super(message);
  }

  response(): Response {
    return Response.json(
      { code: this.code, message: this.message, msg: this.message },
      {
        status: this.status,
        headers: { "sb-error-code": this.code, "Access-Control-Expose-Headers": "sb-error-code" },
      },
    );
  }
}

const malformed = () => new Refusal(401, "UNAUTHORIZED_INVALID_JWT_FORMAT", "Invalid JWT format");

// The bytes of a base64url text; refuses any other text.
function decode(text: string): Uint8Array<ArrayBuffer> {
  if (!/^[A-Za-z0-9_-]*$/.test(text)) throw malformed();
  try {
    return Uint8Array.from(atob(text.replaceAll("-", "+").replaceAll("_", "/")), (char) => char.charCodeAt(0));
  } catch {
    throw malformed();
  }
}

function decodeObject(text: string): Record<string, unknown> {
  const bytes = decode(text);
  let value: unknown;
  try {
    value = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch {
    throw malformed();
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) throw malformed();
  return value as Record<string, unknown>;
}

// HS256 tokens are signed with the bytes of JWT_SECRET as they stand, not with what they would decode to.
async function loadSecret(): Promise<CryptoKey | undefined> {
  const secret = new TextEncoder().encode(Deno.env.get("JWT_SECRET") ?? "");
  if (secret.length === 0) return undefined;
  return await crypto.subtle.importKey("raw", secret, { name: "HMAC", hash: "SHA-256" }, false, ["verify"]);
}

// The public keys of SUPABASE_JWKS; symmetric ones in it are not for this use.
function loadJwks(): Jwk[] {
  try {
    const keys = JSON.parse(Deno.env.get("SUPABASE_JWKS") ?? "{}").keys;
    return Array.isArray(keys) ? keys.filter((key) => key?.kty === "EC" || key?.kty === "RSA") : [];
  } catch {
    console.error("SUPABASE_JWKS is not JSON: tokens with an asymmetric signature are refused");
    return [];
  }
}

const SECRET = loadSecret();
const JWKS = loadJwks();

const ALGORITHMS = {
  ES256: {
    fits: (key: Jwk) => key.kty === "EC" && key.crv === "P-256",
    importAs: { name: "ECDSA", namedCurve: "P-256" },
    verifyAs: { name: "ECDSA", hash: "SHA-256" },
  },
  RS256: {
    fits: (key: Jwk) => key.kty === "RSA",
    importAs: { name: "RSASSA-PKCS1-v1_5", hash: "SHA-256" },
    verifyAs: { name: "RSASSA-PKCS1-v1_5" },
  },
} as const;

const imported = new Map<Jwk, Promise<CryptoKey>>();

function importPublic(jwk: Jwk, algorithm: keyof typeof ALGORITHMS): Promise<CryptoKey> {
  let key = imported.get(jwk);
  if (key === undefined) {
    const { kty, crv, x, y, n, e } = jwk;
    key = crypto.subtle.importKey("jwk", { kty, crv, x, y, n, e }, ALGORITHMS[algorithm].importAs, false, ["verify"]);
    imported.set(jwk, key);
  }
  return key;
}

async function signed(
  algorithm: string,
  kid: unknown,
  signature: Uint8Array<ArrayBuffer>,
  content: Uint8Array<ArrayBuffer>,
): Promise<boolean> {
  if (algorithm === "HS256") {
    const secret = await SECRET;
    return secret !== undefined && await crypto.subtle.verify("HMAC", secret, signature, content);
  }
  const { fits, verifyAs } = ALGORITHMS[algorithm as keyof typeof ALGORITHMS];
  for (const jwk of JWKS) {
    if (!fits(jwk) || (kid !== undefined && jwk.kid !== undefined && jwk.kid !== kid)) continue;
    const key = await importPublic(jwk, algorithm as keyof typeof ALGORITHMS);
    if (await crypto.subtle.verify(verifyAs, key, signature, content)) return true;
  }
  return false;
}

// Throws a Refusal unless the token is signed by this instance and valid now.
async function verifyToken(token: string): Promise<void> {
  const parts = token.split(".");
  if (parts.length !== 3) throw malformed();
  const { alg, kid } = decodeObject(parts[0]);
  if (typeof alg !== "string" || !(alg === "HS256" || Object.hasOwn(ALGORITHMS, alg))) {
    throw new Refusal(401, "UNAUTHORIZED_UNSUPPORTED_TOKEN_ALGORITHM", "Unsupported JWT algorithm");
  }
  const invalid = new Refusal(
    401,
    alg === "HS256" ? "UNAUTHORIZED_LEGACY_JWT" : "UNAUTHORIZED_ASYMMETRIC_JWT",
    "Invalid JWT",
  );

  const content = new TextEncoder().encode(`${parts[0]}.${parts[1]}`);
  if (!await signed(alg, kid, decode(parts[2]), content)) throw invalid;

  const { exp, nbf } = decodeObject(parts[1]);
  const now = Math.floor(Date.now() / 1000);
  if (exp !== undefined && !(typeof exp === "number" && now < exp)) throw invalid;
  if (nbf !== undefined && !(typeof nbf === "number" && nbf <= now)) throw invalid;
}

// The caller's token. A client with an opaque key (sb_...) sends no JWT: the gateway puts the JWT that stands for the key
// into sb-api-key, and drops whatever a client had put there.
function findToken(headers: Headers): string {
  const authorization = headers.get("authorization");
  const translated = headers.get("sb-api-key");
  if (translated && (!authorization || /^Bearer sb_/i.test(authorization))) return translated;
  if (!authorization) throw new Refusal(401, "UNAUTHORIZED_NO_AUTH_HEADER", "Missing authorization header");
  const match = /^Bearer ([^ ]+)$/i.exec(authorization);
  if (match === null) throw malformed();
  return match[1];
}

async function findFunction(request: Request): Promise<string> {
  const name = new URL(request.url).pathname.split("/")[1];
  if (name === "") throw new Refusal(400, "BAD_REQUEST", "missing function name in request");
  const missing = new Refusal(404, "NOT_FOUND", "Requested function was not found");
  if (!FUNCTION_NAME.test(name) || name === "main") throw missing;
  try {
    if (!(await Deno.stat(`${FUNCTIONS}/${name}`)).isDirectory) throw missing;
  } catch (error) {
    throw error instanceof Deno.errors.NotFound ? missing : error;
  }
  return name;
}

async function run(name: string, request: Request): Promise<Response> {
  const worker = await EdgeRuntime.userWorkers.create({
    servicePath: `${FUNCTIONS}/${name}`,
    memoryLimitMb: MEMORY_LIMIT_MB,
    workerTimeoutMs: WORKER_TIMEOUT_MS,
    noModuleCache: false,
    importMapPath: null,
    envVars: Object.entries(Deno.env.toObject()),
  });
  const headers = new Headers(request.headers);
  headers.delete("sb-api-key");
  const forwarded = new Request(request, { headers });
  // Ties the copy to the client's connection, which streams and WebSockets need.
  EdgeRuntime.applySupabaseTag?.(request, forwarded);
  return await worker.fetch(forwarded);
}

// Errors of the runtime by the name of their class: plain Deno does not have these classes.
function explain(error: unknown): Refusal {
  switch (error instanceof Error ? error.constructor.name : "") {
    case "InvalidWorkerCreation":
      return new Refusal(503, "BOOT_ERROR", "Function failed to start (please check logs)");
    case "WorkerRequestCancelled":
      return new Refusal(546, "WORKER_RESOURCE_LIMIT", "Function ran out of its resources (please check logs)");
    case "WorkerRequestIdleTimeout":
      return new Refusal(504, "IDLE_TIMEOUT", "Request idle timeout limit reached");
    default:
      return new Refusal(500, "EDGE_FUNCTION_ERROR", "Internal Server Error");
  }
}

Deno.serve(async (request: Request) => {
  try {
    if (VERIFY_JWT && request.method !== "OPTIONS") await verifyToken(findToken(request.headers));
    return await run(await findFunction(request), request);
  } catch (error) {
    if (error instanceof Refusal) return error.response();
    console.error(error);
    return explain(error).response();
  }
});
