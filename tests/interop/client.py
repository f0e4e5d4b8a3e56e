"""The PyPI client against a running host: `python client.py`. The same checks, lines and environment as client.mjs.

Every check runs on a queue of its own, named like it. What the package has no call for is "not offered", with the missing call's name.
"""
import asyncio
import base64
import json
import os
import random
import re
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from bullmq import FlowProducer, Job, Queue, QueueEvents, Worker

URL, PREFIX = os.environ["REDIS_URL"], os.environ["PREFIX"]
BASE = {"connection": URL, "prefix": PREFIX}
LIMIT_S = 25
ODD = {"text": "żółć \U0001F600 \"'\\\n\u0000", "n": 0.1, "big": 9007199254740991, "neg": -1e-7,
       "nested": [None, True, {"a": []}], "empty": ""}
CHECKS, CRASHES = {}, {}


class NotOffered(Exception):
    """The package has no call for this check."""


def equal(found, wanted, what=""):
    assert found == wanted, f"{what} {found!r} is not {wanted!r}"


def matches(found, pattern):
    assert re.search(pattern, found or ""), f"{found!r} does not match {pattern!r}"


async def until(what, ask, limit=20.0):
    end = time.monotonic() + limit
    while True:
        answer = await ask()
        if answer:
            return answer
        if time.monotonic() > end:
            raise AssertionError(f"not in time: {what}")
        await asyncio.sleep(0.05)


def request(path, body):
    who = base64.b64encode(f"{os.environ['HOST_USER']}:{os.environ['HOST_PASSWORD']}".encode()).decode()
    call = urllib.request.Request(
        f"{os.environ['HOST_URL']}/api/admin{path}", None if body is None else json.dumps(body).encode(),
        {"authorization": f"Basic {who}", "content-type": "application/json"})
    try:
        with urllib.request.urlopen(call, timeout=20) as answer:
            return json.load(answer)["data"]
    except urllib.error.HTTPError as error:
        raise AssertionError(f"{path}: {error.code} {error.read().decode()}") from error


async def api(path, body=None):
    return await asyncio.to_thread(request, path, body)


async def ask(what):
    print(json.dumps({"ask": what}), flush=True)
    return await asyncio.to_thread(sys.stdin.readline)


class World:
    """One check's queue, and what it opened."""

    def __init__(self, check):
        self.check, self.open = check, []
        self.queue = self.keep(Queue(check, BASE))

    def keep(self, thing):
        self.open.append(thing)
        return thing

    async def add(self, name, data=None, opts=None):
        return await self.queue.add(name, {} if data is None else data, opts or {})

    async def host_adds(self, **job):
        return (await api(f"/queues/{self.check}/jobs", {"newQueue": True, **job}))["id"]

    async def ended(self, job, state="completed", on=None):
        queue, job_id = on or self.queue, getattr(job, "id", job)

        async def look():
            return await queue.getJob(job_id) if await queue.getJobState(job_id) == state else None
        return await until(f"job {job_id} {state}", look)

    async def until_counts(self, limit=20.0, **wanted):
        async def look():
            counts = await self.queue.getJobCounts(*wanted)
            return all(counts[state] == n for state, n in wanted.items())
        await until(f"{wanted}", look, limit)

    async def completed(self, n):
        async def look():
            return (await self.queue.getJobCounts("completed"))["completed"] >= n
        await until(f"{n} completed", look)

    def events(self):
        # From the stream's start: "$" would miss what happens before the first read.
        return self.keep(QueueEvents(self.check, {**BASE, "lastEventId": "0"}))

    def worker(self, handle, opts=None, on=None):
        return self.keep(Worker(on or self.check, handle, {**BASE, **(opts or {})}))

    def other(self, suffix):
        return self.keep(Queue(f"{self.check}-{suffix}", BASE))

    async def started(self):
        """Job ids in the order in which they were started."""
        entries = await self.queue.client.xrange(f"{PREFIX}:{self.check}:events", "-", "+")
        return [fields["jobId"] for _, fields in entries if fields["event"] == "active"]

    async def close(self):
        async def close(thing):
            await (thing.close(force=True) if isinstance(thing, Worker) else thing.close())
        await asyncio.wait([asyncio.ensure_future(close(thing)) for thing in self.open], timeout=2)


def check(name, into=CHECKS):
    def keep(body):
        into[name] = body
        return body
    return keep


