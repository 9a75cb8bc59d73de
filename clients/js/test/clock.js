// Time that passes when a test says so: timers and both clocks.

/** Stands in for the timers and clocks of `globalThis`, until `restore` is called. */
export class Clock {
  #now = 0;
  #timers = new Map();
  #next = 1;
  #before = { setTimeout, clearTimeout, now: Date.now, performance: performance.now };

  constructor() {
    globalThis.setTimeout = (run, wait) => {
      if (!(wait >= 0 && wait < 2 ** 31)) throw new RangeError(`no timer waits ${wait} ms`);
      this.#timers.set(this.#next, { run, at: this.#now + wait });
      return this.#next++;
    };
    globalThis.clearTimeout = (timer) => void this.#timers.delete(timer);
    Date.now = () => this.#now;
    performance.now = () => this.#now;
  }

  restore() {
    const { setTimeout, clearTimeout, now, performance: mark } = this.#before;
    Object.assign(globalThis, { setTimeout, clearTimeout });
    Date.now = now;
    performance.now = mark;
  }

  /** How many timers wait. */
  get timers() {
    return this.#timers.size;
  }

  /** Lets time pass, each timer at its time; `between` runs after each. */
  async pass(milliseconds, between) {
    const end = this.#now + milliseconds;
    for (;;) {
      const [next] = [...this.#timers].filter(([, { at }]) => at <= end).sort(([, a], [, b]) => a.at - b.at);
      if (!next) break;
      const [id, { run, at }] = next;
      this.#timers.delete(id);
      this.#now = at;
      run();
      await between();
    }
    this.#now = end;
    await between();
  }
}
