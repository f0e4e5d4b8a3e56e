// A person at HOST/api/docs: reads the operations, and tries one. Prints what was seen, as JSON.
import { chromium } from "playwright-core";

const { HOST } = process.env;
const browser = await chromium.launch({
  executablePath: "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
});
const seen = { requests: [], refused: [], errors: [] };
try {
  const page = await browser.newPage();
  page.on("request", (request) => seen.requests.push(request.url()));
  page.on("pageerror", (error) => seen.errors.push(String(error)));
  page.on("console", (message) => {
    if (message.type() === "error") seen.errors.push(message.text());
  });
  await page.addInitScript(() => {
    window.refused = [];
    document.addEventListener("securitypolicyviolation", (event) => {
      window.refused.push(`${event.violatedDirective} ${event.blockedURI} ${event.sourceFile}:${event.lineNumber}`);
    });
  });
  const answer = await page.goto(`${HOST}/api/docs`);
  seen.status = answer.status();
  seen.policy = answer.headers()["content-security-policy"];
  await page.waitForSelector(".opblock-tag");
  seen.tags = await page.$$eval(".opblock-tag", (tags) => tags.map((tag) => tag.dataset.tag));
  // Open the group, open the operation, and execute it.
  await page.click('.opblock-tag[data-tag="health"]');
  const health = page.locator(".opblock", { has: page.locator('[data-path="/api/health"]') });
  await health.locator(".opblock-summary").click();
  await health.locator("button.execute").click();
  await health.locator(".live-responses-table .response-col_status").first().waitFor();
  await page.waitForFunction(() => document.querySelector(".live-responses-table tbody")?.innerText.includes("200"));
  seen.tried = await health.locator(".live-responses-table").innerText();
  // More groups: what is drawn only then may violate the policy, too.
  for (const tag of ["auth", "audit", "queues"]) {
    const at = `.opblock-tag[data-tag="${tag}"]`;
    await page.evaluate((at) => document.querySelector(at).click(), at);
    await page.waitForSelector(`${at}[data-is-open="true"]`);
  }
  seen.operations = await page.locator(".opblock").count();
  await page.locator(".authorize").first().click();
  await page.waitForSelector(".modal-ux");
  seen.logins = await page.locator(".modal-ux .auth-container h4").allInnerTexts();
  seen.refused = await page.evaluate(() => window.refused);
  console.log(JSON.stringify(seen));
} catch (error) {
  console.error(error, JSON.stringify(seen));
  process.exitCode = 1;
} finally {
  await browser.close();
}
