// What BullMQ's worker makes of cron expressions: reads an array of {pattern, tz, from}, writes for each its next five ticks (Unix ms; fewer
// where no more come), or the parser's error. One parser per tick, as the worker has it.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

// BullMQ's own dependency, not one of ours.
const { CronExpressionParser } = createRequire(createRequire(import.meta.url).resolve("bullmq"))("cron-parser");

function ticks({ pattern, tz, from }) {
  const found = [];
  let at = from;
  for (let i = 0; i < 5; i++) {
    const expression = CronExpressionParser.parse(pattern, { pattern, tz, currentDate: new Date(at) });
    try { at = expression.next().getTime(); } catch { break; }
    found.push(at);
  }
  return found;
}

const answer = (given) => { try { return ticks(given); } catch (error) { return error.message; } };
process.stdout.write(JSON.stringify(JSON.parse(readFileSync(0, "utf8")).map(answer)));
