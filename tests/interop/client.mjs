// An npm client against a running host: `node client.mjs PACKAGE`. All checks at once, each on a queue of its own, named like it
// (checks.json). Prints one JSON line per check: {check, verdict: "passed" | "failed" | "not offered", reason}; a line {ask} wants something
// of the harness, which answers with a line. Environment: REDIS_URL, PREFIX, HOST_URL, HOST_USER, HOST_PASSWORD.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import IORedis from "ioredis";

const [name, role, roleQueue] = process.argv.slice(2);
const bullmq = await import(name);
const { FlowProducer, Queue, QueueEvents, Worker } = bullmq;
const connection = new IORedis(process.env.REDIS_URL, { maxRetriesPerRequest: null });
const base = { connection, prefix: process.env.PREFIX };
const LIMIT_MS = 25_000;

if (role === "take-and-hang") {
  // Killed by the check that started it.
  new Worker(roleQueue, async () => { console.log("taken"); await new Promise(() => setInterval(() => {}, 1_000)); },
    // The stalled check is shared: a longer interval here would hold up the host's check as well.
    { ...base, connection, lockDuration: 1_000, stalledInterval: 1_000 });
  await new Promise(() => {});
}

const sleep = (ms) => new Promise((done) => setTimeout(done, ms));
class NotOffered extends Error {}

async function until(what, ask, limit = 20_000) {
  const end = Date.now() + limit;
  for (;;) {
    const answer = await ask();
    if (answer) return answer;
    if (Date.now() > end) throw new Error(`not in time: ${what}`);
    await sleep(25);
  }
}

async function api(path, body) {
  let answer;
  for (let i = 0; i < 3; i++) {
    answer = await fetch(`${process.env.HOST_URL}/api/admin${path}`, {
      method: body ? "POST" : "GET",
      headers: {
        authorization: `Basic ${btoa(`${process.env.HOST_USER}:${process.env.HOST_PASSWORD}`)}`,
        "content-type": "application/json",
      },
      body: body && JSON.stringify(body),
    });
    if (answer.status !== 429) break;
  }
  const json = await answer.json();
  assert.equal(answer.status, 200, JSON.stringify(json));
  return json.data;
}

const answers = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
async function ask(what) {
  console.log(JSON.stringify({ ask: what }));
  return (await answers.next()).value;
}

function world(check) {
  const open = [];
  const keep = (thing) => { thing.on?.("error", () => {}); open.push(thing); return thing; };
  const queue = keep(new Queue(check, base));
  const self = {
    queue,
    keep,
    add: (job, data = {}, opts = {}) => queue.add(job, data, opts),
    hostAdds: async (job) => (await api(`/queues/${check}/jobs`, { newQueue: true, ...job })).id,
    ended: (id, state = "completed", on = queue) =>
      until(`job ${id} ${state}`, async () => ((await on.getJobState(id)) === state ? on.getJob(id) : null)),
    // From the beginning: "from now on" begins when its first read arrives, which may be after the job has ended.
    events: async () => { const events = keep(new QueueEvents(check, { ...base, lastEventId: "0-0" })); await events.waitUntilReady(); return events; },
    worker: (handle, opts = {}, on = check) => keep(new Worker(on, handle, { ...base, ...opts })),
    other: (suffix) => keep(new Queue(`${check}-${suffix}`, base)),
    // In the order in which they were started.
    started: async () => (await connection.xrange(`${base.prefix}:${check}:events`, "-", "+"))
      .map(([, fields]) => Object.fromEntries(fields.flatMap((f, i) => (i % 2 ? [] : [[f, fields[i + 1]]]))))
      .filter((event) => event.event === "active").map((event) => event.jobId),
    close: () => Promise.race([Promise.all(open.map((thing) => thing.close(true).catch(() => {}))), sleep(2_000)]),
  };
  return self;
}

// Ticks come, none is due after the end, and none is left.
async function endsInTime(w, repeat) {
  // All checks begin at once: the first ticks of some are late.
  const endDate = Date.now() + 8_000;
  await w.queue.upsertJobScheduler("ends", { ...repeat, endDate }, { name: "noop" });
  await until("two ticks", async () => (await w.queue.getJobCounts("completed")).completed >= 2);
  await until("its end", async () => Date.now() > endDate && (await w.queue.getDelayedCount()) === 0);
  await sleep(600);
  assert.equal(await w.queue.getDelayedCount(), 0);
  for (const { id } of await w.queue.getCompleted()) assert.ok(Number(id.split(":").pop()) <= endDate, `${id} after ${endDate}`);
}

