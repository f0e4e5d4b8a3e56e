// The Node side of tests/scenarios/names.rs. Arguments: what to do, then its own. Prints one JSON document.
import { Queue, QueueKeys } from "bullmq";
import IORedis from "ioredis";

const [what, argument] = process.argv.slice(2);

const actions = {
  // What stands behind a queue's name in BullMQ's keys.
  keys() {
    return Object.keys(new QueueKeys("bull").getKeys("q")).filter((name) => name !== "");
  },
  // Adds jobs: [{queue, name, data, opts}]; gives their ids, or why BullMQ refuses one.
  async add() {
    const connection = new IORedis(process.env.REDIS_URL, { maxRetriesPerRequest: null });
    const queues = new Map();
    const ids = [];
    for (const { queue: name, name: job, data = {}, opts = {} } of JSON.parse(argument)) {
      if (!queues.has(name)) queues.set(name, new Queue(name, { connection, prefix: process.env.PREFIX }));
      ids.push(await queues.get(name).add(job, data, opts).then((added) => added.id, (error) => ({ refused: error.message })));
    }
    await Promise.all([...queues.values()].map((queue) => queue.close()));
    connection.disconnect();
    return ids;
  },
};

console.log(JSON.stringify(await actions[what]()));
