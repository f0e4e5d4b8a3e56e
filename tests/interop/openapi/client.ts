// Drives a host by a client that openapi-typescript has made of its document: tsc refuses what the document does not say.
import createClient from "openapi-fetch";
import type { paths } from "./document.js";

declare const process: { argv: string[]; exitCode?: number };
const [url, user, password, queue] = process.argv.slice(2);
const authorization = `Basic ${btoa(`${user}:${password}`)}`;
const client = createClient<paths>({ baseUrl: url, headers: { authorization } });

const added = await client.POST("/api/admin/queues/{queue}/jobs", {
  params: { path: { queue } },
  body: { name: "noop", data: {} },
});
if (!added.data) throw new Error(`not added: ${JSON.stringify(added.error)}`);
const id: string = added.data.data.id;
const unknown = await client.GET("/api/admin/queues/{queue}", { params: { path: { queue: "nobodys" } } });
const code: string | undefined = unknown.error?.code;
const queues = await client.GET("/api/admin/queues");
const success: boolean | undefined = queues.data?.success;
console.log(JSON.stringify({ id, code, success }));