def missing(name, kind, call):
    """A check that is offered as soon as the package has the call, so that this list cannot go stale unseen."""
    async def body(_w):
        if not hasattr(kind, call):
            raise NotOffered(f"no {kind.__name__}.{call}")
        raise AssertionError(f"{kind.__name__}.{call} is there now: write the check")
    CHECKS[name] = body


missing("wait-until-finished", Job, "waitUntilFinished")
missing("metrics", Queue, "getMetrics")


@check("client-adds")
async def _(w):
    done = await w.ended(await w.add("echo", ODD))
    equal(done.returnvalue["data"], ODD)
    equal(done.data, ODD)
    equal(done.attemptsMade, 1)
    assert done.processedOn and done.finishedOn >= done.processedOn


@check("host-adds")
async def _(w):
    seen = []

    async def handle(job, _token):
        seen.append((job.name, job.data))
        return ODD
    w.worker(handle)
    job_id = await w.host_adds(name="work", data=ODD)
    await w.ended(job_id)
    equal(seen, [("work", ODD)])
    job = (await api(f"/queues/host-adds/jobs/{job_id}"))["job"]
    equal(json.loads(job["returnValue"]), ODD)
    equal(job["state"], "completed")


@check("null-result")
async def _(w):
    equal((await w.ended(await w.add("noop"))).returnvalue, None)


@check("client-custom-id")
async def _(w):
    one = await w.add("echo", {"n": 1}, {"jobId": "mine"})
    await w.ended("mine")
    await w.add("echo", {"n": 2}, {"jobId": "mine"})
    equal(one.id, "mine")
    equal((await w.queue.getJob("mine")).data, {"n": 1})
    equal(len(await w.started()), 1)


@check("host-custom-id")
async def _(w):
    equal(await w.host_adds(name="a", data={"n": 1}, id="ours"), "ours")
    equal(await w.host_adds(name="a", data={"n": 2}, id="ours"), "ours")
    runs = []

    async def handle(job, _token):
        runs.append(job.id)
        return job.data["n"]
    w.worker(handle)
    equal((await w.ended("ours")).returnvalue, 1)
    equal(runs, ["ours"])


@check("bulk")
async def _(w):
    jobs = await w.queue.addBulk([{"name": "echo", "data": {"n": n}} for n in range(50)])
    for job in jobs:
        equal((await w.ended(job)).returnvalue["data"], job.data)


async def one(_job, _token):
    return 1


def waited(job, least, most):
    took = job.processedOn - job.timestamp
    assert least <= took < most, f"{took} ms"


@check("client-delay")
async def _(w):
    waited(await w.ended(await w.add("noop", {}, {"delay": 700})), 700, 8_000)


@check("host-delay")
async def _(w):
    w.worker(one)
    waited(await w.ended(await w.host_adds(name="a", delayMs=700)), 700, 12_000)


@check("client-priority")
async def _(w):
    await w.queue.pause()
    ids = {}
    for priority in [30, 10, 20, 0, 10]:
        ids.setdefault(priority, []).append((await w.add("noop", {}, {"priority": priority})).id)
    await w.queue.resume()
    order = ids[0] + ids[10] + ids[20] + ids[30]
    for job_id in order:
        await w.ended(job_id)
    equal(await w.started(), order)


@check("host-priority")
async def _(w):
    ids = {}
    for priority in [30, 10, 20, 10]:
        ids.setdefault(priority, []).append(await w.host_adds(name="a", priority=priority))
    w.worker(one)
    order = ids[10] + ids[20] + ids[30]
    for job_id in order:
        await w.ended(job_id)
    equal(await w.started(), order)


@check("lifo")
async def _(w):
    await w.queue.pause()
    ids = [(await w.add("noop", {}, {"lifo": True})).id for _ in range(4)]
    await w.queue.resume()
    for job_id in ids:
        await w.ended(job_id)
    equal(await w.started(), ids[::-1])


async def retried(w, backoff, least):
    job = await w.ended(await w.add("fail", {}, {"attempts": 3, "backoff": backoff}), "failed")
    equal(job.attemptsMade, 3)
    took = job.finishedOn - job.timestamp
    assert least <= took < 12_000, f"{took} ms"


@check("client-retry")
async def _(w):
    await retried(w, {"type": "fixed", "delay": 250}, 500)


@check("exponential")
async def _(w):
    await retried(w, {"type": "exponential", "delay": 200}, 600)


