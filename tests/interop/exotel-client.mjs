// Drives the stand-in of Exotel with the npm client `exotel`, which speaks XML: prints one JSON line per step.
import { createRequire } from "node:module";
import { promisify } from "node:util";

const require = createRequire(import.meta.url);
const request = require("request");
const base = new URL(process.env.EXOTEL_URL);

// The client's host is written in its code; everything else is its own.
for (const method of ["get", "post"]) {
  const original = request[method];
  request[method] = (url, ...rest) => original(url.replace("https:", base.protocol).replace("twilix.exotel.in", base.host), ...rest);
}

const client = (token) => {
  const made = require("exotel")({ id: process.env.EXOTEL_SID, token });
  return { send: promisify(made.sendSMS), check: promisify(made.checkSMS) };
};
const told = (step, answer) => console.log(JSON.stringify({ step, answer }));
const failure = (promise) => promise.then((answer) => ({ answer }), (error) => ({ error: error.message }));

const sms = client(process.env.EXOTEL_TOKEN);
const sent = await sms.send("09123456789", "Hello <you> & all, ₹ 5", "");
told("send", sent);
told("check", await sms.check(sent.Sid));
told("no such message", await failure(sms.check("0".repeat(32))));
told("no text", await failure(sms.send("09123456789", "", "")));
told("wrong token", await failure(client("wrong").send("09123456789", "Hello", "")));
