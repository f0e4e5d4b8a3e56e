// Node's worker for `make bench`. Commands on standard input: "start PREFIX QUEUE CONCURRENCY" and "stop"; each answers "ok".
import { createInterface } from "node:readline";
import { Worker } from "bullmq";
import IORedis from "ioredis";

let worker, connection;
const process_ = async (job) => {
  const ms = job.data.ms ?? 0;
  if (ms > 0) {
    const end = performance.now() + ms;
    while (performance.now() < end);
  }
  return null;
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