@check("host-retry")
async def _(w):
    async def handle(job, _token):
        if job.attemptsMade < 2:
            raise RuntimeError("not yet")
        return "third"
    w.worker(handle)
    done = await w.ended(await w.host_adds(name="a", attempts=3))
    equal(done.returnvalue, "third")
    equal(done.attemptsMade, 3)


@check("unrecoverable")
async def _(w):
    equal((await w.ended(await w.add("fail", {"retry": "never"}, {"attempts": 5}), "failed")).attemptsMade, 1)


@check("stacktrace")
async def _(w):
    job = await w.ended(await w.add("fail", {}, {"attempts": 2, "backoff": 50}), "failed")
    matches(job.failedReason, "on-request.*failed on request")
    equal(len(job.stacktrace), 2)
    for trace in job.stacktrace:
        matches(trace, "failed on request")


@check("host-failed")
async def _(w):
    async def handle(_job, _token):
        raise RuntimeError("the client's own")
    w.worker(handle)
    job_id = await w.host_adds(name="a")
    await w.ended(job_id, "failed")
    job = (await api(f"/queues/host-failed/jobs/{job_id}"))["job"]
    equal(job["failedReason"], "the client's own")
    matches(job["stacktrace"][0], r"client\.py")


@check("progress")
async def _(w):
    seen = []
    w.events().on("progress", lambda args, _id: seen.append((args["jobId"], args["data"])))
    job = await w.add("progress")
    equal((await w.ended(job)).progress, 100)

    async def arrived():
        return (job.id, 100) in seen
    await until("the event", arrived, 5)


@check("logs")
async def _(w):
    job = await w.add("print")
    await w.ended(job)

    async def lines():
        found = await w.queue.getJobLogs(job.id)
        return found["logs"] if found["count"] >= 4 else None
    logs = await until("its lines", lines, 5)
    for line in ["line 0", "line 2", "no newline"]:
        assert any(line in log for log in logs), logs


@check("keep-none")
async def _(w):
    ids = [(await w.add("noop", {}, {"removeOnComplete": True})).id, (await w.add("fail", {}, {"removeOnFail": True})).id]

    async def gone():
        left = [await w.queue.getJob(job_id) for job_id in ids]
        return not any(left)
    await until("removal", gone)
    equal(sorted(await w.started()), sorted(ids))
    equal(await w.queue.getJobCounts("completed", "failed"), {"completed": 0, "failed": 0})


@check("keep-count")
async def _(w):
    for _ in range(6):
        await w.add("noop", {}, {"removeOnComplete": {"count": 2}})
    await w.until_counts(completed=2, waiting=0, active=0)


@check("keep-age")
async def _(w):
    old = await w.add("noop", {}, {"removeOnComplete": {"age": 1}})
    await w.ended(old)
    await asyncio.sleep(2.1)
    await w.ended(await w.add("noop", {}, {"removeOnComplete": {"age": 1}}))
    equal(await w.queue.getJob(old.id), None)


@check("odd-options")
async def _(w):
    every = [{"attempts": 10000000000}, {"attempts": "3"}, {"attempts": 1.5}, {"attempts": 2, "backoff": {"type": "custom", "delay": 5}},
             {"attempts": 2, "backoff": {"delay": 5}}, {"attempts": 2, "backoff": {"type": "custom"}}]
    for job in [await w.add("act", {"ends": ["fail", "ok"], "value": 1}, opts) for opts in every]:
        equal((await w.ended(job)).attemptsMade, 2)


@check("own-timestamps")
async def _(w):
    keys = set()
    # Whole ones: this client cannot read others.
    for timestamp in [1732845678123, 1732845678123, 1732845678124]:
        await w.add("echo", {}, {"jobId": "mine", "timestamp": timestamp})
        done = await w.ended("mine")
        keys.add(done.returnvalue["key"])
        await done.remove()
    equal(len(keys), 3)


@check("numbers")
async def _(w):
    numbers = [random.random() * 10.0 ** (i % 40 - 20) for i in range(1000)]
    equal((await w.ended(await w.add("echo", {"numbers": numbers}))).returnvalue["data"], {"numbers": numbers})


@check("deep-data")
async def _(w):
    deep = "bottom"
    for _ in range(130):
        deep = [deep]
    equal((await w.ended(await w.add("echo", {"deep": deep}))).returnvalue["data"], {"deep": deep})


