// The same programs (jobs with all options, flows, operators' actions) for BullMQ's own worker and for a host's, and what differs. Programs
// are drawn from a seed; one that differs is made smaller until nothing can be left out. Prints JSON lines: {program, differences, smallest}
// and at last {programs, jobs, differing}. Arguments: PACKAGE. Environment: REDIS_URL, PREFIX (the host's), HOST_URL, HOST_USER,
// HOST_PASSWORD, SEED, PROGRAMS, LANES; ONLY=n runs one program; SCHEDULERS=0 leaves job schedulers out.
//
// What differs on purpose is named in ON_PURPOSE and in docs/operations/features.md, under the same words.
import { isDeepStrictEqual } from "node:util";
import IORedis from "ioredis";

const bullmq = await import(process.argv[2] ?? "bullmq");
const { FlowProducer, Queue, UnrecoverableError, Worker } = bullmq;
const connection = new IORedis(process.env.REDIS_URL, { maxRetriesPerRequest: null });
const OURS = process.env.PREFIX;
const THEIRS = `${OURS}-node`;
const LANES = Number(process.env.LANES ?? 8);
const PROGRAMS = Number(process.env.PROGRAMS ?? 100);
const SEED = BigInt(process.env.SEED ?? 1);
/** Jobs that are due later than this stay where they are. */
const LONG_MS = 3_600_000;
const QUIET_LIMIT_MS = 30_000;
const MOST_SHRINKING = 60;

const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

// ---- What differs on purpose.

const ON_PURPOSE = {
  "failure texts": (text) => text
    ?.replace(/^failed-by-flow: /, "")
    .replace(/^pending-children: .*$/s, "has pending dependencies")
    .replace(/^Job .* has pending dependencies\. moveToFinished$/s, "has pending dependencies")
    .replace(/^failed-children: .*$/s, "has a failed child")
    .replace(/^Cannot complete job .* because it has at least one failed child\. moveToFinished$/s, "has a failed child"),
  "stack traces": (count) => Math.min(count, 10),
  "levels of log lines": (line) => line.replace(/^INFO /, ""),
  // No string of Rust holds half a pair.
  "halves of surrogate pairs": (value) => {
    if (typeof value === "string") return value.toWellFormed();
    if (Array.isArray(value)) return value.map(ON_PURPOSE["halves of surrogate pairs"]);
    if (value === null || typeof value !== "object") return value;
    return Object.fromEntries(Object.entries(value).map(([name, member]) => [name.toWellFormed(), ON_PURPOSE["halves of surrogate pairs"](member)]));
  },
};

// ---- Programs.

/** Mulberry32: the same numbers for the same seed everywhere. */
function lot(seed) {
  let state = Number(BigInt.asUintN(32, seed ^ (seed >> 32n)));
  const random = () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
  const below = (n) => Math.floor(random() * n);
  const one = (items) => items[below(items.length)];
  return { random, below, one, chance: (p) => random() < p };
}

const deep = (levels) => { let value = "bottom"; for (let i = 0; i < levels; i++) value = i % 2 ? [value] : { a: value }; return value; };

function anyValue(l) {
  return l.one([
    () => null, () => l.random(), () => l.random() * 1e-9, () => -l.below(1e9), () => 9007199254740991, () => 1e300, () => true, () => "",
    () => "żółć \u{1F600} \"'\\\n\u0000", () => "half \ud800 pair", () => ["\udc00", { "\ud83d": 1 }], () => [], () => ({}),
    () => ({ n: l.random(), z: [l.random(), { y: null, x: false }] }), () => deep(130), () => "x".repeat(l.below(3_000)),
  ])();
}

