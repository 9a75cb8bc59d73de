// Events for one user or for everybody. Progress has a file of its own.
import { Progress } from "./progress.js";
import { isHeaderValue, isPrefix, isToken, leaf, quoted, userToken, type UserEncoding } from "./subject.js";
import { named, type JetStream, type PublishOptions, type Stored } from "./wire.js";

/** What may differ from the defaults. */
export interface PublisherOptions {
  /** What all subjects begin with: `events`. The sidecar's routes must begin with it too. */
  prefix?: string;
  /** What the sidecar's `identity.user_encoding` says: `refuse`. */
  userEncoding?: UserEncoding;
  /** The least time between two messages of a progress that runs, in milliseconds: 100. */
  progressInterval?: number;
  /**
   * How long the end of a progress is tried again until NATS acknowledges it, in milliseconds: 60 000. Must be less
   * than the stream's duplicate window (two minutes unless it says otherwise), or the end may be stored twice.
   */
  progressPatience?: number;
}

/** Publishes with the application's JetStream client. Throws a `RangeError` for what cannot be published. */
export class Publisher {
  readonly #jetstream: JetStream;
  readonly #prefix: string;
  readonly #encoding: UserEncoding;
  readonly #interval: number;
  readonly #patience: number;

  constructor(jetstream: JetStream, options: PublisherOptions = {}) {
    const { prefix = "events", userEncoding = "refuse", progressInterval = 100, progressPatience = 60_000 } = options;
    if (!isPrefix(prefix)) {
      throw new RangeError(
        `${quoted(prefix)} is not a subject prefix: plain tokens with dots between them, at most 128 bytes, ` +
          "`_` not first",
      );
    }
    if (userEncoding !== "refuse" && userEncoding !== "base64url") {
      throw new RangeError(`${quoted(userEncoding)} is not an encoding of user ids: refuse, base64url`);
    }
    this.#jetstream = jetstream;
    this.#prefix = prefix;
    this.#encoding = userEncoding;
    this.#interval = progressInterval;
    this.#patience = progressPatience;
  }

  /**
   * Publishes to one user, as JSON, and waits for the stream's acknowledgement. A second message with the same `id`
   * within the stream's duplicate window is not stored, whoever it is for.
   */
  async notify(user: string, event: string, data: unknown, options: { id?: string } = {}): Promise<Stored> {
    return await this.#publish(this.userSubject(user, event), event, data, options.id);
  }

  /** The same to everybody. */
  async broadcast(event: string, data: unknown, options: { id?: string } = {}): Promise<Stored> {
    return await this.#publish(this.broadcastSubject(event), event, data, options.id);
  }

  /** Begins a run of a task that the user watches. */
  progress(user: string, task: string): Progress {
    if (!isToken(task)) {
      throw new RangeError(`${quoted(task)} is not a task id: one plain subject token of at most 128 bytes`);
    }
    return new Progress({
      jetstream: this.#jetstream,
      subject: `${this.#prefix}.user.${userToken(this.#encoding, user)}.progress.${task}`,
      task,
      run: crypto.randomUUID(),
      interval: this.#interval,
      patience: this.#patience,
    });
  }

  /** The subject of an event for one user. */
  userSubject(user: string, event: string): string {
    return `${this.#prefix}.user.${userToken(this.#encoding, user)}.${leaf(event)}`;
  }

  /** The subject of an event for everybody. */
  broadcastSubject(event: string): string {
    return `${this.#prefix}.broadcast.${leaf(event)}`;
  }

  async #publish(subject: string, event: string, data: unknown, id: string | undefined): Promise<Stored> {
    const payload = JSON.stringify(data) as string | undefined;
    if (payload === undefined) throw new RangeError("the data cannot be written as JSON");
    const options: PublishOptions = { headers: named(event) };
    if (id !== undefined) {
      if (!isHeaderValue(id)) {
        throw new RangeError(
          `${quoted(id)} is not a message id: 1 to 256 bytes, no control characters, no white space at its ends`,
        );
      }
      options.msgID = id;
    }
    return await this.#jetstream.publish(subject, payload, options);
  }
}
