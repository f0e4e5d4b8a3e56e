// RSA keys for tests. They are made as text and read again, because Node 20 can hang for ever on a key that generateKeyPairSync gave as an
// object: exporting or using it holds the key's lock; a garbage collection meanwhile, on the same thread, frees the job that made the key,
// and its destructor waits for that lock.
import { createPrivateKey, createPublicKey, generateKeyPairSync } from "node:crypto";

export function rsaPair() {
  const made = generateKeyPairSync("rsa", {
    modulusLength: 2048,
    privateKeyEncoding: { type: "pkcs8", format: "pem" },
    publicKeyEncoding: { type: "spki", format: "pem" },
  });
  return { privateKey: createPrivateKey(made.privateKey), publicKey: createPublicKey(made.publicKey) };
}
