// Express's side of `make bench`: the health check and an authenticated route as an experienced team would write them. Like the host,
// it shares the probe in flight among its callers and remembers an account for 5 s.
//   env DATABASE_URL, REDIS_URL, JWT_SECRET; prints its port.
import { readFileSync } from "node:fs";
import Ajv from "ajv/dist/2020.js";
import express from "express";
import IORedis from "ioredis";
import jwt from "jsonwebtoken";
import pg from "pg";

const pool = new pg.Pool({ connectionString: process.env.DATABASE_URL, min: 5, max: 20 });
const redis = new IORedis(process.env.REDIS_URL);
const app = express();
app.disable("x-powered-by");
app.disable("etag");

let probing = null;
const probe = () => {
  probing ??= Promise.all([pool.query("select 1"), redis.set("bench:probe", "1", "EX", 60)]).finally(() => (probing = null));
  return probing;
};
app.get("/api/health", async (_, response) => {
  const started = process.uptime();
  try {
    await probe();
    response.json({
      success: true,
      message: "Service is healthy",
      data: { uptime: started, timestamp: new Date().toISOString(), services: { database: "connected", redis: "connected" } },
    });
  } catch {
    response.status(503).json({ success: false, message: "Service is unhealthy" });
  }
});

const known = new Map();
const account = async (id) => {
  const kept = known.get(id);
  if (kept && kept.until > Date.now()) return kept.row;
  const { rows } = await pool.query(
    'select "id", "email", "role", "fullName", "phone", "profession", "domain", "profilePhoto", "isVerified", "isProfileComplete", "stage" from users where "id" = $1',
    [id],
  );
  if (known.size > 50_000) known.clear();
  known.set(id, { row: rows[0], until: Date.now() + 5_000 });
  return rows[0];
};
const authenticated = async (request, response, next) => {
  const [scheme, token] = (request.headers.authorization ?? "").split(" ");
  try {
    if (scheme !== "Bearer") throw new Error("no token");
    const claims = jwt.verify(token, process.env.JWT_SECRET, { algorithms: ["HS256"] });
    request.user = await account(claims.sub);
    if (!request.user) throw new Error("no account");
  } catch {
    return response.status(401).json({ success: false, message: "Invalid token" });
  }
  next();
};
app.get("/api/users/profile", authenticated, (request, response) => response.json({ success: true, data: request.user }));

// The route of `bench/src/routes.rs`: the same schemas, before and after the work, which is nothing.
if (process.env.ROUTE_SCHEMAS) {
  const schemas = JSON.parse(readFileSync(process.env.ROUTE_SCHEMAS, "utf8"));
  const ajv = new Ajv();
  const [fits, answers] = [ajv.compile(schemas.input), ajv.compile(schemas.output)];
  app.post("/api/bench/:leadId/call", authenticated, express.json({ limit: 262_144 }), (request, response) => {
    const leadId = Number(request.params.leadId);
    const input = { path: { leadId: Number.isInteger(leadId) ? leadId : request.params.leadId }, body: request.body };
    if (!fits(input)) return response.status(400).json({ success: false, message: ajv.errorsText(fits.errors) });
    const data = { stamp: "stamp.1" };
    if (!answers(data)) return response.status(500).json({ success: false, message: "invalid answer" });
    response.set("x-stamp", data.stamp).json({ success: true, data });
  });
}

const server = app.listen(0, "127.0.0.1", () => console.log(server.address().port));
