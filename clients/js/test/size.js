// The size of the core as a page gets it: bundled, minified, compressed by gzip. Prints it, and fails past what is
// promised.

import { gzipSync } from "node:zlib";
import { build } from "esbuild";

const LIMIT = 3_000;

const { outputFiles } = await build({
  entryPoints: ["dist/index.js"],
  bundle: true,
  minify: true,
  format: "esm",
  target: "es2022",
  write: false,
});
const size = gzipSync(outputFiles[0].contents, { level: 9 }).length;
console.log(`the core: ${size} bytes of ${LIMIT}, compressed`);
if (size > LIMIT) process.exitCode = 1;
