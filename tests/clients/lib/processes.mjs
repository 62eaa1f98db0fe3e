// Programs and folders that end with the tests, also with those that are interrupted.
import childProcess from "node:child_process";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";

/** The environment without what would point a program at a proxy, or the server at another one's files. */
export const ENVIRONMENT = Object.fromEntries(
    Object.entries(process.env).filter(([name]) => !/_proxy$|^RINGCAST_|^(RUNTIME|STATE)_DIRECTORY$|^XDG_RUNTIME_DIR$/i.test(name)),
);

const running = new Set();
const folders = [];
process.on("exit", () => {
    for (const child of running) child.kill("SIGKILL");
    for (const folder of folders) fs.rmSync(folder, { recursive: true, force: true, maxRetries: 10 });
});
for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, () => process.exit(1));

/** Makes a folder that is removed when the tests end. */
export function temporaryFolder() {
    const folder = fs.mkdtempSync(path.join(os.tmpdir(), "ringcast-clients-"));
    folders.push(folder);
    return folder;
}

/** Takes care that a program is ended with the tests at the latest, and returns it with the promise of its end (`ended`). */
export function supervise(child) {
    running.add(child);
    child.ended = new Promise((resolve) => child.once("exit", resolve)).then(() => running.delete(child));
    return child;
}

/** Starts a program. `pipe` names the output to read: `stdout` or `stderr`. */
export function spawn(program, args, pipe, variables = {}) {
    return supervise(childProcess.spawn(program, args, {
        env: { ...ENVIRONMENT, ...variables },
        stdio: ["ignore", pipe === "stdout" ? "pipe" : "ignore", pipe === "stderr" ? "pipe" : "inherit"],
    }));
}
