// Reads an event stream as the HTML standard says (section 9.2.6), from decoded text that may be split anywhere.
// The byte order mark is left to TextDecoder, and what a last event ID is for to the caller.

/** What a parser tells. */
export interface Blocks {
  /** A block ended. Without data it is no event, but its id counts. */
  event(name: string, data: string | undefined, lastEventId: string): void;
  /** A reconnection time, in milliseconds. */
  retry(milliseconds: number): void;
}

/**
 * Gives a function to be called with each piece of the text; what stands behind the last empty line is never an
 * event.
 */
export function parser(lastEventId: string, blocks: Blocks): (text: string) => void {
  const lineEnd = /\r\n|\r|\n/g;
  let line = "";
  let afterReturn = false;
  let name = "";
  let data: string[] = [];

  const field = (key: string, value: string): void => {
    if (key === "event") name = value;
    else if (key === "data") data.push(value);
    else if (key === "id" && !value.includes("\0")) lastEventId = value;
    else if (key === "retry" && /^\d+$/.test(value)) blocks.retry(+value);
  };

  const take = (whole: string): void => {
    if (!whole) {
      const lines = data;
      const named = name || "message";
      data = [];
      name = "";
      blocks.event(named, lines.length ? lines.join("\n") : undefined, lastEventId);
    } else {
      // A comment is a field without a name.
      const colon = whole.indexOf(":");
      if (colon < 0) field(whole, "");
      else field(whole.slice(0, colon), whole.slice(colon + (whole[colon + 1] === " " ? 2 : 1)));
    }
  };

  return (text) => {
    if (!text) return;
    // The LF of a CR LF that was split.
    let from = afterReturn && text[0] === "\n" ? 1 : 0;
    afterReturn = text.endsWith("\r");
    lineEnd.lastIndex = from;
    for (let end = lineEnd.exec(text); end; end = lineEnd.exec(text)) {
      // The state is set before anybody is told, who may end everything.
      const whole = line + text.slice(from, end.index);
      line = "";
      from = lineEnd.lastIndex;
      take(whole);
    }
    line += text.slice(from);
  };
}
