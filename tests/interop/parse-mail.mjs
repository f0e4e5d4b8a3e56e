// Reads mails (a JSON list of base64 texts on stdin) and says what it found in each, as parse-mail.py does.
import { simpleParser } from "mailparser";

const boxes = (list) => (list?.value ?? []).map(({ name, address }) => [name || null, address]);
let input = "";
for await (const chunk of process.stdin) input += chunk;
const found = [];
for (const mail of JSON.parse(input)) {
  const read = await simpleParser(Buffer.from(mail, "base64"), {
    keepCidLinks: true,
    skipHtmlToText: true,
    skipTextToHtml: true,
    skipTextLinks: true,
  });
  found.push({
    subject: read.subject ?? "",
    from: boxes(read.from),
    to: boxes(read.to),
    cc: boxes(read.cc),
    replyTo: boxes(read.replyTo),
    messageId: read.messageId,
    text: read.text || null,
    html: read.html || null,
    files: read.attachments.map((one) => [one.filename, one.contentType, one.content.toString("base64"), one.cid ?? null]),
  });
}
console.log(JSON.stringify(found));
