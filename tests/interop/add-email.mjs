// What an existing Node producer does: add an email job, wait for its end.
import { Queue, QueueEvents } from "bullmq";
import IORedis from "ioredis";

const connection = new IORedis(process.env.REDIS_URL, { maxRetriesPerRequest: null });
const options = { connection, prefix: process.env.PREFIX ?? "bull" };
const queue = new Queue("emailQueue", options);
const events = new QueueEvents("emailQueue", options);
await events.waitUntilReady();
const job = await queue.add("send", { to: "you@example.com", subject: "From Node", text: "It works" });
const returnvalue = await job.waitUntilFinished(events, 30_000);
console.log(JSON.stringify({ id: job.id, returnvalue }));
await Promise.all([queue.close(), events.close()]);
connection.disconnect();
