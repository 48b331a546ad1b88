// Receives webhooks and checks them by the official library, and by Node's own Ed25519 where a public key is given:
//   node receiver.mjs LIBRARY PORT WHSEC_SECRET [WHPK_KEY]
// Answers 500 to the first try of each event, so that each is sent twice. Prints a JSON line for each try.
import { createPublicKey, verify } from "node:crypto";
import { createServer } from "node:http";
import { createRequire } from "node:module";

const [library, port, secret, publicKey] = process.argv.slice(2);
const { Webhook } = createRequire(import.meta.url)(library);
const webhook = new Webhook(secret);
const seen = new Set();

// RFC 8410: the prefix of an Ed25519 key in DER.
const key = publicKey && createPublicKey({
  key: Buffer.concat([Buffer.from("302a300506032b6570032100", "hex"), Buffer.from(publicKey.slice("whpk_".length), "base64")]),
  format: "der",
  type: "spki",
});

function isSignedByKey(headers, body) {
  const signed = Buffer.concat([Buffer.from(`${headers["webhook-id"]}.${headers["webhook-timestamp"]}.`), body]);
  const items = headers["webhook-signature"].split(" ").map((item) => item.split(","));
  return items.some(([version, signature]) => version === "v1a" && verify(null, signed, key, Buffer.from(signature, "base64")));
}

createServer((request, response) => {
  const chunks = [];
  request.on("data", (chunk) => chunks.push(chunk));
  request.on("end", () => {
    const body = Buffer.concat(chunks);
    const id = request.headers["webhook-id"];
    let type = null;
    try {
      type = webhook.verify(body.toString(), request.headers).type;
    } catch (error) {
      console.error(error);
    }
    const byKey = key ? isSignedByKey(request.headers, body) : null;
    const isFirst = !seen.has(id);
    seen.add(id);
    console.log(JSON.stringify({ id, type, by_key: byKey, timestamp: request.headers["webhook-timestamp"], body: body.toString("base64") }));
    response.writeHead(isFirst ? 500 : 204).end();
  });
}).listen(Number(port), "127.0.0.1");