// What stops BullMQ's own script half-way is not drawn.
function options(l, job, timed) {
  const opts = {};
  const maybe = (p, name, values) => { if (l.chance(p)) opts[name] = l.one(values); };
  maybe(0.6, "attempts", [1, 2, 3, 4, 0, -1, 2.5, "3", 1e10, null]);
  maybe(0.4, "backoff", !timed ? [0, -1, "soon", false, null, { type: "fixed" }, { type: "exponential" }, { type: "custom" }, { type: "fixed", delay: -1 }] : [
    1, 20, -7, 0.5, "15", { type: "fixed", delay: 10 }, { type: "fixed" }, { type: "fixed", delay: "12" },
    { type: "fixed", delay: 9, jitter: 0.5 }, { type: "exponential", delay: 8 }, { type: "exponential", delay: 20, jitter: 0.9 },
    { type: "exponential" }, { type: "custom" }, { type: "custom", delay: 7 }, { delay: 6 }, { type: "fixed", delay: 2 * LONG_MS },
    { type: "exponential", delay: 48 * LONG_MS },
  ]);
  maybe(0.2, "delay", timed ? [5, 30, 1.5, 2 * LONG_MS] : [0, -5, "7", null, 2 * LONG_MS]);
  maybe(0.2, "priority", [0, 1, 2, 5, 2097151, null]);
  maybe(0.2, "lifo", [true, false, "yes", 1, null]);
  const anyTime = [true, false, 0, -1, { count: 0 }, { age: 3600 }, { age: 3600.5 }, {}, [], "5", ""];
  const trimming = [1, 2, { count: 1 }, { age: 0 }, { age: 0.0001 }, { age: 1e9, count: 2 }, { count: 3, age: 1000, limit: 1 }, { age: -5 }];
  for (const name of ["removeOnComplete", "removeOnFail"]) maybe(0.25, name, timed ? anyTime : [...anyTime, ...trimming]);
  // Long ago, a delay is over while others are still added.
  if (!(opts.delay > 0)) maybe(0.15, "timestamp", [1732845678123, 1732845678123.5, 1e12, 0, 17.25]);
  maybe(0.15, "keepLogs", [0, 1, 2, 10]);
  maybe(0.15, "stackTraceLimit", [0, 1, 2, 5]);
  maybe(0.05, "sizeLimit", [10, 1e6]);
  maybe(0.1, "deduplication", [{ id: "one" }, { id: "one", ttl: 60_000 }, { id: "two", ttl: 60_000, extend: true, replace: true },
    { id: "three", keepLastIfActive: true }]);
  if (job.id) opts.jobId = job.id;
  if (opts.attempts === 1e10) job.data.ends?.push("ok");
  return opts;
}

const failureOptions = [null, "failParentOnFailure", "ignoreDependencyOnFailure", "removeDependencyOnFailure", "continueParentOnFailure"];

function data(l) {
  const data = { value: anyValue(l) };
  if (l.chance(0.5)) data.ends = Array.from({ length: 1 + l.below(4) }, () => l.one(["ok", "ok", "fail", "fail", "never"]));
  if (l.chance(0.3)) data.log = Array.from({ length: 1 + l.below(3) }, (_, i) => `line ${i}`);
  if (l.chance(0.3)) data.progress = l.one([5, 0.1, { at: l.random() }]);
  return data;
}

function flow(l, ids, levels) {
  const node = { id: `f${ids.next++}`, data: data(l), opts: {}, children: [] };
  if (levels > 0) node.children = Array.from({ length: 1 + l.below(3) }, () => flow(l, ids, l.chance(0.3) ? levels - 1 : 0));
  if (node.children.length > 0 && l.chance(0.7)) node.data.ends = ["children"];
  if (l.chance(0.4)) node.opts.attempts = l.one([2, 3]);
  const onFailure = l.one(failureOptions);
  if (onFailure) node.opts[onFailure] = true;
  if (l.chance(0.1)) node.opts.removeOnComplete = true;
  return node;
}

function adding(l, ids, timed) {
  if (l.chance(0.15)) return { act: "flow", tree: flow(l, ids, 2) };
  const job = () => {
    const job = { id: l.chance(0.5) ? `j${l.below(ids.next + 3)}` : undefined, data: data(l) };
    ids.next++;
    job.opts = options(l, job, timed);
    return job;
  };
  if (l.chance(0.2)) return { act: "bulk", jobs: Array.from({ length: 1 + l.below(4) }, job) };
  if (timed && l.chance(0.12) && process.env.SCHEDULERS !== "0") {
    return { act: "scheduler", id: `s${ids.next++}`, repeat: { every: 30, limit: 1 + l.below(3) }, data: data(l) };
  }
  return { act: "add", job: job() };
}

