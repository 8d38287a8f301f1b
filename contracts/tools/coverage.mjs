// Prints the share of lines that forge's lcov report says the tests reach, for each file in src/, and the lines they miss.
// Usage: node tools/coverage.mjs REPORT FLOOR; exit code 1 when the share of all lines is below FLOOR percent.
import { readFileSync } from "node:fs";

const [report, floor] = process.argv.slice(2);
let [all, hit] = [0, 0];
for (const record of readFileSync(report, "utf8").split("end_of_record")) {
  const file = /^SF:(src\/.*)$/m.exec(record)?.[1];
  if (file === undefined) continue;
  const lines = [...record.matchAll(/^DA:(\d+),(\d+)/gm)];
  const missed = lines.filter(([, , count]) => count === "0").map(([, line]) => line);
  all += lines.length;
  hit += lines.length - missed.length;
  console.log(`${file}: ${lines.length - missed.length} of ${lines.length} lines${missed.length ? `, not ${missed}` : ""}`);
}
const share = all === 0 ? 0 : (100 * hit) / all;
console.log(`${share.toFixed(1)} % of ${all} lines`);
process.exit(share >= Number(floor) ? 0 : 1);
