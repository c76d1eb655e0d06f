// A receiver of webhooks: node receiver.mjs PORT
//
// Needs Node.js 18 or later and no package. The secret of the webhook (whsec_...) is read from
// WEBHOOK_SECRET.
import { createHmac, timingSafeEqual } from "node:crypto";
import { createServer } from "node:http";
import process from "node:process";

const seen = new Set(); // ids of deliveries; keep them in a database, for a day or longer

/** Reports whether signature is that of body, a Buffer with the bytes as they arrived. */
function valid(body, signature = "") {
  const digest = Buffer.from(createHmac("sha256", process.env.WEBHOOK_SECRET).update(body).digest("hex"));
  const sent = Buffer.from(signature);
  return sent.length === digest.length && timingSafeEqual(sent, digest);
}

createServer(async (request, answer) => {
  const parts = [];
  for await (const part of request) parts.push(part);
  const body = Buffer.concat(parts);
  if (!valid(body, request.headers["x-klen-signature"])) return answer.writeHead(401).end();
  const delivery = request.headers["x-klen-delivery"];
  if (!seen.has(delivery)) { // a delivery whose answer was lost comes again
    seen.add(delivery);
    console.log(JSON.parse(body).event_type);
  }
  answer.writeHead(204).end();
}).listen(Number(process.argv[2]), "127.0.0.1");