@check("keep-fraction")
async def _(w):
    old = await w.add("noop", {}, {"removeOnComplete": {"age": 0.5}})
    await w.ended(old)
    await asyncio.sleep(0.8)
    await w.ended(await w.add("noop", {}, {"removeOnComplete": {"age": 0.5}}))
    equal(await w.queue.getJob(old.id), None)


@check("returns-early")
async def _(w):
    children = w.other("children")

    async def two(_job, _token):
        return 2

    async def tried():
        return (await w.queue.getJob(parent.id)).attemptsMade > 0
    # Due later, so that its child is there before it starts.
    parent = await w.add("act", {"value": 1}, {"attempts": 20, "backoff": 200, "delay": 3_600_000})
    child = await children.add("child", {}, {"parent": {"id": parent.id, "queue": f"{PREFIX}:{w.check}"}})
    await parent.promote()
    await until("a failed attempt", tried)
    w.worker(two, on=children.name)
    await w.ended(child, on=children)
    equal((await w.ended(parent)).attemptsMade > 1, True)


@check("pause")
async def _(w):
    await w.queue.pause()
    job = await w.add("noop")
    # A worker that ignored it would have taken the job long before.
    await asyncio.sleep(0.5)
    equal(await w.started(), [])
    equal(next(q for q in await api("/queues") if q["name"] == "pause")["counts"]["paused"], True)
    await w.queue.resume()
    await w.ended(job)


@check("every")
async def _(w):
    await w.queue.upsertJobScheduler("often", {"every": 300}, "echo", {"tick": True})
    await w.completed(5)
    equal((await w.queue.getCompleted(0, 0))[0].returnvalue["data"], {"tick": True})
    await w.queue.removeJobScheduler("often")


@check("cron")
async def _(w):
    await w.queue.upsertJobScheduler("seconds", {"pattern": "* * * * * *"}, "echo", {"cron": True})
    await w.completed(3)
    await w.queue.removeJobScheduler("seconds")


@check("scheduler-limit")
async def _(w):
    await w.queue.upsertJobScheduler("twice", {"every": 150, "limit": 2}, "noop")
    await w.completed(2)
    await asyncio.sleep(0.6)
    equal(await w.queue.getJobCounts("completed", "delayed"), {"completed": 2, "delayed": 0})


@check("cron-forms")
async def _(w):
    # Its own parser takes no 0/1 and no zone in odd letters: a Node client of the same queue may have written those.
    await w.queue.upsertJobScheduler("forms", {"pattern": "*/1 * * * JAN-DEC *", "tz": "Asia/Kolkata"}, "echo", {"form": 1})
    await w.completed(3)
    await w.queue.removeJobScheduler("forms")


async def ends_in_time(w, repeat):
    # All checks begin at once: the first ticks of some are late.
    end = int(time.time() * 1000) + 8_000
    await w.queue.upsertJobScheduler("ends", {**repeat, "endDate": end}, "noop")
    await w.completed(2)

    async def over():
        return time.time() * 1000 > end and (await w.queue.getJobCounts("delayed"))["delayed"] == 0
    await until("its end", over)
    await asyncio.sleep(0.6)
    equal((await w.queue.getJobCounts("delayed"))["delayed"], 0)
    for done in await w.queue.getCompleted():
        assert int(done.id.split(":")[-1]) <= end, f"{done.id} after {end}"


@check("cron-end")
async def _(w):
    await ends_in_time(w, {"pattern": "* * * * * *"})


@check("every-end")
async def _(w):
    await ends_in_time(w, {"every": 400})


@check("scheduler-colons")
async def _(w):
    scheduler = "tenant:42::UTC:0 9 * * *"
    await w.queue.upsertJobScheduler(scheduler, {"pattern": "* * * * * *"}, "echo", {"mine": True})
    for dry_run in [True, False]:
        [one] = await api("/queues/scheduler-colons/migrate-repeatables", {"dryRun": dry_run})
        equal(one["schedule"], None)
        matches(one["reason"], "job scheduler")
    await w.completed(3)
    await w.queue.removeJobScheduler(scheduler)


@check("own-strategy")
async def _(w):
    await w.queue.upsertJobScheduler("moon", {"pattern": "* * * * * *"}, "echo", {"moon": 1})
    key = f"{PREFIX}:own-strategy:repeat:moon"
    await w.queue.client.hset(key, "pattern", "every full moon")
    [listed] = [one for one in await api("/job-schedulers") if one["queue"] == "own-strategy"]
    matches(listed["trouble"], "cannot read the cron expression")
    await w.queue.client.hset(key, "pattern", "* * * * * *")
    await w.completed(3)
    await w.queue.removeJobScheduler("moon")