const OPERATING = ["retry", "retry", "remove", "promote", "delay", "priority", "data", "drain", "clean", "retry-all"];

/** 0: an operator's action, 1: one that leaves a job due at once, 2: what is added. */
const mayComeDue = (step) => (!OPERATING.includes(step.act) ? 2 : step.act === "delay" && delayOf(step) === 0 ? 1 : 0);
const delayOf = (step) => (step.with % 2 === 0 ? 0 : 3 * LONG_MS);

function program(number) {
  const l = lot(SEED * 1_000_003n + BigInt(number));
  const ids = { next: 0 };
  // Where something happens after a time, its order is a matter of chance, and so is what a retention by number or age leaves.
  const timed = l.chance(0.5);
  const phases = [];
  for (let phase = 0; phase < 2 + l.below(2); phase++) {
    const acts = [];
    for (let i = 0; i < 1 + l.below(phase === 0 ? 7 : 4); i++) {
      if (phase > 0 && l.chance(0.7)) acts.push({ act: l.one(OPERATING), at: l.below(1_000), with: l.below(1_000) });
      else acts.push(adding(l, ids, timed));
    }
    // A short delay comes due whenever a worker looks next, and what an operator does meets it before or after that by chance.
    if (timed) acts.sort((a, b) => mayComeDue(a) - mayComeDue(b));
    phases.push(acts);
  }
  return { number, timed, phases };
}

// ---- Both sides.

/** What cannot be undone is confirmed by the last name in its path. */
function confirmed(method, path) {
  const parts = path.split("?")[0].split("/");
  const name = method === "DELETE" ? parts.at(-1)
    : ["clean", "drain", "data"].includes(parts.at(-1)) ? parts.at(-2)
    : undefined;
  return name === undefined ? path : `${path}${path.includes("?") ? "&" : "?"}confirm=${name.replaceAll("+", "%2B")}`;
}

async function api(method, path, body) {
  for (let i = 0; ; i++) {
    const answer = await fetch(`${process.env.HOST_URL}/api/admin${confirmed(method, path)}`, {
      method,
      headers: { authorization: `Basic ${btoa(`${process.env.HOST_USER}:${process.env.HOST_PASSWORD}`)}`, "content-type": "application/json" },
      body: body === undefined ? undefined : JSON.stringify(body),
    });
    if (answer.status === 429 && i < 5) { await sleep(100); continue; }
    const json = await answer.json();
    if (!json.success) throw new Error(`${answer.status} ${json.code}: ${json.message}`);
    return json.data;
  }
}

/** What the guest does under the name `act`. */
async function act(job) {
  // A job whose hash was taken away meanwhile: the guest knows no job without a name.
  if (!job.name) throw new UnrecoverableError("invalid-input: name: ");
  const attempt = job.attemptsMade + 1;
  const { log = [], progress, ends = [], value = null } = job.data ?? {};
  for (const line of log) await job.log(line);
  if (progress !== undefined && progress !== null) await job.updateProgress(progress);
  await sleep(2);
  switch (ends[attempt - 1] ?? ends.at(-1)) {
    case "fail": throw new Error(`on-request: attempt ${attempt}`);
    case "never": throw new UnrecoverableError(`on-request: attempt ${attempt}`);
    case "children": {
      const id = (key) => key.slice(key.lastIndexOf(":") + 1);
      const done = Object.entries(await job.getChildrenValues()).map(([key, value]) => [id(key), value]);
      const failed = Object.entries(await job.getIgnoredChildrenFailures()).map(([key, failure]) => [id(key), { failure }]);
      return Object.fromEntries([...done, ...failed]);
    }
    default: return value;
  }
}

/** A producer's own code for types that BullMQ does not know: what the host falls back to. */
const backoffStrategy = (_made, _type, _error, job) => {
  const backoff = job.opts.backoff;
  const delay = Number(backoff?.delay ?? (typeof backoff === "string" ? backoff : NaN));
  return delay > 0 ? delay : 0;
};

