// The sizes of the core, of the entry for shared connections and of its worker, as a page gets them: bundled, minified,
// compressed by gzip. Prints them, and fails past what is promised.

import { gzipSync } from "node:zlib";
import { build } from "esbuild";

const LIMITS = { index: 3_000, worker: 5_000, "shared-worker": 4_000 };

for (const [entry, limit] of Object.entries(LIMITS)) {
  const { outputFiles } = await build({
    entryPoints: [`dist/${entry}.js`],
    bundle: true,
    minify: true,
    format: "esm",
    target: "es2022",
    write: false,
  });
  const size = gzipSync(outputFiles[0].contents, { level: 9 }).length;
  console.log(`${entry}: ${size} bytes of ${limit}, compressed`);
  if (size > limit) process.exitCode = 1;
}