missing("repeat-data", Queue, "removeRepeatableByKey")


async def children_values(job, _token):
    return sorted(value["data"]["n"] for value in (await job.getChildrenValues()).values())


@check("flow")
async def _(w):
    parents = w.other("parents")
    w.worker(children_values, on=parents.name)
    tree = await w.keep(FlowProducer(opts=BASE)).add({"name": "sum", "queueName": parents.name, "data": {}, "children": [
        {"name": "echo", "queueName": "flow", "data": {"n": n}} for n in [1, 2, 3]]})
    equal((await w.ended(tree["job"], on=parents)).returnvalue, [1, 2, 3])


async def failing_child(w, option):
    parents = w.other("parents")
    w.worker(children_values, on=parents.name)
    tree = await w.keep(FlowProducer(opts=BASE)).add({"name": "p", "queueName": parents.name, "data": {}, "children": [
        {"name": "fail", "queueName": w.check, "data": {"retry": "never"}, "opts": {option: True}}]})
    return tree["job"], parents


@check("flow-fails")
async def _(w):
    parent, parents = await failing_child(w, "failParentOnFailure")
    matches((await w.ended(parent, "failed", parents)).failedReason, "child .* failed")


@check("flow-ignores")
async def _(w):
    parent, parents = await failing_child(w, "ignoreDependencyOnFailure")
    equal((await w.ended(parent, on=parents)).returnvalue, [])


@check("deduplication")
async def _(w):
    same = {"deduplication": {"id": "same"}}
    await w.queue.pause()
    first, second = await w.add("noop", {}, same), await w.add("noop", {}, same)
    equal(first.id, second.id)
    await w.queue.resume()
    await w.ended(first)
    third = await w.add("noop", {}, same)
    assert third.id != first.id
    await w.ended(third)


@check("rate-limit")
async def _(w):
    await w.queue.setGlobalRateLimit(1, 300)
    jobs = await w.queue.addBulk([{"name": "noop", "data": {}}] * 4)
    times = [(await w.ended(job)).processedOn for job in jobs]
    assert max(times) - min(times) >= 850, times


@check("global-concurrency")
async def _(w):
    await w.queue.setGlobalConcurrency(1)
    jobs = await w.queue.addBulk([{"name": "spin", "data": {"ms": 40}}] * 5)
    runs = sorted([(done.processedOn, done.finishedOn) for done in [await w.ended(job) for job in jobs]])
    for before, after in zip(runs, runs[1:]):
        assert after[0] >= before[1], runs


@check("events")
async def _(w):
    events, seen = w.events(), {kind: [] for kind in ["waiting", "active", "completed", "failed"]}
    for kind, found in seen.items():
        events.on(kind, lambda args, _id, found=found: found.append(args))
    good, bad = await w.add("echo", {"a": 1}), await w.add("fail", {"retry": "never"})

    async def both():
        return seen["completed"] and seen["failed"]
    await until("both ends", both, 10)
    for kind in ["waiting", "active"]:
        assert good.id in [args["jobId"] for args in seen[kind]], seen
    equal(seen["completed"][0]["jobId"], good.id)
    equal(seen["completed"][0]["returnvalue"]["data"], {"a": 1})
    equal(seen["failed"][0]["jobId"], bad.id)
    matches(seen["failed"][0]["failedReason"], "failed on request")


@check("workers")
async def _(w):
    done = await w.ended(await w.add("noop"))
    if await w.queue.get_workers():
        raise AssertionError("get_workers finds workers named by BullMQ for Node now: write the check")
    node = f"{PREFIX}:{base64.b64encode(w.check.encode()).decode()}:w:"
    clients = await w.queue.client.client_list()
    assert done and any(client["name"].startswith(node) for client in clients), clients
    raise NotOffered("get_workers looks for the queue's plain name; Node's workers and the host use its base64")


@check("counts")
async def _(w):
    for _ in range(5):
        await w.add("noop")
    for _ in range(2):
        await w.add("fail", {"retry": "never"})
    await w.add("noop", {}, {"delay": 600_000})
    await w.until_counts(completed=5, failed=2)
    await w.queue.pause()
    await w.add("noop", {}, {"priority": 3})
    theirs = await w.queue.getJobCounts("prioritized", "delayed", "active", "completed", "failed")
    counts = next(q for q in await api("/queues") if q["name"] == "counts")["counts"]
    for state, n in theirs.items():
        equal(counts[state], n, state)
    equal(counts["paused"], True)
    ours = sorted(job["id"] for job in await api("/queues/counts/jobs?state=completed"))
    equal(ours, sorted(job.id for job in await w.queue.getJobs(["completed"])))


