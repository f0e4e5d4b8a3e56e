// The Node side of tests/scenarios/features.rs. Arguments: what to do, then its own. Prints one JSON document.
import { FlowProducer, Queue, QueueEvents, Worker } from "bullmq";
import IORedis from "ioredis";

const connection = new IORedis(process.env.REDIS_URL, { maxRetriesPerRequest: null });
const options = { connection, prefix: process.env.PREFIX ?? "bull" };
const [what, ...args] = process.argv.slice(2);
const print = (value) => console.log(JSON.stringify(value));

const actions = {
  // How BullMQ reads a job: its options, and which job holds the de-duplication.
  async show(name, id, deduplication) {
    const queue = new Queue(name, options);
    const job = await queue.getJob(id);
    const holder = deduplication ? await queue.getDeduplicationJobId(deduplication) : null;
    print({ opts: job?.opts ?? null, data: job?.data, state: await job?.getState(), deduplicationId: job?.deduplicationId, holder });
    await queue.close();
  },
  // Works until so many jobs are done.
  async work(name, count) {
    let left = Number(count);
    let done;
    const finished = new Promise((resolve) => (done = resolve));
    const worker = new Worker(name, async (job) => ({ by: "node", name: job.name }), options);
    worker.on("completed", () => --left || done());
    await finished;
    await worker.close();
    print({ ok: true });
  },
  // Adds so many jobs, of which every second fails, and works until so many are done: as this worker, which removes at once or keeps.
  async run(name, count, worker, remove) {
    const queue = new Queue(name, options);
    const removal = remove === "remove" ? { removeOnComplete: true, removeOnFail: true } : {};
    const jobs = Array.from({ length: Number(count) }, (_, n) => ({ name: "noop", data: { n }, opts: removal }));
    const ids = (await queue.addBulk(jobs)).map((job) => job.id);
    let left = ids.length;
    let done;
    const finished = new Promise((resolve) => (done = resolve));
    const process_ = async (job) => {
      if (job.data.n % 2) throw new Error(`no room for ${job.data.n} on request`);
      return { n: job.data.n };
    };
    const node = new Worker(name, process_, worker ? { ...options, name: worker } : options);
    for (const event of ["completed", "failed"]) node.on(event, () => --left || done());
    await finished;
    await node.close();
    await queue.close();
    print(ids);
  },
  // A tree whose children the host works on and whose parent this process does.
  async flow(parentQueue, childQueue) {
    const flows = new FlowProducer(options);
    const children = [1, 2].map((n) => ({ queueName: childQueue, name: "echo", data: { n } }));
    const { job } = await flows.add({ queueName: parentQueue, name: "parent", data: {}, children });
    const events = new QueueEvents(parentQueue, options);
    await events.waitUntilReady();
    const worker = new Worker(parentQueue, async (parent) => Object.values(await parent.getChildrenValues()), options);
    const result = await job.waitUntilFinished(events, 30_000);
    print(result);
    await Promise.all([worker.close(), events.close(), flows.close()]);
  },
};
await actions[what](...args);
connection.disconnect();
