// Fails when the page's JavaScript grows over its budget. Run after `npm run build`.
import { readdirSync, readFileSync } from "node:fs";
import { gzipSync } from "node:zlib";

const BUDGET = { js: 200_000, css: 30_000 };
const totals = { js: 0, css: 0 };
for (const file of readdirSync("dist/assets")) {
  const kind = file.split(".").pop();
  if (!(kind in totals)) continue;
  const bytes = gzipSync(readFileSync(`dist/assets/${file}`), { level: 9 }).length;
  totals[kind] += bytes;
  console.log(`${String(bytes).padStart(8)}  ${file}`);
}
for (const [kind, bytes] of Object.entries(totals)) {
  console.log(`${kind}: ${bytes} of ${BUDGET[kind]} bytes, gzip`);
  if (bytes === 0 || bytes > BUDGET[kind]) {
    console.error(bytes === 0 ? `no ${kind} found: build first` : `${kind} is over its budget`);
    process.exitCode = 1;
  }
}