@check("promote")
async def _(w):
    job = await w.add("echo", {"n": 1}, {"delay": 600_000})
    await job.updateData({"n": 2})
    await job.promote()
    equal((await w.ended(job)).returnvalue["data"], {"n": 2})


@check("retry-by-client")
async def _(w):
    job = await w.add("fail", {"retry": "never"})
    failed = await w.ended(job, "failed")
    await failed.updateData({"retry": "never", "again": True})
    await failed.retry("failed")

    async def second():
        return len(await w.started()) == 2 and await w.queue.getJobState(job.id) == "failed"
    await until("the second failure", second)
    equal((await w.queue.getJob(job.id)).attemptsStarted, 2)


@check("remove")
async def _(w):
    await w.queue.pause()
    job = await w.add("noop")
    await w.add("noop", {}, {"priority": 5})
    await job.remove()
    await w.queue.drain(True)
    await w.queue.resume()
    last = await w.add("noop")
    await w.ended(last)
    equal(await w.started(), [last.id])


@check("clean")
async def _(w):
    await w.queue.addBulk([{"name": "spin", "data": {"ms": 5}}] * 40)
    await w.completed(6)
    gone = await w.queue.clean(0, 1_000, "completed")
    assert gone
    await w.until_counts(completed=40 - len(gone))


@check("obliterate")
async def _(w):
    await w.queue.addBulk([{"name": "spin", "data": {"ms": 30}}] * 60)

    async def some():
        return (await w.queue.getJobCounts("active"))["active"]
    await until("some", some)
    await w.queue.obliterate(True)
    # Those that ran find themselves gone; the worker goes on.
    equal((await w.ended(await w.add("echo", {"after": 1}))).returnvalue["data"], {"after": 1})


# Last, one after the other: they end the host.
@check("host-killed", CRASHES)
async def _(w):
    async def handle(_job, _token):
        return "finished by the client"
    job = await w.add("sleep")
    await w.ended(job, "active")
    await ask("kill-host")
    w.worker(handle, {"stalledInterval": 500})
    equal((await w.ended(job)).returnvalue, "finished by the client")


@check("client-killed", CRASHES)
async def _(w):
    job = await w.add("echo", {"n": 7})
    child = await asyncio.create_subprocess_exec(
        sys.executable, __file__, "take-and-hang", "client-killed", stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE)
    await child.stdout.readline()
    await w.ended(job, "active")
    child.kill()
    await child.wait()
    await ask("start-host")
    equal((await w.ended(job)).returnvalue["data"], {"n": 7})


async def run(name, body, limit=LIMIT_S):
    w, line, started = World(name), {"check": name, "verdict": "passed"}, time.monotonic()
    try:
        await asyncio.wait_for(body(w), limit)
    except NotOffered as error:
        line |= {"verdict": "not offered", "reason": str(error)}
    except Exception as error:  # noqa: BLE001 - the verdict on the check, whatever it was
        line |= {"verdict": "failed", "reason": str(error) or repr(error)}
    line["ms"] = round((time.monotonic() - started) * 1000)
    print(json.dumps(line), flush=True)
    await w.close()


async def take_and_hang(queue):
    """Killed by the check that started it."""
    async def handle(_job, _token):
        print("taken", flush=True)
        await asyncio.Event().wait()
    # The stalled check is shared: a longer interval here would hold up the host's check as well.
    Worker(queue, handle, {**BASE, "lockDuration": 1_000, "stalledInterval": 1_000})
    await asyncio.Event().wait()


async def main():
    if sys.argv[1:2] == ["take-and-hang"]:
        await take_and_hang(sys.argv[2])
    known = [known["name"] for known in json.loads(Path(__file__).with_name("checks.json").read_text())]
    equal(sorted([*CHECKS, *CRASHES]), sorted(known), "checks.json and client.py name the same checks:")
    await asyncio.gather(*(run(name, body) for name, body in CHECKS.items()))
    for name, body in CRASHES.items():
        await run(name, body, 40)
    sys.stdout.flush()
    # What a killed or force-closed worker left running must not keep the process.
    os._exit(0)


asyncio.run(main())
