// Builds dist/: each entry point as one minified module, and its types. `node build.mjs FOLDER` builds into another folder.
import { execFileSync } from "node:child_process";
import fs from "node:fs";
import path from "node:path";
import { build } from "esbuild";
import { minify } from "terser";

const folder = process.argv[2] ?? "dist";
/** The entry points: the file in dist/, and the source. */
const ENTRIES = [
    ["ringcast", "index"],
    ["sse", "sse"],
    ["react", "react"],
    ["vue", "vue"],
    ["echo", "echo"],
];

const bundle = async (input, more) => {
    const { outputFiles } = await build({ bundle: true, write: false, format: "esm", target: "es2022", minifySyntax: true, ...input, ...more });
    return outputFiles[0].text;
};

/**
 * The module that exports `connect`. The modules behind src/client.ts are one client: each call of `connect` runs them all, with its
 * arguments as `url` and `options`. So they call each other's functions by names that minify well, and share no object.
 */
async function connector(isFull) {
    const client = await bundle({ entryPoints: ["src/client.ts"] }, { external: ["./error.js"], define: { FULL: `${isFull}` } });
    const body = client.replace(/^import .*$/gm, "").replace(/^export \{\s*client\s*\};/m, "return client;");
    const contents = `import { RingcastError } from "./src/error.ts";
        export { RingcastError };
        export const connect = (url, options = {}) => { ${body} };`;
    return bundle({ stdin: { contents, resolveDir: "." } });
}

fs.mkdirSync(folder, { recursive: true });
for (const [name, source] of ENTRIES) {
    const isClient = source === "index" || source === "sse";
    const text = isClient ? await connector(source === "index") : await bundle({ entryPoints: [`src/${source}.ts`] }, { external: ["react", "vue", "ringcast"] });
    const { code } = await minify(text, {
        module: true,
        ecma: 2022,
        compress: { passes: 4, unsafe: true, unsafe_arrows: true, pure_getters: true, keep_fargs: false, hoist_funs: true },
        mangle: { properties: { regex: /^_/ } },
    });
    fs.writeFileSync(path.join(folder, `${name}.js`), `${code}\n`);
}
execFileSync("node_modules/.bin/tsc", ["-p", ".", "--emitDeclarationOnly", "--outDir", path.resolve(folder, "types")], { stdio: "inherit" });
for (const [name, source] of ENTRIES) {
    fs.writeFileSync(path.join(folder, `${name}.d.ts`), `export * from "./types/${source}.js";\n`);
}
