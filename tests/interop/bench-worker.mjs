// Node's worker for `make bench`. Commands on standard input: "start PREFIX QUEUE CONCURRENCY" and "stop"; each answers "ok".
import { createInterface } from "node:readline";
import { Worker } from "bullmq";
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
for await (const line of createInterface({ input: process.stdin })) {
  const [command, prefix, queue, concurrency] = line.split(" ");
  if (command === "start") {
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
