// A browser that has logged in at the host (HOST_WITH_LOGIN), and then opens pages of others: of another site (localhost), and of another port of
// the same address. They send every request of WAYS, a list of [method, path], as pages can without asking first: without a body, as text
// and as a form, by script and by a form. Prints what was seen, as JSON.
import { createServer } from "node:http";
import { chromium } from "playwright-core";

const { HOST, HOST_WITH_LOGIN, QUEUE } = process.env;
const ways = JSON.parse(process.env.WAYS);
// Without asking first, a page may only POST. What it asks for otherwise is asked for by OPTIONS, which changes nothing.
const posts = ways.filter(([method]) => method === "POST").map(([, path]) => path);
const others = ways.filter(([method]) => method !== "POST");

const server = createServer((_, response) => {
  response.setHeader("content-type", "text/html");
  response.end("<!doctype html><title>another</title><body>another page</body>");
});
await new Promise((done) => server.listen(0, "0.0.0.0", done));
const port = server.address().port;

const browser = await chromium.launch({
  executablePath: "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
});
const seen = { sent: 0 };
try {
  // The host's answers forbid scripts to connect anywhere; its pages for people have a policy of their own.
  const context = await browser.newContext({ bypassCSP: true });
  const own = await context.newPage();
  const first = await own.goto(`${HOST_WITH_LOGIN}/api/admin/queues`);
  if (first.status() !== 200) throw new Error(`the login: ${first.status()}`);
  seen.headers = first.headers();
  // Scripts of a page whose address has a login may not fetch.
  await own.goto(`${HOST}/api/admin/queues`);

  const page = await context.newPage();
  for (const origin of [`http://localhost:${port}`, `http://127.0.0.1:${port}`]) {
    await page.goto(origin);
    seen.sent += await page.evaluate(async ({ host, posts, others }) => {
      let sent = 0;
      const bodies = [
        undefined,
        new Blob(['{"name":"a"}'], { type: "text/plain" }),
        new URLSearchParams({ name: "a" }),
      ];
      for (const path of posts) {
        for (const body of bodies) {
          // It is sent; that the page may not use the answer (Cross-Origin-Resource-Policy) is an error to it.
          await fetch(host + path, { method: "POST", mode: "no-cors", credentials: "include", body }).catch(() => {});
          sent++;
        }
      }
      for (const [method, path] of others) {
        // Refused by the browser, after it has asked.
        await fetch(host + path, { method, credentials: "include" }).then(
          () => { throw new Error(`${method} ${path} was let through`); },
          () => {},
        );
      }
      return sent;
    }, { host: HOST, posts, others });
    // As a person who presses a button there: the browser goes to the host, with its credentials.
    for (const enctype of ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"]) {
      await page.goto(origin);
      const answer = page.waitForNavigation();
      await page.evaluate(({ action, enctype }) => {
        const form = Object.assign(document.createElement("form"), { method: "post", action, enctype });
        document.body.append(form);
        form.submit();
      }, { action: `${HOST}/api/admin/queues/${QUEUE}/pause`, enctype });
      const status = (await answer).status();
      if (status !== 403) throw new Error(`a form of ${origin}: ${status}`);
      seen.sent++;
    }
    await page.goto(origin);
    seen.read = await page.evaluate(async (host) => {
      const answer = fetch(`${host}/api/admin/queues`, { mode: "no-cors", credentials: "include" });
      return await answer.then((answer) => answer.type, () => "nothing");
    }, HOST);
  }
  seen.ownPage = await own.evaluate(async (queue) => {
    const statuses = [];
    for (const what of ["pause", "resume"]) {
      statuses.push((await fetch(`/api/admin/queues/${queue}/${what}`, { method: "POST" })).status);
    }
    return statuses;
  }, QUEUE);
  console.log(JSON.stringify(seen));
} catch (error) {
  console.error(error);
  process.exitCode = 1;
} finally {
  await browser.close();
  server.close();
}
