// What is shipped: its size, its files, and what it does where there is no page.
import assert from "node:assert/strict";
import { execFile, execFileSync } from "node:child_process";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import test from "node:test";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { gzipSync } from "node:zlib";

const ROOT = fileURLToPath(new URL("..", import.meta.url));
const read = (file) => fs.readFileSync(path.join(ROOT, file));

/** The most bytes of an entry point, minified and compressed with gzip. The aim is 4,096 and 2,048. */
const SIZES = { "dist/ringcast.js": 5520, "dist/sse.js": 2880 };

for (const [file, most] of Object.entries(SIZES)) {
    test(`${file} has at most ${most} bytes with gzip`, (t) => {
        const size = gzipSync(read(file), { level: 9 }).length;
        t.diagnostic(`${size} bytes`);
        assert.ok(size <= most, `${size} bytes`);
    });
}

test("the built file that the repository has is that of a fresh build", (t) => {
    const folder = fs.mkdtempSync(path.join(os.tmpdir(), "ringcast-build-"));
    t.after(() => fs.rmSync(folder, { recursive: true }));
    execFileSync(process.execPath, ["build.mjs", folder], { cwd: ROOT, stdio: "inherit" });
    const kept = execFileSync("git", ["show", ":./dist/ringcast.js"], { cwd: ROOT });
    assert.ok(kept.equals(fs.readFileSync(path.join(folder, "ringcast.js"))), "run `npm run build` in clients/js and commit dist/ringcast.js");
});

test("the package has the built files and no others, and needs no package", () => {
    const [{ files }] = JSON.parse(execFileSync("npm", ["pack", "--dry-run", "--json"], { cwd: ROOT, stdio: ["ignore", "pipe", "ignore"] }));
    const names = files.map(({ path }) => path);
    for (const name of ["ringcast", "sse", "react", "vue", "echo"]) assert.ok(names.includes(`dist/${name}.js`) && names.includes(`dist/${name}.d.ts`), name);
    assert.deepEqual(names.filter((name) => !/^dist\/|^(README|CHANGELOG)\.md$|^package\.json$/.test(name)), []);
    assert.equal(JSON.parse(read("package.json")).dependencies, undefined);
});

test("importing does nothing, also where there is no page", async () => {
    const program = `
        const before = Object.keys(globalThis).length;
        for (const name of ["setTimeout", "setInterval", "fetch"]) globalThis[name] = () => { throw new Error(name + " was called"); };
        const all = await Promise.all(["ringcast", "ringcast/sse"].map((name) => import(name)));
        if (Object.keys(globalThis).length !== before) throw new Error("a global was made");
        const rc = all[0].connect("/push", { share: true });
        if (rc.state.name !== "idle" || rc.position !== undefined) throw new Error("it has connected");
        rc.close();`;
    await promisify(execFile)(process.execPath, ["--input-type=module", "-e", program], { cwd: ROOT, timeout: 20_000 });
});

test("a page is rendered on a server, and nothing is connected there", async () => {
    const program = `
        import { createElement } from "react";
        import { renderToString } from "react-dom/server";
        import { createSSRApp, h } from "vue";
        import { renderToString as renderVue } from "vue/server-renderer";
        import { connect } from "ringcast";
        import { useLatest, useRingcast } from "ringcast/react";
        import { useRingcastState } from "ringcast/vue";
        const make = () => connect("/push");
        const Page = () => createElement("p", null, String(useLatest(useRingcast("main", make), "news")?.data));
        if (renderToString(createElement(Page)) !== "<p>undefined</p>") throw new Error("React");
        const App = { setup() { const state = useRingcastState(make()); return () => h("p", state.value.name); } };
        if ((await renderVue(createSSRApp(App))) !== "<p>idle</p>") throw new Error("Vue");`;
    await promisify(execFile)(process.execPath, ["--input-type=module", "-e", program], { cwd: ROOT, timeout: 20_000 });
});

test("Jest imports it without a page", { timeout: 60_000 }, async () => {
    await promisify(execFile)(process.execPath, ["--experimental-vm-modules", "node_modules/jest/bin/jest.js", "--rootDir", "test/jest", "--no-watchman"], {
        cwd: ROOT,
        timeout: 50_000,
    });
});