function side(prefix, name) {
  const queue = new Queue(name, { connection, prefix });
  const flows = new FlowProducer({ connection, prefix });
  for (const thing of [queue, flows]) thing.on("error", () => {});
  const isOurs = prefix === OURS;
  const path = `/queues/${name}`;
  const keys = (part) => `${prefix}:${name}:${part}`;
  const tree = (node) => ({ name: "act", queueName: name, data: node.data, opts: { jobId: node.id, ...node.opts },
    ...(node.children.length > 0 ? { children: node.children.map(tree) } : {}) });
  return {
    prefix, queue, isOurs,
    async do(step, job) {
      switch (step.act) {
        case "add": return (await queue.add("act", step.job.data, step.job.opts)).id;
        case "bulk": return (await queue.addBulk(step.jobs.map(({ data, opts }) => ({ name: "act", data, opts })))).map((job) => job.id);
        case "flow": await flows.add(tree(step.tree)); return "added";
        case "scheduler": await queue.upsertJobScheduler(step.id, step.repeat, { name: "act", data: step.data }); return "added";
        case "drain":
          if (isOurs) await api("POST", `${path}/drain`, { delayed: step.with % 2 === 0 });
          else await queue.drain(step.with % 2 === 0);
          return "done";
        case "clean": {
          const state = step.with % 2 === 0 ? "completed" : "failed";
          if (isOurs) return (await api("POST", `${path}/clean`, { state, olderThanMs: 0, limit: 100 })).count;
          return (await queue.clean(0, 100, state)).length;
        }
        case "retry-all":
          if (isOurs) await api("POST", `${path}/put-back`, { state: "failed" });
          else await queue.retryJobs({ state: "failed" });
          return "done";
      }
      const theirs = isOurs ? null : await queue.getJob(job.id);
      const at = `${path}/jobs/${encodeURIComponent(job.id)}`;
      switch (step.act) {
        case "retry": return isOurs ? api("POST", `${at}/retry`) : theirs.retry(job.state, { resetAttemptsMade: true });
        case "remove": return isOurs ? api("DELETE", at) : theirs.remove({ removeChildren: false });
        case "promote": return isOurs ? api("POST", `${at}/promote`) : theirs.promote();
        case "delay": {
          const delay = delayOf(step);
          return isOurs ? api("PUT", `${at}/delay`, { delayMs: delay }) : theirs.changeDelay(delay);
        }
        case "priority": return isOurs ? api("PUT", `${at}/priority`, { priority: step.with % 4 }) : theirs.changePriority({ priority: step.with % 4 });
        case "data": {
          const data = { value: { edited: step.with / 7 }, ends: [step.with % 3 ? "ok" : "fail"] };
          return isOurs ? api("PUT", `${at}/data`, data) : theirs.updateData(data);
        }
      }
      throw new Error(`no act ${step.act}`);
    },
    async isQuiet() {
      const now = Date.now();
      const [wait, active, prioritized, due] = (await connection.multi().llen(keys("wait")).llen(keys("active")).zcard(keys("prioritized"))
        .zcount(keys("delayed"), "-inf", (now + LONG_MS) * 0x1000).exec()).map(([, count]) => count);
      return wait + active + prioritized + due === 0;
    },
    async ids() {
      const found = [];
      let cursor = "0";
      do {
        const [next, page] = await connection.scan(cursor, "MATCH", keys("*"), "COUNT", 1_000);
        found.push(...page);
        cursor = next;
      } while (cursor !== "0");
      const types = found.length ? await connection.pipeline(found.map((key) => ["hmget", key, "name", "timestamp"])).exec() : [];
      return found.filter((_, i) => types[i][0] === null && types[i][1][0] === "act" && types[i][1][1]).map((key) => key.slice(keys("").length));
    },
    async snapshot() {
      const ids = await this.ids();
      const jobs = {};
      for (const id of ids) {
        const key = keys(id);
        const [hash, logs, processed, failed, unsuccessful, dependencies] = (await connection.multi().hgetall(key).lrange(`${key}:logs`, 0, -1)
          .hgetall(`${key}:processed`).hgetall(`${key}:failed`).zrange(`${key}:unsuccessful`, 0, -1).smembers(`${key}:dependencies`).exec())
          .map(([, value]) => value);
        jobs[plain(id)] = ON_PURPOSE["halves of surrogate pairs"]({
          state: await queue.getJobState(id),
          attemptsMade: hash.atm ?? "0",
          attemptsStarted: hash.ats ?? "0",
          data: plainValue(hash.data),
          returnvalue: plainValue(hash.returnvalue),
          failedReason: ON_PURPOSE["failure texts"](plainText(hash.failedReason)),
          progress: plainValue(hash.progress),
          stacktraces: ON_PURPOSE["stack traces"](hash.stacktrace ? JSON.parse(hash.stacktrace).length : 0),
          priority: hash.priority,
          timestamp: Number(hash.timestamp) < Date.now() - LONG_MS ? hash.timestamp : "now",
          deduplication: hash.deid,
          deferred: plainText(hash.defa),
          logs: logs.map(ON_PURPOSE["levels of log lines"]),
          processed: Object.fromEntries(Object.entries(processed).map(([key, value]) => [plainText(key), plainValue(value)])),
          failed: Object.fromEntries(Object.entries(failed).map(([key, value]) => [plainText(key), ON_PURPOSE["failure texts"](plainText(value))])),
          unsuccessful: unsuccessful.map(plainText).sort(),
          dependencies: dependencies.map(plainText).sort(),
        });
      }
      return { jobs, counts: await queue.getJobCounts() };
    },
    /** Per job, what happened; and the jobs in the order of their first starts. */
    async events(timed) {
      const per = {}, starts = [];
      for (const [, flat] of await connection.xrange(keys("events"), "-", "+")) {
        const event = Object.fromEntries(flat.flatMap((_, i) => (i % 2 ? [] : [[flat[i], flat[i + 1]]])));
        if (!event.jobId) continue;
        const id = plain(event.jobId);
        if (event.event === "active" && !starts.includes(id)) starts.push(id);
        const told = [event.event, event.prev ?? ""];
        if (event.failedReason !== undefined) told.push(ON_PURPOSE["failure texts"](plainText(event.failedReason)));
        if (event.returnvalue !== undefined) told.push(plainValue(event.returnvalue));
        if (event.event === "progress") told.push(plainValue(event.data));
        // Whether a tick is late already when it is made is a matter of time.
        if (id.startsWith("repeat:") && !["active", "completed", "failed"].includes(event.event)) continue;
        // So is whether a job is still delayed when another is taken for the same.
        if (timed && ["duplicated", "deduplicated"].includes(event.event)) continue;
        (per[id] ??= []).push(ON_PURPOSE["halves of surrogate pairs"](told));
      }
      return { per, starts };
    },
    /** Waits between attempts: what the next one is due after, from the end of the one before. */
    async delays() {
      const waits = {};
      for (const id of await this.ids()) {
        const score = await connection.zscore(keys("delayed"), id);
        const started = await connection.hget(keys(id), "processedOn");
        if (score && started) waits[plain(id)] = Math.floor(score / 0x1000) - Number(started);
      }
      return waits;
    },
    /** Ended jobs, as Redis holds them: by the millisecond of their end, and by id within one. */
    ended: async (state) => connection.zrange(keys(state), 0, -1),
    /** Gives ended jobs a millisecond each, in this order. */
    async order(state, ids) {
      const scored = await connection.zrange(keys(state), 0, -1, "WITHSCORES");
      if (scored.length === 0) return;
      const last = Number(scored.at(-1));
      await connection.zadd(keys(state), "XX", ...ids.flatMap((id, place) => [last - ids.length + 1 + place, id]));
    },
    async close() { await Promise.all([queue.close(), flows.close()]); },
  };

  function plain(id) { return id.replace(/^(repeat:[^:]*):\d+$/, "$1:#"); }
  function plainText(text) { return text?.replaceAll(prefix, "P").replace(/(repeat:[^:]*):\d+/g, "$1:#"); }
  function plainValue(text) {
    if (text === undefined || text === null) return undefined;
    const failures = (name, value) => (name === "failure" ? ON_PURPOSE["failure texts"](plainText(value)) : value);
    try { return JSON.parse(text, failures); } catch { return `no JSON: ${text}`; }
  }
}

