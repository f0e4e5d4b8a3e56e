// Keys and ID tokens as Google makes them, by Node's own cryptography. Prints them.
import { createHmac, createSign } from "node:crypto";
import { rsaPair } from "./keys.mjs";

const pair = rsaPair();
const other = rsaPair();
const jwk = { ...pair.publicKey.export({ format: "jwk" }), kid: "g1", alg: "RS256", use: "sig" };
const b64 = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
const now = Math.floor(Date.now() / 1000);
const claims = (more) => ({ iss: "https://accounts.google.com", aud: "client-1", sub: "1001", email: "ada@gmail.com",
  email_verified: true, name: "Ada Lovelace", picture: "https://example.com/a.png", iat: now, exp: now + 3600, ...more });
const signed = (claims, key = pair.privateKey, header = { alg: "RS256", kid: "g1", typ: "JWT" }) => {
  const text = b64(header) + "." + b64(claims);
  return text + "." + createSign("RSA-SHA256").update(text).sign(key).toString("base64url");
};
const hs = (() => {
  const text = b64({ alg: "HS256", kid: "g1" }) + "." + b64(claims({}));
  const secret = pair.publicKey.export({ format: "pem", type: "spki" });
  return text + "." + createHmac("sha256", secret).update(text).digest("base64url");
})();
console.log(JSON.stringify({ keys: { keys: [jwk] }, good: signed(claims({})), again: signed(claims({ name: "Another" })),
  workspace: signed(claims({ sub: "1002", email: "bob@company.example", hd: "company.example" })),
  stranger: signed(claims({ sub: "1003", email: "bob@company.example" })),
  admin: signed(claims({ sub: "1004", email: "root@gmail.com" })),
  bad: {
    audience: signed(claims({ aud: "client-2" })), issuer: signed(claims({ iss: "https://evil.example" })),
    expired: signed(claims({ exp: now - 60 })), future: signed(claims({ iat: now + 3600, exp: now + 7200 })),
    unverified: signed(claims({ email_verified: false })), other_key: signed(claims({}), other.privateKey),
    unknown_kid: signed(claims({}), pair.privateKey, { alg: "RS256", kid: "g9" }),
    none: b64({ alg: "none", kid: "g1" }) + "." + b64(claims({})) + ".", secret_of_public_key: hs,
    no_token: "x", no_address: signed(claims({ email: undefined })) } }));
