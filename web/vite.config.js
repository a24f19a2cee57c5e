// Builds the page into the Python package, and writes beside it which sources it was built from.
import { createHash } from "node:crypto";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join, relative, sep } from "node:path";
import { defineConfig } from "vite";

const here = import.meta.dirname;
const out = join(here, "../sememe/serve/page");
const bundled = ["preact", "uplot"];

function sources() {
  const single = ["index.html", "package.json", "package-lock.json", "tsconfig.json", "vite.config.js"];
  const folders = ["public", "src"].flatMap((folder) =>
    readdirSync(join(here, folder), { recursive: true, withFileTypes: true })
      .filter((entry) => entry.isFile())
      .map((entry) => relative(here, join(entry.parentPath, entry.name)).split(sep).join("/")),
  );
  return [...single, ...folders].sort();
}

/** SHA-256 over "name NUL size NUL content" of all sources, in the order of their names. */
function hashOfSources() {
  const digest = createHash("sha256");
  for (const name of sources()) {
    const content = readFileSync(join(here, name));
    digest.update(`${name}\0${content.length}\0`).update(content);
  }
  return digest.digest("hex");
}

const record = {
  name: "record",
  closeBundle() {
    writeFileSync(join(out, "sources.sha256"), `${hashOfSources()}\n`);
    const licenses = bundled.map((name) => {
      const { version } = JSON.parse(readFileSync(join(here, "node_modules", name, "package.json"), "utf8"));
      return `${name} ${version}\n\n${readFileSync(join(here, "node_modules", name, "LICENSE"), "utf8").trim()}\n`;
    });
    writeFileSync(join(out, "licenses.txt"), licenses.join("\n----\n\n"));
  },
};

export default defineConfig({
  base: "/",
  plugins: [record],
  build: {
    outDir: out,
    emptyOutDir: true,
    target: "es2022",
    cssCodeSplit: false,
    modulePreload: false,
    assetsInlineLimit: 0,
    rollupOptions: {
      output: { entryFileNames: "page.js", chunkFileNames: "[name].js", assetFileNames: "page[extname]" },
    },
  },
  server: { proxy: { "/v1": "http://127.0.0.1:8000", "/metrics": "http://127.0.0.1:8000" } },
});
