// Builds dist/: each entry point as one minified module, and its types. `node build.mjs FOLDER` builds into another folder.
import { execFileSync } from "node:child_process";
import fs from "node:fs";
import path from "node:path";
import { build } from "esbuild";
import { minify } from "terser";

const folder = process.argv[2] ?? "dist";
/** The entry points: the file in dist/, the source, and whether it has more than event streams. */
const ENTRIES = [
    ["ringcast", "index", true],
    ["sse", "sse", false],
    ["react", "react", true],
    ["vue", "vue", true],
    ["echo", "echo", true],
].filter(([, source]) => fs.existsSync(`src/${source}.ts`));

fs.mkdirSync(folder, { recursive: true });
for (const [name, source, isFull] of ENTRIES) {
    const { outputFiles } = await build({
        entryPoints: [`src/${source}.ts`],
        bundle: true,
        write: false,
        format: "esm",
        target: "es2022",
        external: ["react", "vue", "ringcast"],
        define: { FULL: `${isFull}` },
        minifySyntax: true,
    });
    const { code } = await minify(outputFiles[0].text, {
        module: true,
        ecma: 2022,
        compress: { passes: 4, unsafe_arrows: true, pure_getters: true, keep_fargs: false },
        mangle: { properties: { regex: /^_/ } },
    });
    fs.writeFileSync(path.join(folder, `${name}.js`), `${code}\n`);
}
execFileSync("node_modules/.bin/tsc", ["-p", ".", "--emitDeclarationOnly", "--outDir", path.resolve(folder, "types")], { stdio: "inherit" });
for (const [name, source] of ENTRIES) {
    fs.writeFileSync(path.join(folder, `${name}.d.ts`), `export * from "./types/${source}.js";\n`);
}
