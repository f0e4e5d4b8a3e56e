// Express's side of `bench/src/inbox.rs`: a receiver of webhooks as an experienced team would write it. The signature over the raw
// body, the id of the event once in Postgres, a job under an id that follows from the event, and then 200. Its worker does nothing.
//   env DATABASE_URL, REDIS_URL, SIGNING; prints its port. POST /pause: from then on, the jobs wait.
import { createHmac, timingSafeEqual } from "node:crypto";
import { Queue, Worker } from "bullmq";
import express from "express";
import IORedis from "ioredis";
import pg from "pg";

const QUEUE = "expressEvents";
const pool = new pg.Pool({ connectionString: process.env.DATABASE_URL, min: 5, max: 20 });
await pool.query(
  "create table if not exists webhook_events (event_id text primary key, received_at timestamptz not null default now(), headers jsonb not null, body bytea not null)",
);
const connection = new IORedis(process.env.REDIS_URL, { maxRetriesPerRequest: null });
const queue = new Queue(QUEUE, { connection, defaultJobOptions: { removeOnComplete: { count: 1_000 } } });
const worker = new Worker(QUEUE, async () => ({}), { connection: connection.duplicate(), concurrency: 10 });
worker.on("error", (error) => console.error(error));

const app = express();
app.disable("x-powered-by");
app.disable("etag");

const isGenuine = (request) => {
  const given = /^sha256=([0-9a-f]{64})$/i.exec(request.headers["x-signature"] ?? "");
  if (!given) return false;
  const right = createHmac("sha256", process.env.SIGNING).update(request.body).digest();
  return timingSafeEqual(right, Buffer.from(given[1], "hex"));
};
const keep = { name: "keep", text: "insert into webhook_events (event_id, headers, body) values ($1, $2, $3) on conflict (event_id) do nothing" };

app.post("/api/bench/events", express.raw({ type: () => true, limit: 262_144 }), async (request, response) => {
  if (!isGenuine(request)) return response.status(401).json({ success: false, message: "The request was rejected" });
  let event;
  try {
    event = JSON.parse(request.body);
  } catch {
    return response.status(422).json({ success: false, message: "The body is not JSON" });
  }
  try {
    const { rowCount } = await pool.query({ ...keep, values: [event.id, JSON.stringify(request.headers), request.body] });
    if (rowCount > 0) await queue.add("event", event, { jobId: `wh-${event.id}` });
    response.json({ success: true });
  } catch {
    response.status(503).json({ success: false, message: "Send it again later" });
  }
});
app.post("/pause", async (_, response) => {
  await queue.pause();
  response.json({ success: true });
});

const server = app.listen(0, "127.0.0.1", () => console.log(server.address().port));