const ODD = { text: "żółć \u{1F600} \"'\\\n\u0000", n: 0.1, big: 9007199254740991, neg: -1e-7, nested: [null, true, { a: [] }], empty: "" };

const checks = {
  "client-adds": async (w) => {
    const job = await w.add("echo", ODD);
    const done = await w.ended(job.id);
    assert.deepEqual(done.returnvalue.data, ODD);
    assert.deepEqual(done.data, ODD);
    assert.equal(done.attemptsMade, 1);
    assert.ok(done.processedOn && done.finishedOn >= done.processedOn);
  },
  "host-adds": async (w) => {
    let seen;
    w.worker(async (job) => { seen = { name: job.name, data: job.data }; return ODD; });
    const id = await w.hostAdds({ name: "work", data: ODD });
    await w.ended(id);
    assert.deepEqual(seen, { name: "work", data: ODD });
    const { job } = await api(`/queues/host-adds/jobs/${id}`);
    assert.deepEqual(JSON.parse(job.returnValue), ODD);
    assert.equal(job.state, "completed");
  },
  "null-result": async (w) => assert.equal((await w.ended((await w.add("noop")).id)).returnvalue, null),
  "wait-until-finished": async (w) => {
    const events = await w.events();
    assert.deepEqual((await (await w.add("echo", { a: 1 })).waitUntilFinished(events, 10_000)).data, { a: 1 });
    await assert.rejects((await w.add("fail", { retry: "never" })).waitUntilFinished(events, 10_000), /failed on request/);
  },
  "client-custom-id": async (w) => {
    const one = await w.add("echo", { n: 1 }, { jobId: "mine" });
    await w.ended("mine");
    await w.add("echo", { n: 2 }, { jobId: "mine" });
    assert.equal(one.id, "mine");
    assert.deepEqual((await w.queue.getJob("mine")).data, { n: 1 });
    assert.equal((await w.started()).length, 1);
  },
  "host-custom-id": async (w) => {
    assert.equal(await w.hostAdds({ name: "a", data: { n: 1 }, id: "ours" }), "ours");
    assert.equal(await w.hostAdds({ name: "a", data: { n: 2 }, id: "ours" }), "ours");
    let runs = 0;
    w.worker(async (job) => { runs++; return job.data.n; });
    assert.equal((await w.ended("ours")).returnvalue, 1);
    assert.equal(runs, 1);
  },
  bulk: async (w) => {
    const jobs = await w.queue.addBulk(Array.from({ length: 50 }, (_, n) => ({ name: "echo", data: { n } })));
    for (const job of jobs) assert.deepEqual((await w.ended(job.id)).returnvalue.data, job.data);
  },
  "client-delay": async (w) => {
    const done = await w.ended((await w.add("noop", {}, { delay: 700 })).id);
    const waited = done.processedOn - done.timestamp;
    assert.ok(waited >= 700 && waited < 5_000, `${waited} ms`);
  },
  "host-delay": async (w) => {
    w.worker(async () => 1);
    const done = await w.ended(await w.hostAdds({ name: "a", delayMs: 700 }));
    const waited = done.processedOn - done.timestamp;
    assert.ok(waited >= 700 && waited < 8_000, `${waited} ms`);
  },
  "client-priority": async (w) => {
    await w.queue.pause();
    const ids = {};
    for (const priority of [30, 10, 20, 0, 10]) (ids[priority] ??= []).push((await w.add("noop", {}, { priority })).id);
    await w.queue.resume();
    const order = [...ids[0], ...ids[10], ...ids[20], ...ids[30]];
    for (const id of order) await w.ended(id);
    assert.deepEqual(await w.started(), order);
  },
  "host-priority": async (w) => {
    const ids = {};
    for (const priority of [30, 10, 20, 10]) (ids[priority] ??= []).push(await w.hostAdds({ name: "a", priority }));
    w.worker(async () => 1);
    const order = [...ids[10], ...ids[20], ...ids[30]];
    for (const id of order) await w.ended(id);
    assert.deepEqual(await w.started(), order);
  },
  lifo: async (w) => {
    await w.queue.pause();
    const ids = [];
    for (let i = 0; i < 4; i++) ids.push((await w.add("noop", {}, { lifo: true })).id);
    await w.queue.resume();
    for (const id of ids) await w.ended(id);
    assert.deepEqual(await w.started(), ids.reverse());
  },
  "client-retry": async (w) => {
    const job = await w.ended((await w.add("fail", {}, { attempts: 3, backoff: { type: "fixed", delay: 250 } })).id, "failed");
    assert.equal(job.attemptsMade, 3);
    const took = job.finishedOn - job.timestamp;
    assert.ok(took >= 500 && took < 10_000, `${took} ms`);
  },
  exponential: async (w) => {
    const job = await w.ended((await w.add("fail", {}, { attempts: 3, backoff: { type: "exponential", delay: 200 } })).id, "failed");
    assert.equal(job.attemptsMade, 3);
    const took = job.finishedOn - job.timestamp;
    assert.ok(took >= 600 && took < 10_000, `${took} ms`);
  },
  "host-retry": async (w) => {
    w.worker(async (job) => { if (job.attemptsMade < 2) throw new Error("not yet"); return "third"; });
    const done = await w.ended(await w.hostAdds({ name: "a", attempts: 3 }));
    assert.equal(done.returnvalue, "third");
    assert.equal(done.attemptsMade, 3);
  },
  unrecoverable: async (w) => {
    const job = await w.ended((await w.add("fail", { retry: "never" }, { attempts: 5 })).id, "failed");
    assert.equal(job.attemptsMade, 1);
  },
  stacktrace: async (w) => {
    const job = await w.ended((await w.add("fail", {}, { attempts: 2, backoff: 50 })).id, "failed");
    assert.match(job.failedReason, /on-request.*failed on request/);
    assert.equal(job.stacktrace.length, 2);
    for (const trace of job.stacktrace) assert.match(trace, /failed on request/);
  },
  "host-failed": async (w) => {
    w.worker(async () => { throw new Error("the client's own"); });
    const id = await w.hostAdds({ name: "a" });
    await w.ended(id, "failed");
    const { job } = await api(`/queues/host-failed/jobs/${id}`);
    assert.equal(job.failedReason, "the client's own");
    assert.match(job.stacktrace[0], /client\.mjs/);
  },
  progress: async (w) => {
    const events = await w.events();
    const seen = [];
    events.on("progress", ({ jobId, data }) => seen.push([jobId, data]));
    const job = await w.add("progress");
    assert.equal((await w.ended(job.id)).progress, 100);
    await until("the event", () => seen.some(([id, data]) => id === job.id && data === 100), 5_000);
  },
  logs: async (w) => {
    const job = await w.add("print");
    await w.ended(job.id);
    const { logs } = await until("its lines", async () => {
      const found = await w.queue.getJobLogs(job.id);
      return found.count >= 4 ? found : null;
    }, 5_000);
    for (const line of ["line 0", "line 2", "no newline"]) assert.ok(logs.some((log) => log.includes(line)), JSON.stringify(logs));
  },
  "keep-none": async (w) => {
    // Not `waitUntilFinished`: it asks for the job itself, which may be gone by then.
    const good = await w.add("noop", {}, { removeOnComplete: true });
    const bad = await w.add("fail", {}, { removeOnFail: true });
    for (const { id } of [good, bad]) await until("removal", async () => (await w.queue.getJob(id)) === undefined, 10_000);
    assert.deepEqual(await w.queue.getJobCounts("completed", "failed"), { completed: 0, failed: 0 });
  },
  "keep-count": async (w) => {
    for (let i = 0; i < 6; i++) await w.add("noop", {}, { removeOnComplete: { count: 2 } });
    await until("two kept", async () => {
      const counts = await w.queue.getJobCounts("completed", "waiting", "active");
      return counts.completed === 2 && counts.waiting + counts.active === 0;
    });
  },
  "keep-age": async (w) => {
    const old = await w.add("noop", {}, { removeOnComplete: { age: 1 } });
    await w.ended(old.id);
    await sleep(2_100);
    const young = await w.add("noop", {}, { removeOnComplete: { age: 1 } });
    await w.ended(young.id);
    assert.equal(await w.queue.getJob(old.id), undefined);
  },
  "odd-options": async (w) => {
    const all = [{ attempts: 1e10 }, { attempts: "3" }, { attempts: 1.5 }, { attempts: 2, backoff: { type: "custom", delay: 5 } },
      { attempts: 2, backoff: { delay: 5 } }, { attempts: 2, backoff: { type: "custom" } }, { attempts: 2, timestamp: 1732845678123.5 }];
    const jobs = await Promise.all(all.map((opts) => w.add("act", { ends: ["fail", "ok"], value: 1 }, opts)));
    for (const job of jobs) assert.equal((await w.ended(job.id)).attemptsMade, 2, JSON.stringify(job.opts));
  },
  "own-timestamps": async (w) => {
    const keys = new Set();
    for (const timestamp of [1732845678123.5, 1732845678123.5, 1732845678123]) {
      await w.add("echo", {}, { jobId: "mine", timestamp });
      const done = await w.ended("mine");
      keys.add(done.returnvalue.key);
      await done.remove();
    }
    assert.equal(keys.size, 3);
  },
  numbers: async (w) => {
    const numbers = Array.from({ length: 1_000 }, (_, i) => Math.random() * 10 ** ((i % 40) - 20));
    assert.deepEqual((await w.ended((await w.add("echo", { numbers })).id)).returnvalue.data, { numbers });
  },
  "deep-data": async (w) => {
    let deep = "bottom";
    for (let i = 0; i < 130; i++) deep = [deep];
    const done = await w.ended((await w.add("echo", { deep, half: "\ud800", pair: "\u{1F600}" })).id);
    assert.deepEqual(done.returnvalue.data, { deep, half: "\ufffd", pair: "\u{1F600}" });
  },
  "keep-fraction": async (w) => {
    const old = await w.add("noop", {}, { removeOnComplete: { age: 0.5 } });
    await w.ended(old.id);
    await sleep(800);
    await w.ended((await w.add("noop", {}, { removeOnComplete: { age: 0.5 } })).id);
    assert.equal(await w.queue.getJob(old.id), undefined);
  },
  "returns-early": async (w) => {
    const children = w.other("children");
    // Due when its child is there.
    const parent = await w.add("act", { value: 1 }, { attempts: 20, backoff: 200, delay: 3_600_000 });
    const child = await children.add("child", {}, { parent: { id: parent.id, queue: `${base.prefix}:returns-early` } });
    await parent.promote();
    await until("a failed attempt", async () => (await w.queue.getJob(parent.id)).attemptsMade > 0);
    w.worker(async () => 2, {}, children.name);
    await w.ended(child.id, "completed", children);
    assert.ok((await w.ended(parent.id)).attemptsMade > 1);
  },
  pause: async (w) => {
    await w.queue.pause();
    const job = await w.add("noop");
    // A worker that ignored it would have taken the job long before.
    await sleep(500);
    assert.deepEqual(await w.started(), []);
    assert.equal((await api("/queues")).find((queue) => queue.name === "pause").counts.paused, true);
    await w.queue.resume();
    await w.ended(job.id);
  },
  every: async (w) => {
    await w.queue.upsertJobScheduler("often", { every: 300 }, { name: "echo", data: { tick: true } });
    await until("five ticks", async () => (await w.queue.getJobCounts("completed")).completed >= 5);
    const [done] = await w.queue.getCompleted(0, 0);
    assert.deepEqual(done.returnvalue.data, { tick: true });
    await w.queue.removeJobScheduler("often");
  },
  cron: async (w) => {
    await w.queue.upsertJobScheduler("seconds", { pattern: "* * * * * *" }, { name: "echo", data: { cron: true } });
    await until("three ticks", async () => (await w.queue.getJobCounts("completed")).completed >= 3);
    await w.queue.removeJobScheduler("seconds");
  },
  "scheduler-limit": async (w) => {
    await w.queue.upsertJobScheduler("twice", { every: 150, limit: 2 }, { name: "noop" });
    await until("two ticks", async () => (await w.queue.getJobCounts("completed")).completed >= 2);
    await sleep(600);
    assert.deepEqual(await w.queue.getJobCounts("completed", "delayed"), { completed: 2, delayed: 0 });
  },
  "cron-forms": async (w) => {
    await w.queue.upsertJobScheduler("forms", { pattern: "0/1 * * ? JAN-dec *", tz: "asia/kolkata" }, { name: "echo", data: { form: 1 } });
    await until("three ticks", async () => (await w.queue.getJobCounts("completed")).completed >= 3);
    await w.queue.removeJobScheduler("forms");
  },
  "cron-end": async (w) => endsInTime(w, { pattern: "* * * * * *" }),
  "every-end": async (w) => endsInTime(w, { every: 400 }),
  "scheduler-colons": async (w) => {
    const id = "tenant:42::UTC:0 9 * * *";
    await w.queue.upsertJobScheduler(id, { pattern: "* * * * * *" }, { name: "echo", data: { mine: true } });
    const path = `/queues/scheduler-colons/migrate-repeatables`;
    for (const dryRun of [true, false]) {
      const [one, ...more] = await api(path, { dryRun });
      assert.deepEqual(more, []);
      assert.equal(one.schedule, null);
      assert.match(one.reason, /job scheduler/);
    }
    const before = (await w.queue.getJobCounts("completed")).completed;
    await until("two more ticks", async () => (await w.queue.getJobCounts("completed")).completed >= before + 2);
    assert.equal((await w.queue.getJobScheduler(id)).pattern, "* * * * * *");
    await w.queue.removeJobScheduler(id);
  },
  "own-strategy": async (w) => {
    // Ours cannot know what this client makes of its patterns.
    const queue = w.keep(new Queue("own-strategy", { ...base, settings: { repeatStrategy: (millis) => millis + 100 } }));
    await queue.upsertJobScheduler("moon", { pattern: "every full moon" }, { name: "echo", data: { moon: 1 } });
    await until("its tick", async () => (await w.queue.getJobCounts("completed")).completed === 1);
    const [listed] = (await api("/job-schedulers")).filter((one) => one.queue === "own-strategy");
    assert.equal(listed.id, "moon");
    assert.equal(listed.alive, false);
    assert.match(listed.trouble, /cannot read the cron expression/);
    await w.queue.upsertJobScheduler("moon", { pattern: "* * * * * *" }, { name: "echo", data: { moon: 2 } });
    await until("its ticks", async () => (await w.queue.getJobCounts("completed")).completed >= 3);
    await w.queue.removeJobScheduler("moon");
  },
  "repeat-data": async (w) => {
    if (!w.queue.removeRepeatableByKey) throw new NotOffered("no repeatables since version 6");
    await w.queue.add("echo", { keep: "me" }, { repeat: { every: 300 } });
    await until("three ticks", async () => (await w.queue.getJobCounts("completed")).completed >= 3);
    for (const done of await w.queue.getCompleted()) assert.deepEqual(done.data, { keep: "me" });
    for (const { key } of await w.queue.getRepeatableJobs()) await w.queue.removeRepeatableByKey(key);
  },
  flow: async (w) => {
    const flows = w.keep(new FlowProducer(base));
    const parents = w.other("parents");
    w.worker(async (job) => Object.values(await job.getChildrenValues()).map((value) => value.data.n).sort(), {}, parents.name);
    const child = (n) => ({ name: "echo", queueName: "flow", data: { n } });
    const tree = await flows.add({ name: "sum", queueName: parents.name, children: [child(1), child(2), child(3)] });
    assert.deepEqual((await w.ended(tree.job.id, "completed", parents)).returnvalue, [1, 2, 3]);
  },
  "flow-fails": async (w) => {
    const flows = w.keep(new FlowProducer(base));
    const parents = w.other("parents");
    w.worker(async () => 1, {}, parents.name);
    const tree = await flows.add({ name: "p", queueName: parents.name, children: [
      { name: "fail", queueName: "flow-fails", data: { retry: "never" }, opts: { failParentOnFailure: true } }] });
    assert.match((await w.ended(tree.job.id, "failed", parents)).failedReason, /child .* failed/);
  },
  "flow-ignores": async (w) => {
    const flows = w.keep(new FlowProducer(base));
    const parents = w.other("parents");
    w.worker(async (job) => (await job.getDependenciesCount()), {}, parents.name);
    const tree = await flows.add({ name: "p", queueName: parents.name, children: [
      { name: "fail", queueName: "flow-ignores", data: { retry: "never" }, opts: { ignoreDependencyOnFailure: true } }] });
    const done = await w.ended(tree.job.id, "completed", parents);
    assert.equal(done.returnvalue.ignored, 1);
  },
  deduplication: async (w) => {
    await w.queue.pause();
    const one = await w.add("noop", {}, { deduplication: { id: "same" } });
    const two = await w.add("noop", {}, { deduplication: { id: "same" } });
    assert.equal(one.id, two.id);
    await w.queue.resume();
    await w.ended(one.id);
    const three = await w.add("noop", {}, { deduplication: { id: "same" } });
    assert.notEqual(three.id, one.id);
    await w.ended(three.id);
  },
  "rate-limit": async (w) => {
    if (!w.queue.setGlobalRateLimit) throw new NotOffered("no setGlobalRateLimit");
    await w.queue.setGlobalRateLimit(1, 300);
    const jobs = await w.queue.addBulk(Array.from({ length: 4 }, () => ({ name: "noop", data: {} })));
    const times = [];
    for (const job of jobs) times.push((await w.ended(job.id)).processedOn);
    const took = Math.max(...times) - Math.min(...times);
    assert.ok(took >= 850, `four jobs within ${took} ms`);
  },
  "global-concurrency": async (w) => {
    await w.queue.setGlobalConcurrency(1);
    const jobs = await w.queue.addBulk(Array.from({ length: 5 }, () => ({ name: "spin", data: { ms: 40 } })));
    const runs = [];
    for (const job of jobs) { const done = await w.ended(job.id); runs.push([done.processedOn, done.finishedOn]); }
    runs.sort((a, b) => a[0] - b[0]);
    for (let i = 1; i < runs.length; i++) assert.ok(runs[i][0] >= runs[i - 1][1], JSON.stringify(runs));
  },
  events: async (w) => {
    const events = await w.events();
    const seen = {};
    for (const kind of ["waiting", "active", "completed", "failed"]) events.on(kind, (args) => ((seen[kind] ??= []).push(args)));
    const good = await w.add("echo", { a: 1 });
    const bad = await w.add("fail", { retry: "never" });
    await until("all", () => seen.completed?.length && seen.failed?.length, 10_000);
    assert.ok(seen.waiting.some((event) => event.jobId === good.id) && seen.active.some((event) => event.jobId === good.id));
    assert.equal(seen.completed[0].jobId, good.id);
    assert.deepEqual(seen.completed[0].returnvalue.data, { a: 1 });
    assert.equal(seen.failed[0].jobId, bad.id);
    assert.match(seen.failed[0].failedReason, /failed on request/);
  },
  workers: async (w) => {
    const workers = await until("a worker", async () => { const list = await w.queue.getWorkers(); return list.length ? list : null; });
    assert.equal(workers.length, 1);
    const done = await w.ended((await w.add("noop")).id);
    assert.ok(done.processedBy && workers[0].rawname.endsWith(`:w:${done.processedBy}`), `${workers[0].rawname} and ${done.processedBy}`);
  },
  metrics: async (w) => {
    for (let i = 0; i < 3; i++) await w.add("noop");
    await w.add("fail", { retry: "never" });
    await until("the end", async () => { const c = await w.queue.getJobCounts("completed", "failed"); return c.completed === 3 && c.failed === 1; });
    assert.equal((await w.queue.getMetrics("completed")).meta.count, 3);
    assert.equal((await w.queue.getMetrics("failed")).meta.count, 1);
  },
  counts: async (w) => {
    for (let i = 0; i < 5; i++) await w.add("noop");
    for (let i = 0; i < 2; i++) await w.add("fail", { retry: "never" });
    await w.add("noop", {}, { delay: 600_000 });
    await until("the end", async () => { const c = await w.queue.getJobCounts("completed", "failed"); return c.completed === 5 && c.failed === 2; });
    await w.queue.pause();
    await w.add("noop", {}, { priority: 3 });
    const theirs = await w.queue.getJobCounts("prioritized", "delayed", "active", "completed", "failed");
    const { counts } = (await api("/queues")).find((queue) => queue.name === "counts");
    for (const [state, n] of Object.entries(theirs)) assert.equal(counts[state], n, state);
    assert.equal(counts.paused, true);
    const ours = (await api("/queues/counts/jobs?state=completed")).map((job) => job.id).sort();
    assert.deepEqual(ours, (await w.queue.getJobs(["completed"])).map((job) => job.id).sort());
  },
  promote: async (w) => {
    const job = await w.add("echo", { n: 1 }, { delay: 600_000 });
    await job.updateData({ n: 2 });
    await job.promote();
    assert.deepEqual((await w.ended(job.id)).returnvalue.data, { n: 2 });
  },
  "retry-by-client": async (w) => {
    const job = await w.add("fail", { retry: "never" });
    const failed = await w.ended(job.id, "failed");
    await failed.updateData({ retry: "never", again: true });
    await failed.retry("failed");
    const again = await until("the second failure", async () => {
      const now = await w.queue.getJob(job.id);
      return (await w.started()).length === 2 && (await now.getState()) === "failed" ? now : null;
    });
    assert.equal(again.attemptsStarted, 2);
  },
  remove: async (w) => {
    await w.queue.pause();
    const job = await w.add("noop");
    await w.add("noop", {}, { priority: 5 });
    await job.remove();
    await w.queue.drain(true);
    await w.queue.resume();
    const last = await w.add("noop");
    await w.ended(last.id);
    assert.deepEqual(await w.started(), [last.id]);
  },
  clean: async (w) => {
    await w.queue.addBulk(Array.from({ length: 40 }, () => ({ name: "spin", data: { ms: 5 } })));
    await until("some", async () => (await w.queue.getJobCounts("completed")).completed > 5);
    const gone = await w.queue.clean(0, 1_000, "completed");
    assert.ok(gone.length > 0);
    await until("the rest", async () => (await w.queue.getCompletedCount()) === 40 - gone.length);
  },
  obliterate: async (w) => {
    await w.queue.addBulk(Array.from({ length: 60 }, () => ({ name: "spin", data: { ms: 30 } })));
    await until("some", async () => (await w.queue.getActiveCount()) > 0);
    await w.queue.obliterate({ force: true });
    // Those that ran find themselves gone; the worker goes on.
    const after = await w.add("echo", { after: 1 });
    assert.deepEqual((await w.ended(after.id)).returnvalue.data, { after: 1 });
  },
};

