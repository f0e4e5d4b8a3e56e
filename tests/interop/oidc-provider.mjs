// A real OpenID Connect provider with some people in it, who log in at once. Prints its issuer. CLIENT_ID, CLIENT_SECRET and REDIRECT_URI are
// its client. POST /control changes, until the next time:
//   person: who logs in next              people: {id: {groups, …}}, added to those that are there
//   denies: nobody logs in                amr: how people are recognised
//   bend: what is wrong with the next ID tokens
import { createHmac, createSign } from "node:crypto";
import { createServer } from "node:http";
import * as oidc from "oidc-provider";
import { rsaPair } from "./keys.mjs";

const own = rsaPair();
const foreign = rsaPair();
const kid = "k1";
const control = {
  person: "ada",
  people: {
    ada: { preferred_username: "Ada", email: "ada@example.com", groups: ["ops-admins"] },
    bob: { preferred_username: "bob@example.com", email: "bob@example.com", groups: ["ops-admins"] },
    // The same address, but somebody else.
    eve: { preferred_username: "ada", email: "ada@example.com", groups: ["staff"] },
  },
  denies: false,
  amr: undefined,
  bend: undefined,
};

const b64 = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
const signed = (header, payload, sign) => {
  const text = `${b64(header)}.${b64(payload)}`;
  return `${text}.${sign(text)}`;
};
const rs256 = (key) => (text) => createSign("RSA-SHA256").update(text).sign(key).toString("base64url");
const hs256 = (secret) => (text) => createHmac("sha256", secret).update(text).digest("base64url");
const now = () => Math.floor(Date.now() / 1000);

function bent(token) {
  const [header, payload] = token.split(".").slice(0, 2).map((part) => JSON.parse(Buffer.from(part, "base64url")));
  if (control.amr) payload.amr = control.amr;
  const good = rs256(own.privateKey);
  switch (control.bend) {
    case undefined: return signed(header, payload, good);
    case "nonce": return signed(header, { ...payload, nonce: "another" }, good);
    case "no-nonce": return signed(header, { ...payload, nonce: undefined }, good);
    case "issuer": return signed(header, { ...payload, iss: "https://id.evil.example" }, good);
    case "audience": return signed(header, { ...payload, aud: "another" }, good);
    case "audiences": return signed(header, { ...payload, aud: [payload.aud, "another"] }, good);
    case "azp": return signed(header, { ...payload, azp: "another" }, good);
    case "expired": return signed(header, { ...payload, iat: now() - 300, exp: now() - 120 }, good);
    case "old": return signed(header, { ...payload, iat: now() - 700 }, good);
    case "future": return signed(header, { ...payload, iat: now() + 600 }, good);
    case "auth-time-old": return signed(header, { ...payload, auth_time: now() - 700 }, good);
    case "no-auth-time": return signed(header, { ...payload, auth_time: undefined }, good);
    case "nobody": return signed(header, { ...payload, sub: "" }, good);
    case "keys": return signed(header, payload, rs256(foreign.privateKey));
    case "unknown-key": return signed({ ...header, kid: "k9" }, payload, rs256(foreign.privateKey));
    case "own-key": return signed({ ...header, jwk: foreign.publicKey.export({ format: "jwk" }) }, payload, rs256(foreign.privateKey));
    case "hs256-client-secret": return signed({ ...header, alg: "HS256" }, payload, hs256(process.env.CLIENT_SECRET));
    case "hs256-public-key": {
      const pem = own.publicKey.export({ format: "pem", type: "spki" });
      return signed({ ...header, alg: "HS256" }, payload, hs256(pem));
    }
    case "none": return signed({ ...header, alg: "none" }, payload, () => "");
    case "changed": {
      const [head, , signature] = signed(header, payload, good).split(".");
      return [head, b64({ ...payload, groups: ["ops-admins"], sub: "root" }), signature].join(".");
    }
    default: throw new Error(`nothing is called ${control.bend}`);
  }
}

let provider;
async function interact(request, response) {
  const { prompt, session, params } = await provider.interactionDetails(request, response);
  if (control.denies) {
    const denied = { error: "access_denied", error_description: "<script>alert(1)</script>" };
    return provider.interactionFinished(request, response, denied, { mergeWithLastSubmission: false });
  }
  if (prompt.name === "login") {
    return provider.interactionFinished(request, response, { login: { accountId: control.person } }, { mergeWithLastSubmission: false });
  }
  const grant = new provider.Grant({ accountId: session.accountId, clientId: params.client_id });
  grant.addOIDCScope(params.scope);
  const consent = { grantId: await grant.save() };
  return provider.interactionFinished(request, response, { consent }, { mergeWithLastSubmission: true });
}

const server = createServer(async (request, response) => {
  try {
    if (request.method === "POST" && request.url === "/control") {
      const chunks = [];
      for await (const chunk of request) chunks.push(chunk);
      const { people = {}, ...rest } = JSON.parse(Buffer.concat(chunks));
      Object.assign(control, { denies: false, amr: undefined, bend: undefined }, rest);
      for (const [id, person] of Object.entries(people)) control.people[id] = { ...control.people[id], ...person };
      return response.end("{}");
    }
    if (request.url.startsWith("/interaction/")) return await interact(request, response);
    return provider.callback()(request, response);
  } catch (error) {
    console.error(error);
    response.statusCode = 500;
    return response.end();
  }
});

server.listen(0, "127.0.0.1", () => {
  const issuer = `http://127.0.0.1:${server.address().port}`;
  provider = new oidc.Provider(issuer, {
    clients: [{ client_id: process.env.CLIENT_ID, client_secret: process.env.CLIENT_SECRET, redirect_uris: [process.env.REDIRECT_URI] }],
    jwks: { keys: [{ ...own.privateKey.export({ format: "jwk" }), kid, use: "sig", alg: "RS256" }] },
    cookies: { keys: ["of a test"] },
    conformIdTokenClaims: false,
    claims: { openid: ["sub", "groups"], email: ["email"], profile: ["preferred_username"] },
    pkce: { required: () => true },
    features: { devInteractions: { enabled: false } },
    interactions: { url: (_, interaction) => `/interaction/${interaction.uid}` },
    findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id, ...control.people[id] }) }),
  });
  provider.use(async (ctx, next) => {
    await next();
    if (ctx.path === "/token" && ctx.body?.id_token) ctx.body = { ...ctx.body, id_token: bent(ctx.body.id_token) };
  });
  console.log(issuer);
});
