// Several tabs in one program: channels that deliver when a test says so, and Web Locks. Both end with their tab.

/** All channels of an origin. Everybody hears messages in the order in which they reached the bus. */
export class Bus {
  #channels = new Set();
  #queue = [];
  #said = [];
  /** The name of the last channel. */
  name = "";
  /** Whose messages are on their way for longer than others'. */
  late = new Set();

  /** The class for one tab. */
  channel(tab) {
    const bus = this;
    return class {
      onmessage = null;

      constructor(name) {
        Object.assign(this, { name, tab, open: true });
        bus.name = name;
        bus.#channels.add(this);
      }

      postMessage(data) {
        if (!this.open) throw new DOMException("the channel is closed", "InvalidStateError");
        bus.#said.push(data);
        bus.#queue.push({ from: this, data: structuredClone(data) });
      }

      close() {
        this.open = false;
        bus.#channels.delete(this);
      }
    };
  }

  /** The last message of a type. */
  last(type) {
    return this.#said.findLast((data) => data.type === type);
  }

  /** A tab that is no more hears nothing; what it said may still be on its way. */
  kill(tab) {
    for (const channel of this.#channels) if (channel.tab === tab) channel.close();
  }

  /** Delivers what is on its way, but for what is late. */
  async deliver(settle) {
    for (;;) {
      const at = this.#queue.findIndex(({ from }) => !this.late.has(from.tab));
      if (at < 0) return settle();
      const [{ from, data }] = this.#queue.splice(at, 1);
      for (const channel of this.#channels) {
        if (channel !== from && channel.name === from.name) channel.onmessage?.({ data: structuredClone(data) });
      }
      await settle();
    }
  }
}

/** The locks of an origin, each with its queue. */
export class Locks {
  #locks = new Map();
  /** This page may hold none. */
  refused = false;

  /** What a tab has as `navigator.locks`. */
  manager(tab) {
    return {
      request: (name, ...args) =>
        new Promise((resolve, reject) => {
          const [options, run] = args.length > 1 ? args : [{}, ...args];
          if (this.refused) return reject(new DOMException("no locks here", "SecurityError"));
          const queue = this.#locks.get(name) ?? [];
          this.#locks.set(name, queue);
          const entry = { tab, run, resolve };
          options.signal?.addEventListener("abort", () => {
            const at = queue.indexOf(entry);
            // Neither one that holds it nor one that did.
            if (at < 1) return;
            queue.splice(at, 1);
            reject(options.signal.reason);
          });
          queue.push(entry);
          if (queue[0] === entry) void this.#grant(queue, entry);
        }),
    };
  }

  async #grant(queue, entry) {
    const value = await entry.run();
    if (queue[0] !== entry) return;
    queue.shift();
    entry.resolve(value);
    if (queue[0]) void this.#grant(queue, queue[0]);
  }

  /** All that a tab holds or waits for is free. */
  kill(tab) {
    for (const queue of this.#locks.values()) {
      const first = queue[0];
      queue.splice(0, queue.length, ...queue.filter((entry) => entry.tab !== tab));
      if (queue[0] && queue[0] !== first) void this.#grant(queue, queue[0]);
    }
  }

  /** How many hold one, or wait for one. */
  get wanted() {
    return [...this.#locks.values()].flat().length;
  }
}