// Last, one after the other: they end the host.
const crashes = {
  "host-killed": async (w) => {
    const job = await w.add("sleep");
    await w.ended(job.id, "active");
    await ask("kill-host");
    w.worker(async () => "finished by the client", { stalledInterval: 500 });
    assert.equal((await w.ended(job.id)).returnvalue, "finished by the client");
  },
  "client-killed": async (w) => {
    const job = await w.add("echo", { n: 7 });
    const child = spawn(process.execPath, [process.argv[1], name, "take-and-hang", "client-killed"], { stdio: ["ignore", "pipe", "inherit"] });
    await new Promise((taken) => child.stdout.once("data", taken));
    await w.ended(job.id, "active");
    child.kill("SIGKILL");
    await ask("start-host");
    assert.deepEqual((await w.ended(job.id)).returnvalue.data, { n: 7 });
  },
};

async function run([check, body], limit = LIMIT_MS) {
  const w = world(check);
  const line = { check, verdict: "passed" };
  const started = Date.now();
  try {
    const late = new Promise((_, no) => setTimeout(() => no(new Error(`not done within ${limit} ms`)), limit).unref());
    await Promise.race([body(w), late]);
  } catch (error) {
    line.verdict = error instanceof NotOffered ? "not offered" : "failed";
    line.reason = error.message;
  }
  line.ms = Date.now() - started;
  console.log(JSON.stringify(line));
  await w.close();
}

const known = JSON.parse(readFileSync(new URL("checks.json", import.meta.url))).map((check) => check.name);
assert.deepEqual([...Object.keys(checks), ...Object.keys(crashes)].sort(), [...known].sort(), "checks.json and client.mjs name the same checks");
await Promise.all(Object.entries(checks).map((entry) => run(entry)));
for (const entry of Object.entries(crashes)) await run(entry, 40_000);
process.exit(0);
