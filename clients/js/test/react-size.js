// What the hooks add to the core as a page gets them: bundled, minified, compressed by gzip; React is the page's own.
// Prints it, and fails past what is promised.

import { gzipSync } from "node:zlib";
import { build } from "esbuild";

const LIMIT = 1_500;

/** Compressed bytes of a bundle of these entries. */
async function size(...entries) {
  const contents = entries.map((entry) => `export * from "./dist/${entry}.js";`).join("\n");
  const { outputFiles } = await build({
    stdin: { contents, resolveDir: "." },
    external: ["react"],
    bundle: true,
    minify: true,
    format: "esm",
    target: "es2022",
    write: false,
  });
  return gzipSync(outputFiles[0].contents, { level: 9 }).length;
}

const added = (await size("index", "react")) - (await size("index"));
console.log(`the hooks: ${added} bytes of ${LIMIT}, compressed`);
if (added > LIMIT) process.exitCode = 1;