// ---- Running one program on both.

const FITS = {
  retry: (state) => state === "failed" || state === "completed",
  remove: (state) => state !== "active",
  promote: (state) => state === "delayed",
  delay: (state) => state === "delayed",
  priority: (state) => state === "waiting" || state === "prioritized",
  data: (state) => state !== "active" && state !== "unknown",
};

/** `pause`: milliseconds before each action, so that short delays have passed on both sides. */
async function run(program, [ours, theirs], pause = 0) {
  const both = (what) => Promise.all([what(ours), what(theirs)]);
  const differences = [];
  const note = (where, a, b) => differences.push({ where, ours: a, theirs: b });
  await both((side) => side.queue.obliterate({ force: true }));
  let jobs = 0;
  for (const [phase, acts] of program.phases.entries()) {
    await both((side) => side.queue.pause());
    // A parent fails in the millisecond of its child or in the next: which of them an action on all takes first is a matter of chance.
    for (const state of ["completed", "failed"]) {
      const order = await theirs.ended(state);
      if (order.length > 1) await both((side) => side.order(state, order));
    }
    for (const [place, step] of acts.entries()) {
      let job = null;
      if (pause > 0) await sleep(pause);
      if (FITS[step.act]) {
        const { jobs } = await theirs.snapshot();
        const fitting = Object.entries(jobs).filter(([id, job]) => !id.startsWith("repeat:") && FITS[step.act](job.state)).map(([id]) => id).sort();
        if (fitting.length === 0) continue;
        const id = fitting[step.at % fitting.length];
        job = { id, state: jobs[id].state };
      }
      const [a, b] = await both(async (side) => {
        try { return { answer: (await side.do(step, job)) ?? null }; } catch (error) { return { refused: true, why: error.message }; }
      });
      if (!!a.refused !== !!b.refused) note(`phase ${phase}, step ${place} (${step.act} ${job?.id ?? ""})`, a, b);
      else if (["add", "bulk", "clean"].includes(step.act) && !a.refused && !isDeepStrictEqual(a.answer, b.answer)) {
        note(`phase ${phase}, step ${place} (${step.act})`, a.answer, b.answer);
      }
      jobs += step.act === "bulk" ? step.jobs.length : step.act === "add" || step.act === "scheduler" ? 1 : step.act === "flow" ? 2 : 0;
    }
    await both((side) => side.queue.resume());
    const limit = Date.now() + QUIET_LIMIT_MS;
    for (;;) {
      const quiet = await both((side) => side.isQuiet());
      if (quiet.every(Boolean)) break;
      // Endless attempts without delay: of what runs on there is no state to compare.
      if (Date.now() > limit && !quiet.some(Boolean)) return { differences: [], jobs };
      if (Date.now() > limit) { note(`phase ${phase}: not quiet`, quiet[0], quiet[1]); break; }
      await sleep(25);
    }
    const [a, b] = await both((side) => side.snapshot());
    if (!isDeepStrictEqual(a.counts, b.counts)) note(`phase ${phase}: counts`, a.counts, b.counts);
    for (const id of new Set([...Object.keys(a.jobs), ...Object.keys(b.jobs)])) {
      const [x, y] = [a.jobs[id] ?? {}, b.jobs[id] ?? {}];
      for (const field of new Set([...Object.keys(x), ...Object.keys(y)])) {
        if (!isDeepStrictEqual(x[field], y[field])) note(`phase ${phase}: ${id} ${field}`, x[field], y[field]);
      }
    }
    const [m, n] = await both((side) => side.delays());
    for (const id of Object.keys(n)) {
      // Ours comes up to a fifth later where no jitter is asked for, and the work itself takes some time.
      if (m[id] !== undefined && (m[id] < n[id] * 0.999 - 5_000 || m[id] > n[id] * 1.201 + 5_000)) note(`phase ${phase}: ${id} delay`, m[id], n[id]);
    }
    if (differences.length > 0) break;
  }
  const [a, b] = await both((side) => side.events(program.timed));
  for (const id of new Set([...Object.keys(a.per), ...Object.keys(b.per)])) {
    if (!isDeepStrictEqual(a.per[id], b.per[id])) note(`events of ${id}`, a.per[id], b.per[id]);
  }
  if (!program.timed && !isDeepStrictEqual(a.starts, b.starts)) {
    note("order of first starts", a.starts, b.starts);
  }
  return { differences, jobs };
}

