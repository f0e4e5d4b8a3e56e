// Node's side of `make bench`. Commands on standard input, each answered with "ok":
//   start PREFIX QUEUE CONCURRENCY   one worker, until "stop"
//   idle PREFIX QUEUES               so many queues with a worker each, until this process ends
//   add PREFIX QUEUE JOBS BULK       so many jobs, so many at once; the answer carries its milliseconds
import { createInterface } from "node:readline";
import { Queue, Worker } from "bullmq";
import IORedis from "ioredis";

let worker, connection;
// A fixed amount of computing, chosen so that it takes as long as asked when alone.
const compute = (iterations) => {
  let x = 1;
  for (let i = 0; i < iterations; i++) x = ((x << 5) | (x >>> 27)) ^ i;
  return x;
};
let perMs = 0;
for (let n = 100_000; ; n *= 2) {
  const start = performance.now();
  compute(n);
  const took = performance.now() - start;
  if (took > 50) {
    perMs = n / took;
    break;
  }
}
const process_ = async (job) => {
  const ms = job.data.ms ?? 0;
  return ms > 0 ? compute(ms * perMs) === 0 : null;
};
const add = async (prefix, name, jobs, bulk) => {
  const client = new IORedis(process.env.REDIS_URL, { maxRetriesPerRequest: null });
  const queue = new Queue(name, { connection: client, prefix });
  await queue.waitUntilReady();
  const data = { filler: "x".repeat(480) };
  const start = performance.now();
  for (let added = 0; added < jobs; added += bulk) {
    if (bulk === 1) await queue.add("noop", data);
    else await queue.addBulk(Array.from({ length: bulk }, () => ({ name: "noop", data })));
  }
  const took = performance.now() - start;
  await queue.close();
  client.disconnect();
  return took;
};
for await (const line of createInterface({ input: process.stdin })) {
  const [command, prefix, queue, concurrency, bulk] = line.split(" ");
  if (command === "add") {
    console.log(`ok ${await add(prefix, queue, Number(concurrency), Number(bulk))}`);
    continue;
  }
  if (command === "idle") {
    const workers = Array.from({ length: Number(queue) }, (_, n) => {
      const connection = new IORedis(process.env.REDIS_URL, { maxRetriesPerRequest: null });
      return new Worker(`queue${n}`, process_, { connection, prefix });
    });
    await Promise.all(workers.map((worker) => worker.waitUntilReady()));
  } else if (command === "start") {
    connection = new IORedis(process.env.REDIS_URL, { maxRetriesPerRequest: null });
    worker = new Worker(queue, process_, { connection, prefix, concurrency: Number(concurrency) });
    worker.on("error", (error) => console.error(error));
    await worker.waitUntilReady();
  } else {
    await worker.close(true);
    connection.disconnect();
  }
  console.log("ok");
}
