// People at the console in a real browser: HOST is its address, PEOPLE name, password and recovery codes of a viewer, an operator and an
// owner, JOBS ids of jobs. With PATCHBAY_TEST_SCREENSHOTS, screenshots go to that folder. Prints what was seen, as JSON.
import { mkdirSync } from "node:fs";
import { createRequire } from "node:module";
import { HtmlValidate } from "html-validate";
import { chromium } from "playwright-core";

const { HOST, PATCHBAY_TEST_SCREENSHOTS: SHOTS } = process.env;
const people = JSON.parse(process.env.PEOPLE);
const jobs = JSON.parse(process.env.JOBS);
const axe = createRequire(import.meta.url).resolve("axe-core/axe.min.js");
const root = `${HOST}/admin/queues`;
const queue = `${root}/queue/hostileQueue`;
const job = (id) => `${root}/job/hostileQueue/${id}`;
if (SHOTS) mkdirSync(SHOTS, { recursive: true });

const validator = new HtmlValidate({
  extends: ["html-validate:recommended"],
  // The style of a source file is nobody's business here; lists and tables are laid out by the style sheet.
  rules: { "no-trailing-whitespace": "off", "long-title": "off", "void-style": "off", "prefer-native-element": "off" },
});
const seen = { refused: [], errors: [], axe: [], html: [], wide: [], foreign: [], pages: 0, steps: [] };
const browser = await chromium.launch({
  executablePath: "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
});

const opened = async (options) => {
  // Its checks run in the page by evaluation, which the page's own policy would refuse.
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, ...options });
  const page = await context.newPage();
  page.setDefaultTimeout(10_000);
  page.on("request", (request) => {
    if (!request.url().startsWith(HOST)) seen.foreign.push(request.url());
  });
  page.on("pageerror", (error) => seen.errors.push(String(error)));
  page.on("console", (message) => {
    const isOwn = message.type() === "error" && !/status of (401|403|404|422)/.test(message.text());
    if (isOwn) seen.errors.push(`${page.url()}: ${message.text()}`);
  });
  await page.exposeFunction("refused", (what) => seen.refused.push(what));
  await page.addInitScript(() => {
    document.addEventListener("securitypolicyviolation", (event) => {
      window.refused(`${location.pathname} ${event.violatedDirective} ${event.blockedURI}`);
    });
  });
  return page;
};

// axe takes most of the time of a page: in the short form it looks at one page of each kind.
const FULL = Boolean(process.env.PATCHBAY_TEST_FULL);
const LOOKED_AT = ["overview", "queue", "job", "edit", "dead-letter", "found", "bulk-new", "plugin", "settings", "schedules", "alerts", "inbox", "tokens", "not-found"];
const source = await import("node:fs").then((fs) => fs.readFileSync(axe, "utf8"));
const checked = async (page, where) => {
  await page.evaluate(source);
  const { violations } = await page.evaluate(() => window.axe.run(document, { resultTypes: ["violations"] }));
  for (const { id, impact, nodes } of violations) {
    if (["serious", "critical", "moderate"].includes(impact)) seen.axe.push(`${where}: ${id} (${impact}): ${nodes.map((node) => `${node.target} ${node.html}`).slice(0, 2).join(" | ")}`);
  }
};
const valid = async (page, address) => {
  const text = await (await page.request.get(address)).text();
  const report = await validator.validateString(text);
  for (const result of report.results) {
    for (const { ruleId, message, line, column } of result.messages) {
      seen.html.push(`${address}: ${ruleId}: ${message} at ${text.split("\n")[line - 1].slice(Math.max(0, column - 60), column + 60)}`);
    }
  }
};
const shot = async (page, name) => {
  if (SHOTS) await page.screenshot({ path: `${SHOTS}/${name}.png`, fullPage: true });
};
const signIn = async (page, who, address) => {
  await page.goto(address);
  await page.getByLabel("Name").fill(who.name);
  await page.getByLabel("Password").fill(who.password);
  await page.getByLabel("Code of the authenticator").fill(who.codes.pop());
  await page.keyboard.press("Enter");
  await page.getByText("Sign out").waitFor();
};
const step = (what) => seen.steps.push(what);