/** Leaves out whatever the difference does not need. */
async function shrink(program, sides) {
  let left = MOST_SHRINKING;
  const differs = async (smaller) => left-- > 0 && (await run(smaller, sides)).differences.length > 0;
  const options = (phases) => phases.flatMap((acts, p) => acts.flatMap((step, s) => {
    const without = (change) => { const copy = structuredClone(phases); change(copy[p], copy[p][s]); return copy.filter((acts) => acts.length > 0); };
    const all = [without((acts) => acts.splice(s, 1))];
    if (step.act === "bulk" && step.jobs.length > 1) step.jobs.forEach((_, j) => all.push(without((_, step) => step.jobs.splice(j, 1))));
    if (step.act === "add") {
      for (const name of Object.keys(step.job.opts)) all.push(without((_, step) => delete step.job.opts[name]));
      for (const name of Object.keys(step.job.data)) all.push(without((_, step) => delete step.job.data[name]));
    }
    return all;
  }));
  for (let again = true; again && left > 0;) {
    again = false;
    for (const phases of options(program.phases)) {
      if (await differs({ ...program, phases })) { program = { ...program, phases }; again = true; break; }
    }
  }
  return { program, ...(await run(program, sides)) };
}

// ---- All.

const numbers = process.env.ONLY ? [Number(process.env.ONLY)] : Array.from({ length: PROGRAMS }, (_, i) => i);
const suspects = [];
let differing = 0, jobs = 0, chance = 0;

