// A person at the real Bull Board, in a real browser: BOARD is its address, SHOTS a folder for screenshots. Arguments: ids of a job that has
// failed, one that has logged, and one that is delayed. Prints what the pages showed, as JSON.
import { chromium } from "playwright-core";

const [failed, logged, delayed] = process.argv.slice(2);
const browser = await chromium.launch({
  executablePath: "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
});
const page = await browser.newPage({ viewport: { width: 1280, height: 900 } });
page.setDefaultTimeout(15_000);
const queue = "/queue/hostileQueue";
const seen = {};

const open = async (name, path, text) => {
  await page.goto(process.env.BOARD + path);
  await page.getByText(text, { exact: false }).first().waitFor();
  await page.screenshot({ path: `${process.env.SHOTS}/${name}.png` });
  seen[name] = await page.innerText("body");
};
const press = async (what) => {
  const named = page.locator("button", { hasText: new RegExp(`^${what}$`) }).or(page.getByRole("button", { name: what, exact: true }));
  if (await named.count()) return named.first().click();
  // Buttons without a text say what they do when one points at them, in their own time: only what is said while this one speaks is its
  // word, or a late one is taken for the next button's.
  for (const button of await page.locator("[data-base-ui-tooltip-trigger]").all()) {
    await button.hover();
    await button.and(page.locator("[data-popup-open]")).waitFor();
    if (await page.locator("[data-open][data-side]").getByText(what, { exact: true }).count()) return button.click();
  }
  throw new Error(`no button says ${what}`);
};
const confirm = async () => {
  await page.getByRole("button", { name: "Confirm" }).click();
  await page.getByRole("button", { name: "Confirm" }).waitFor({ state: "detached" });
};

try {
  await open("overview", "", "hostileQueue");
  await open("failed", `${queue}?status=failed`, "panic");
  await open("job", `${queue}/${failed}?status=failed`, "panic");
  await open("logged", `${queue}/${logged}?status=completed`, "print");
  await press("Logs");
  await page.getByText("line 0").first().waitFor();
  seen.logs = await page.innerText("body");
  await page.screenshot({ path: `${process.env.SHOTS}/logs.png` });
  await open("schedulers", "/job-schedulers", "hourly");
  await press("Run now");
  await confirm();
  await open("delayed", `${queue}/${delayed}?status=delayed`, "noop");
  await press("Promote");
  await confirm();
  await open("retry", `${queue}/${failed}?status=failed`, "panic");
  await press("Retry");
  await confirm();
  // Bull Board cleans what ended at least five seconds ago.
  const listed = async () => {
    const answer = await page.request.get(`${process.env.BOARD}/api/queues?activeQueue=hostileQueue&status=completed&page=1&jobsPerPage=10`);
    return (await answer.json()).queues[0].jobs.some((job) => String(job.id) === logged);
  };
  for (let tries = 0; await listed(); tries++) {
    if (tries === 15) throw new Error("the completed job is still listed");
    await open("clean", `${queue}?status=completed`, "Clean all");
    await press("Clean all");
    await confirm();
  }
  await open("cleaned", `${queue}?status=completed`, "COMPLETED");
  console.log(JSON.stringify(seen));
} catch (error) {
  await page.screenshot({ path: `${process.env.SHOTS}/error.png` });
  console.error(error);
  process.exitCode = 1;
} finally {
  await browser.close();
}
