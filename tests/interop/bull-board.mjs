// The real Bull Board over the host's queue. Prints its port.
import { createBullBoard } from "@bull-board/api";
import { BullMQAdapter } from "@bull-board/api/bullMQAdapter";
import { ExpressAdapter } from "@bull-board/express";
import { Queue } from "bullmq";
import express from "express";
import IORedis from "ioredis";

const connection = new IORedis(process.env.REDIS_URL, { maxRetriesPerRequest: null });
const queue = new Queue(process.env.QUEUE ?? "emailQueue", { connection, prefix: process.env.PREFIX ?? "bull" });
const serverAdapter = new ExpressAdapter();
serverAdapter.setBasePath("/admin/queues");
createBullBoard({ queues: [new BullMQAdapter(queue)], serverAdapter });
const app = express();
app.use("/admin/queues", serverAdapter.getRouter());
const server = app.listen(0, "127.0.0.1", () => console.log(server.address().port));
