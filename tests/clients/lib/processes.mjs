import childProcess from "node:child_process";

/** The environment without what would point a program at a proxy, or the server at another one's files. */
export const ENVIRONMENT = Object.fromEntries(
    Object.entries(process.env).filter(([name]) => !/_proxy$|^RINGCAST_|^(RUNTIME|STATE)_DIRECTORY$|^XDG_RUNTIME_DIR$/i.test(name)),
);

const running = new Set();
process.on("exit", () => running.forEach((child) => child.kill("SIGKILL")));
for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, () => process.exit(1));

/** Starts a program that ends with the tests at the latest. `pipe` names the output to read: `stdout` or `stderr`. */
export function spawn(program, args, pipe, variables = {}) {
    const child = childProcess.spawn(program, args, {
        env: { ...ENVIRONMENT, ...variables },
        stdio: ["ignore", pipe === "stdout" ? "pipe" : "ignore", pipe === "stderr" ? "pipe" : "inherit"],
    });
    running.add(child);
    child.ended = new Promise((resolve) => child.once("exit", resolve)).then(() => running.delete(child));
    return child;
}
