// What may stand in a subject or a header: the sidecar's own rules, so that an event lands where its user listens.
// What is no text at all, as JavaScript may bring it, is none of it either.

/** The sidecar's `identity.user_encoding`. */
export type UserEncoding = "refuse" | "base64url";

/** Longest token that stands for a variable, in bytes; also the longest prefix. */
const TOKEN_BYTES_MAX = 128;
/** Longest event name or message id, in bytes. */
const HEADER_BYTES_MAX = 256;

/** One plain token: visible ASCII, no dot, no wildcard, no `$` first. */
export function isToken(text: string): boolean {
  return isVisible(text) && text.length <= TOKEN_BYTES_MAX && !text.startsWith("$") && !/[.*>]/.test(text);
}

/** Plain tokens with dots between them. What begins with `_` belongs to NATS and its clients. */
export function isPrefix(text: string): boolean {
  const fits = typeof text === "string" && text.length <= TOKEN_BYTES_MAX;
  return fits && !text.startsWith("_") && text.split(".").every(isToken);
}

/** What may be the value of a header and comes out of it as it went in. */
export function isHeaderValue(text: string): boolean {
  if (typeof text !== "string") return false;
  const bytes = new TextEncoder().encode(text).length;
  const fits = bytes > 0 && bytes <= HEADER_BYTES_MAX;
  // A lone surrogate has no bytes of its own: it would arrive as another character.
  return fits && !/\p{Cc}|\p{Cs}|^\p{White_Space}|\p{White_Space}$/u.test(text);
}

/** The last token of an event's subject: its name where that is a token, as the sidecar's own `notify` does it. */
export function leaf(event: string): string {
  if (!isHeaderValue(event) || event.startsWith("sidestream.")) {
    throw new RangeError(
      `${quoted(event)} is not an event name: 1 to 256 bytes, no control characters, no white space at its ends, ` +
        "not `sidestream.`",
    );
  }
  return isToken(event) ? event : "message";
}

/** The token by which a user is reached. */
export function userToken(encoding: UserEncoding, user: string): string {
  const token = encoding === "refuse" || !needsEncoding(user) ? user : isVisible(user) ? encode(user) : "";
  if (!isToken(token)) {
    throw new RangeError(
      `${quoted(user)} is not a user id: one plain subject token, or visible ASCII where ids are encoded; ` +
        "128 bytes at most",
    );
  }
  return token;
}

/** A value as it may stand in an error: only text has quotes. */
export function quoted(value: unknown): string {
  const text = String(value).slice(0, HEADER_BYTES_MAX);
  return typeof value === "string" ? JSON.stringify(text) : text;
}

// A plain id that could be taken for an encoded one is encoded too. Each decoding is a quarter shorter, so this ends.
function needsEncoding(user: string): boolean {
  if (!isToken(user)) return true;
  const inner = decode(user);
  return inner !== undefined && isVisible(inner) && needsEncoding(inner);
}

function isVisible(text: string): boolean {
  return typeof text === "string" && /^[!-~]+$/.test(text);
}

function encode(text: string): string {
  return btoa(text).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}

// Exactly what `encode` makes: `atob` alone takes more.
function decode(text: string): string | undefined {
  if (!/^[\w-]+$/.test(text) || text.length % 4 === 1) return undefined;
  const inner = atob(text.replaceAll("-", "+").replaceAll("_", "/"));
  return encode(inner) === text ? inner : undefined;
}
