// What the head of an answer means: a stream, a refusal that will pass, or one for good.

import type { Outcome } from "./transport.js";

/** When to come back by a `Retry-After`, seconds or a date, in milliseconds from now. */
function retryAfter(value: string): number | undefined {
  const time = +value * 1000 || Date.parse(value) - Date.now();
  return time > 0 ? time : undefined;
}

/**
 * Judges a head. Nothing: this is a stream. The body of a refusal is read for its code, that of a stream is not
 * touched.
 */
export async function judge(response: Response): Promise<Outcome | undefined> {
  const { headers, status } = response;
  const after = retryAfter(headers.get("retry-after") ?? "");
  if (status === 200) {
    const contentType = headers.get("content-type") ?? "";
    if (!/^text\/event-stream\s*(;|$)/i.test(contentType)) {
      return { reason: { type: "content-type", contentType }, final: true };
    }
    const code = headers.get("sidestream-refused");
    return code === null ? undefined : { reason: { type: "refused", status, code }, after };
  }
  const body = (await response.json().catch(() => undefined)) as { error?: { code?: unknown } } | null | undefined;
  // Timeouts, overload and faults of servers and proxies pass; everything else stays as it is.
  const final = status < 500 && ![408, 425, 429].includes(status);
  return { reason: { type: "refused", status, code: String(body?.error?.code ?? "") }, final, after };
}
