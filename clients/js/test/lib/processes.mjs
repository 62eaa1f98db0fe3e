// The processes of a browser.
import fs from "node:fs";

/** The fields of a process after its name, or none if it has ended. */
function fields(pid) {
    try {
        return fs.readFileSync(`/proc/${pid}/stat`, "utf8").split(") ").at(-1).split(" ");
    } catch {
        return undefined;
    }
}

/** A process and all that it has started. */
export function processes(root) {
    const parents = new Map();
    for (const pid of fs.readdirSync("/proc").filter((name) => /^\d+$/.test(name))) parents.set(Number(pid), Number(fields(pid)?.[1]));
    const all = [root];
    for (let i = 0; i < all.length; i++) for (const [pid, parent] of parents) if (parent === all[i]) all.push(pid);
    return all;
}

/** The process that runs a page's scripts: the one that is busy while the page is. */
export async function processOf(page, browser) {
    const all = processes(browser.process().pid);
    const spent = () => new Map(all.map((pid) => [pid, Number(fields(pid)?.[11] ?? 0)]));
    const before = spent();
    await page.evaluate(() => {
        for (const until = performance.now() + 500; performance.now() < until; );
    });
    const after = spent();
    const more = (pid) => after.get(pid) - before.get(pid);
    return all.toSorted((a, b) => more(b) - more(a))[0];
}