try {
  // A viewer looks at everything, in light and dark.
  const viewer = await opened({ colorScheme: "light" });
  await viewer.goto(`${root}/overview`);
  await checked(viewer, "sign-in");
  await valid(viewer, `${root}/sign-in`);
  await shot(viewer, "sign-in");
  await signIn(viewer, people.viewer, `${root}/overview`);
  if (new URL(viewer.url()).pathname !== "/admin/queues/overview") throw new Error(`not sent back: ${viewer.url()}`);
  for (const button of await viewer.locator("main button").allInnerTexts()) seen.errors.push(`a viewer has a button: ${button}`);
  step("viewer");

  // An operator finds what failed, mends it and retries it, with the mouse.
  const mouse = await opened({ colorScheme: "light" });
  await signIn(mouse, people.operator, `${root}/overview`);
  await mouse.goto(`${root}/dead-letters`);
  const group = mouse.locator("tr", { hasText: "<script>" }).first().locator("a").first();
  const groupAddress = new URL(await group.getAttribute("href"), HOST).href;
  const pages = {
    overview: `${root}/overview`,
    queues: `${root}/queues`,
    queue: `${queue}?state=failed`,
    completed: `${queue}?state=completed`,
    job: job(jobs.panicked),
    long: job(jobs.done),
    edit: `${job(jobs.broken)}/edit`,
    remove: `${job(jobs.broken)}/remove`,
    "dead-letters": `${root}/dead-letters`,
    "dead-letter": groupAddress,
    search: `${root}/search`,
    found: `${root}/search?queue=hostileQueue&outcome=failed`,
    "bulk-new": `${root}/bulk-new?kind=retry&queue=hostileQueue&state=failed&first=10`,
    bulk: `${root}/bulk`,
    drain: `${queue}/drain`,
    plugins: `${root}/plugins`,
    plugin: `${root}/plugin/hostile`,
    grants: `${root}/plugin/hostile/grants`,
    settings: `${root}/plugin/hostile/settings`,
    secrets: `${root}/plugin/hostile/secrets`,
    breakers: `${root}/breakers`,
    routes: `${root}/routes`,
    schedules: `${root}/schedules`,
    schedule: `${root}/schedule/nightly`,
    "schedule-new": `${root}/schedule-new`,
    alerts: `${root}/alerts`,
    "alert-rules": `${root}/alert-rules`,
    "alert-rule": `${root}/alert-rules/plugin-quarantined`,
    inbox: `${root}/inbox`,
    webhooks: `${root}/webhooks`,
    activity: `${root}/activity`,
    audit: `${root}/audit`,
    trail: `${root}/audit/operators`,
    tokens: `${root}/tokens`,
    "vendor-keys": `${root}/vendor-keys`,
    host: `${root}/host`,
    "not-found": `${root}/dead-letters/999999`,
  };
  for (const [name, address] of Object.entries(pages)) {
    await mouse.goto(address);
    await mouse.locator("h1").waitFor();
    seen.pages += 1;
    if (FULL || LOOKED_AT.includes(name)) await checked(mouse, name);
    await valid(mouse, address);
    await shot(mouse, name);
    if (!FULL && !["overview", "job"].includes(name)) continue;
    if (!["overview", "queue", "job", "dead-letter", "bulk-new", "not-found"].includes(name)) continue;
    await mouse.emulateMedia({ colorScheme: "dark" });
    await mouse.evaluate(() => window.axe.run(document, { runOnly: ["color-contrast"] })).then(({ violations }) => {
      for (const { nodes } of violations) seen.axe.push(`${name}, dark: contrast: ${nodes.map((node) => node.html).slice(0, 3).join(" | ")}`);
    });
    await shot(mouse, `${name}-dark`);
    await mouse.emulateMedia({ colorScheme: "light" });
  }
  if (SHOTS) {
    // Small ones, for the documents.
    await mouse.setViewportSize({ width: 720, height: 500 });
    for (const name of ["overview", "job", "dead-letter"]) {
      await mouse.goto(pages[name]);
      await mouse.screenshot({ path: `${SHOTS}/small-${name}.png` });
    }
    await mouse.setViewportSize({ width: 1280, height: 900 });
  }
  step("pages");

  await mouse.goto(groupAddress);
  await mouse.getByRole("button", { name: "Acknowledge" }).click();
  await mouse.getByText("Acknowledged.").waitFor();
  await mouse.getByRole("link", { name: "Retry the first 10" }).click();
  await mouse.getByRole("button", { name: /^Retry: 12 jobs/ }).click();
  await mouse.getByText("It pauses after the first 10 jobs").waitFor();
  await mouse.getByRole("button", { name: "Go on with the rest" }).click();
  await mouse.getByText("It goes on.").waitFor();
  await mouse.locator(".state", { hasText: /^done$/ }).first().waitFor();
  await shot(mouse, "bulk-done");
  step("bulk retry");

  await mouse.goto(queue);
  await mouse.getByLabel("Reason", { exact: true }).fill("the mail server moves");
  await mouse.getByRole("button", { name: "Pause" }).click();
  await mouse.getByText("is paused now").waitFor();
  await checked(mouse, "paused");
  await shot(mouse, "paused");
  await mouse.locator(".notice").getByRole("button", { name: "Resume" }).click();
  await mouse.getByText("is running now").waitFor();
  await mouse.goto(job(jobs.delayed));
  await mouse.getByRole("button", { name: "Run now" }).click();
  // The page follows by itself.
  await mouse.locator("#job .state", { hasText: "completed" }).waitFor();
  step("live");

  await mouse.goto(`${job(jobs.mended)}/edit`);
  const data = JSON.parse(await mouse.getByLabel("Data, a JSON document").inputValue());
  await mouse.getByLabel("Data, a JSON document").fill("{ oops");
  await mouse.getByRole("button", { name: "Save and retry" }).click();
  await mouse.getByText("the data is no JSON").waitFor();
  await mouse.getByRole("link", { name: "Go back" }).click();
  await mouse.getByLabel("Data, a JSON document").fill(JSON.stringify({ ...data, ends: ["ok"] }));
  await mouse.getByLabel("Reason").fill("the lead had a wrong id");
  await mouse.getByRole("button", { name: "Save and retry" }).click();
  await mouse.getByText("back in its queue").waitFor();
  await mouse.locator("#job .state", { hasText: "completed" }).waitFor();
  await shot(mouse, "mended");
  step("edit and retry");

  // The same by keys alone, by an owner.
  const keys = await opened({ colorScheme: "dark" });
  await signIn(keys, people.owner, `${root}/overview`);
  await keys.keyboard.press("?");
  await keys.locator("dialog[open]").waitFor();
  await checked(keys, "keys");
  await shot(keys, "keys");
  await keys.keyboard.press("Escape");
  await keys.keyboard.press("g");
  await Promise.all([keys.waitForURL(/\/queues$/), keys.keyboard.press("q")]);
  await keys.keyboard.press("j");
  await Promise.all([keys.waitForURL(/\/queue\//), keys.keyboard.press("Enter")]);
  await keys.keyboard.press("/");
  await keys.keyboard.type(`job:${jobs.broken}`);
  await Promise.all([keys.waitForURL(/\/search\?job=/), keys.keyboard.press("Enter")]);
  await keys.locator("table.rows").first().waitFor();
  await keys.keyboard.press("j");
  await Promise.all([keys.waitForURL(/\/job\//), keys.keyboard.press("Enter")]);
  const tabTo = async (text) => {
    for (let tries = 0; tries < 80; tries++) {
      await keys.keyboard.press("Tab");
      const at = await keys.evaluate(() => `${document.activeElement.innerText ?? ""} ${document.activeElement.id}`);
      if (at.includes(text)) return;
    }
    throw new Error(`no way to ${text} by Tab`);
  };
  await tabTo("Edit and retry");
  await Promise.all([keys.waitForURL(/\/edit$/), keys.keyboard.press("Enter")]);
  await tabTo("new-data");
  await keys.keyboard.press("Control+A");
  await keys.keyboard.type('{"ends":["ok"]}');
  await tabTo("Save and retry");
  await keys.keyboard.press("Enter");
  await keys.getByText("back in its queue").waitFor();
  await keys.locator("#job .state", { hasText: "completed" }).waitFor();
  for (const [name, place] of Object.entries({ operators: "operators", operator: "operators/vera", secret: "plugin/hostile/secrets/SMTP_PASSWORD", "owner-secrets": "plugin/hostile/secrets" })) {
    await keys.goto(`${root}/${place}`);
    await keys.locator("h1").waitFor();
    if (FULL) await checked(keys, name);
    await valid(keys, `${root}/${place}`);
    await shot(keys, name);
  }
  step("keys");

  // Somebody on call, with a phone.
  const phone = await opened({ viewport: { width: 360, height: 740 }, deviceScaleFactor: 1, isMobile: true, hasTouch: true });
  await signIn(phone, people.owner, `${root}/overview`);
  for (const name of ["overview", "queues", "queue", "job", "dead-letter", "search", "bulk-new", "drain", "plugin", "schedules", "alerts", "inbox", "activity", "host"]) {
    await phone.goto(pages[name]);
    await phone.locator("h1").waitFor();
    const width = await phone.evaluate(() => document.scrollingElement.scrollWidth);
    if (width > 360) seen.wide.push(`${name}: ${width} px`);
    await shot(phone, `${name}-phone`);
  }
  step("phone");

  // A host that does not answer is said, and the page is not taken for the present state.
  await mouse.goto(`${root}/overview`);
  await mouse.route("**/overview", (route) => route.abort());
  await mouse.getByText("Stale: the host does not answer").waitFor();
  seen.errors = seen.errors.filter((error) => !error.includes("ERR_FAILED"));
  step("stale");
  console.log(JSON.stringify(seen));
} catch (error) {
  console.error(error, JSON.stringify(seen, null, 1));
  process.exitCode = 1;
} finally {
  await browser.close();
}
