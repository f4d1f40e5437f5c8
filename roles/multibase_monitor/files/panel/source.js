// SPDX-License-Identifier: GPL-3.0-or-later
// Where the data comes from: live.json again and again, histories when they are looked at.

const STALE_INTERVALS = 3;
const SLOWEST = 60000;

/** The address of a file beside the page, without a login that may stand in the page's own: browsers refuse those. */
const beside = (name) => new URL(name, location.origin + location.pathname).href;

export class Source {
  constructor(changed) {
    this.changed = changed;
    this.live = null;
    this.problem = "";
    this.failures = 0;
    this.skew = 0;
    this.histories = new Map();
    this.hosts = [];
    this.timer = 0;
    document.addEventListener("visibilitychange", () => { if (!document.hidden) this.poll(); });
  }

  /** The host's time in seconds: this machine's clock may be another. */
  now() { return Date.now() / 1000 + this.skew; }

  /** How old the data is in seconds, null when there is none. */
  age() { return this.live?.sampled_at ? this.now() - this.live.sampled_at : null; }

  stale() { const age = this.age(); return age !== null && age > STALE_INTERVALS * Math.max(this.live.interval, 1); }

  start() {
    this.poll();
    fetch(beside("hosts.json"), { cache: "no-store" }).then((answer) => (answer.ok ? answer.json() : [])).then((found) => { this.hosts = Array.isArray(found) ? found : []; }).catch(() => {});
  }

  async poll() {
    clearTimeout(this.timer);
    const started = Date.now();
    try {
      const answer = await fetch(beside("live.json"), { cache: "no-store" });
      if (answer.status === 401) throw new Error("The login has ended. Reload the page and log in again.");
      if (!answer.ok) throw new Error(answer.status === 404 ? "The host has written nothing yet." : `The host answers with status ${answer.status}.`);
      const date = Date.parse(answer.headers.get("Date") ?? "");
      const live = await answer.json();
      if (live.schema !== 1) throw new Error("The data is of another release; reload the page.");
      // The header knows whole seconds only: less than two are no difference.
      const skew = Number.isNaN(date) ? 0 : (date - (started + Date.now()) / 2) / 1000;
      this.skew = Math.abs(skew) < 2 ? 0 : skew;
      this.live = live;
      this.problem = "";
      this.failures = 0;
    } catch (error) {
      this.failures += 1;
      this.problem = error instanceof TypeError ? "The host cannot be reached." : error instanceof SyntaxError ? "The data could not be read." : error.message;
    }
    this.changed();
    const interval = (this.live?.interval ?? 5) * 1000;
    this.timer = setTimeout(() => this.poll(), Math.min(SLOWEST, interval * 2 ** Math.min(this.failures, 4)));
  }

  /** The history of an instance or of `_host`, asked for again after a minute; null until it is there. */
  history(name) {
    const known = this.histories.get(name);
    if (!known || Date.now() - known.at > 60000) {
      const entry = { at: Date.now(), document: known?.document ?? null };
      this.histories.set(name, entry);
      fetch(beside(`history/${encodeURIComponent(name)}.json`), { cache: "no-store" })
        .then((answer) => (answer.ok ? answer.json() : null))
        .then((document) => { if (document) { entry.document = document; this.changed(); } })
        .catch(() => {});
    }
    return this.histories.get(name).document;
  }
}
