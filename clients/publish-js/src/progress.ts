// How far a task is, told to one user: the latest state is published in the background, at most once per interval, and
// the end once and last.
import { quoted } from "./subject.js";
import { isOver, named, type JetStream, type Stored } from "./wire.js";

/** The longest wait for one acknowledgement, in milliseconds. */
const ACK_WAIT = 2000;
/** Between two attempts to publish the end, in milliseconds. */
const RETRY_PAUSE = 250;
/** Longest message, in characters; what follows is cut off. */
const MESSAGE_CHARS_MAX = 1000;

/** Where and how a run is published. */
export interface Wire {
  jetstream: JetStream;
  subject: string;
  task: string;
  run: string;
  /** Milliseconds. */
  interval: number;
  /** Milliseconds. */
  patience: number;
}

/**
 * One run of a task. Updates never wait, and nothing that NATS does makes them fail; only the end is waited for. The
 * first end counts: everything after it changes nothing. A run that is dropped without an end stays as it is; `within`
 * takes care of that. One whose connection was closed for good publishes no more, and its end fails at once.
 */
export class Progress {
  readonly #wire: Wire;
  readonly #outcome: Promise<Stored>;
  #state: "running" | "completed" | "failed" = "running";
  #percent = 0;
  #message = "";
  /** The sequence of the subject's last message, as far as is known; 0: there is none, as of a task never run. */
  #last = 0;
  /** Nothing more can be published; the outcome says why. */
  #lost = false;
  /** Something is to be published. */
  #fresh = false;
  #wake: () => void = () => {};
  /** Ends the rest between two updates. */
  #end: () => void = () => {};

  /** @internal Made by `Publisher.progress`. */
  constructor(wire: Wire) {
    this.#wire = wire;
    this.#outcome = this.#work();
    // Who waits for the end is told of its failure; that nobody does must not end the process.
    this.#outcome.catch(() => {});
  }

  /**
   * Says how far the task is. The percentage never goes down: a lower one, or NaN, leaves it as it is; fractions are
   * cut off. An empty message keeps the last one. `false` after the end, which it does not change, and when nothing
   * can be published any more. Throws a `TypeError` for arguments of other types.
   */
  update(percent: number, message = ""): boolean {
    if (typeof percent !== "number") throw new TypeError(`percent must be a number: ${quoted(percent)}`);
    if (typeof message !== "string") throw new TypeError(`message must be a string: ${quoted(message)}`);
    return this.#change(() => {
      if (percent > this.#percent) this.#percent = Math.floor(Math.min(percent, 100));
      if (message !== "") this.#message = cut(message);
    });
  }

  /** Ends the run at 100 percent and waits until the stream has it. After another end, waits for that one. */
  async complete(): Promise<Stored> {
    if (this.#change(() => ((this.#state = "completed"), (this.#percent = 100)))) this.#end();
    return await this.#outcome;
  }

  /** Ends the run where it is, says why, and waits until the stream has it. After another end, waits for that one. */
  async fail(why: unknown): Promise<Stored> {
    const message = why instanceof Error ? why.message || why.name : String(why);
    if (this.#change(() => ((this.#state = "failed"), (this.#message = cut(message))))) this.#end();
    return await this.#outcome;
  }

  /**
   * Runs the work of the task: completed when it returns, failed with the error's message when it throws. The work's
   * own error comes first, one of publishing only after work that succeeded.
   */
  async within<T>(work: (progress: this) => T | Promise<T>): Promise<T> {
    let done: T;
    try {
      done = await work(this);
    } catch (error) {
      await this.fail(error).catch(() => {});
      throw error;
    }
    await this.complete();
    return done;
  }

  /** Changes the state unless the run has ended, or nobody would be told. */
  #change(change: () => void): boolean {
    if (this.#state !== "running" || this.#lost) return false;
    change();
    this.#fresh = true;
    this.#wake();
    return true;
  }

  async #work(): Promise<Stored> {
    for (;;) {
      this.#fresh = false;
      if (this.#state !== "running") return await this.#publishEnd(this.#payload());
      const sent = await this.#publishRunning(this.#payload());
      // The end does not wait for the interval.
      await this.#rest();
      // What was not acknowledged is sent again.
      if (sent && !this.#fresh) await new Promise<void>((resolve) => (this.#wake = resolve));
    }
  }

  async #rest(): Promise<void> {
    if (this.#state !== "running") return;
    let timer: ReturnType<typeof setTimeout> | undefined;
    // Nothing that outlives the rest is waited for: that would keep a reaction of every one until the end. It does not
    // keep Node alive: the connection does, as long as there is something to be told over it.
    await new Promise<void>((resolve) => {
      timer = setTimeout(resolve, this.#wire.interval).unref();
      this.#end = resolve;
    });
    clearTimeout(timer);
  }

  /**
   * One that waited on the way, on a connection that broke, must not be stored behind the end: it is refused where the
   * subject's last message is no longer the one before it. A refusal says which one that is now: that of an earlier
   * run, or one of ours that was never acknowledged. Gives whether the stream has it. Throws where it never will.
   */
  async #publishRunning(payload: string): Promise<boolean> {
    for (let attempt = 0; attempt < 2; attempt++) {
      const expect = { lastSubjectSequence: this.#last };
      const options = { headers: named("progress"), timeout: ACK_WAIT, expect };
      try {
        this.#last = (await this.#wire.jetstream.publish(this.#wire.subject, payload, options)).seq;
        return true;
      } catch (error) {
        if (isOver(error)) {
          this.#lost = true;
          throw error;
        }
        const now = lastOf(error);
        if (now === undefined) return false;
        this.#last = now;
      }
    }
    return false;
  }

  /** Tried again with the same id until it is acknowledged, so that it is stored once. */
  async #publishEnd(payload: string): Promise<Stored> {
    const { jetstream, subject, run, patience } = this.#wire;
    const started = performance.now();
    for (;;) {
      try {
        const options = { headers: named("progress"), timeout: ACK_WAIT, msgID: `${run}.end` };
        return await jetstream.publish(subject, payload, options);
      } catch (error) {
        if (isOver(error) || performance.now() - started >= patience) throw error;
        await new Promise((resolve) => setTimeout(resolve, RETRY_PAUSE));
      }
    }
  }

  // The order of fields is that of the other libraries.
  #payload(): string {
    const { task, run } = this.#wire;
    return JSON.stringify({
      task,
      run,
      state: this.#state,
      percent: this.#percent,
      message: this.#message,
      updated: Date.now(),
    });
  }
}

/** The sequence of the subject's last message, where a refusal tells it; the server has it in its text alone. */
function lastOf(refused: unknown): number | undefined {
  const told = refused instanceof Error ? /^wrong last sequence: (\d+)$/.exec(refused.message) : null;
  return told ? Number(told[1]) : undefined;
}

function cut(message: string): string {
  return Array.from(message.slice(0, 2 * MESSAGE_CHARS_MAX)).slice(0, MESSAGE_CHARS_MAX).join("");
}