/** Gives each of the programs left to `each`, with a queue and a worker for either side. */
async function lane(i, each) {
  const name = `lane-${i}`;
  const sides = [side(OURS, name), side(THEIRS, name)];
  const worker = new Worker(name, act, {
    connection, prefix: THEIRS, concurrency: 1, drainDelay: 1, settings: { backoffStrategy }, metrics: { maxDataPoints: 20160 },
  });
  worker.on("error", (error) => process.env.VERBOSE && console.error(name, error.message));
  await worker.waitUntilReady();
  for (let n; (n = numbers.shift()) !== undefined;) {
    await each(n, sides);
  }
  await worker.close(true);
  await Promise.all(sides.map((side) => side.close()));
}
const total = numbers.length;
await Promise.all(Array.from({ length: Math.min(LANES, total) }, (_, i) => lane(i, async (number, sides) => {
  const first = await run(program(number), sides);
  jobs += first.jobs;
  if (first.differences.length > 0) suspects.push({ number, differences: first.differences });
})));
// Actions meet running jobs and short delays by chance, on either side, and more so among other programs. What is a difference comes again
// alone, whatever the time in between.
const differs = new Map(suspects.map(({ number, differences }) => [number, differences]));
numbers.push(...differs.keys());
await lane(0, async (number, sides) => {
  const drawn = program(number);
  let differences;
  for (let again = 0; again < 4; again++) {
    differences = (await run(drawn, sides, 40 * again)).differences;
    if (differences.length > 0) continue;
    chance++;
    if (process.env.VERBOSE) console.error(JSON.stringify({ program: number, once: differs.get(number) }));
    return;
  }
  const smallest = differing++ < 5 ? await shrink(drawn, sides) : null;
  console.log(JSON.stringify({ program: number, differences, smallest }));
});
console.log(JSON.stringify({ programs: total, jobs, differing, byChance: chance, onPurpose: Object.keys(ON_PURPOSE) }));
connection.disconnect();
// A pipe takes what is written in pieces, and an exit would cut it off.
process.stdout.write("", () => process.exit(0));
