// Requests with a Latchkey API key: node client.mjs URL [COUNT]
//
// Needs Node.js 18 or later and no package. The key is read from LATCHKEY_KEY, so that it is in no
// command line.
import process from "node:process";
import { setTimeout as sleep } from "node:timers/promises";

/** Returns the body of a GET request. After 429 or 503 it waits for Retry-After and tries again. */
export async function get(url, key, attempts = 5) {
  for (let attempt = 1; ; attempt++) {
    const answer = await fetch(url, { headers: { Authorization: `Bearer ${key}` }, signal: AbortSignal.timeout(30_000) });
    const body = await answer.text();
    if (answer.ok) return body;
    const wait = Number(answer.headers.get("Retry-After") ?? NaN);
    if (![429, 503].includes(answer.status) || !Number.isInteger(wait) || attempt === attempts) {
      throw new Error(`${answer.status}: ${body}`); // 401 and 403 stay the same, however often the request is repeated
    }
    console.error(`${answer.status}: waiting ${wait} s`);
    await sleep(wait * 1000);
  }
}

const [url, count = "1"] = process.argv.slice(2);
for (let i = 0; i < Number(count); i++) console.log(await get(url, process.env.LATCHKEY_KEY));
