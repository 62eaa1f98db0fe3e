// Real proxies of Debian's packages in front of the server, with the configurations of tuning/proxies.
import fs from "node:fs";
import net from "node:net";
import path from "node:path";
import { freePort } from "./ports.mjs";
import { spawn, temporaryFolder } from "./processes.mjs";
import { eventually } from "./wait.mjs";

/** A configuration of tuning/proxies in which some texts, which must be there, are replaced by others. */
function shipped(name, replacements) {
    let text = fs.readFileSync(new URL(`../../../tuning/proxies/${name}`, import.meta.url), "utf8");
    for (const [from, to] of replacements) {
        if (!text.includes(from)) throw new Error(`${name} has no ${JSON.stringify(from)}`);
        text = text.replaceAll(from, to);
    }
    return text;
}

function nginx(folder, port, backend) {
    const body = shipped("nginx.conf", [
        ["listen 80;", `listen 127.0.0.1:${port};`],
        ["server 127.0.0.1:8080;", `server ${backend};`],
    ]);
    const temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map((what) => `${what}_temp_path ${folder}/${what};`);
    const file = path.join(folder, "nginx.conf");
    fs.writeFileSync(file, `daemon off; worker_processes 1; pid ${folder}/pid; error_log stderr;
        events { worker_connections 4096; }
        http { access_log off; ${temporary.join(" ")}\n${body}}`);
    return ["/usr/sbin/nginx", ["-p", folder, "-e", "stderr", "-c", file]];
}

function haproxy(folder, port, backend) {
    const file = path.join(folder, "haproxy.cfg");
    fs.writeFileSync(file, shipped("haproxy.cfg", [
        ["    bind :80\n", `    bind 127.0.0.1:${port}\n`],
        ["server local 127.0.0.1:8080", `server local ${backend}`],
        // The limit on descriptors of the machine that runs the tests may allow no more.
        ["maxconn 100000", "maxconn 1000"],
    ]));
    return ["/usr/sbin/haproxy", ["-db", "-f", file]];
}

function caddy(folder, port, backend) {
    const file = path.join(folder, "Caddyfile");
    const text = shipped("Caddyfile", [
        [":80 {\n", `:${port} {\n\tbind 127.0.0.1\n`],
        ["reverse_proxy 127.0.0.1:8080", `reverse_proxy ${backend}`],
    ]);
    fs.writeFileSync(file, `{\n\tadmin off\n}\n${text}`);
    return ["/usr/bin/caddy", ["run", "--adapter", "caddyfile", "--config", file]];
}

const CONFIGURE = { nginx, haproxy, caddy };

export const PROXIES = Object.keys(CONFIGURE);

/** Starts a proxy in front of a server on a port of this host, and returns its address and what ends it. */
export async function startProxy(name, backendPort) {
    const folder = temporaryFolder();
    const port = await freePort();
    const [program, args] = CONFIGURE[name](folder, port, `127.0.0.1:${backendPort}`);
    let said = "";
    const child = spawn(program, args, "stderr", { HOME: folder });
    child.stderr.on("data", (bytes) => (said += bytes));
    const close = async () => {
        // On this signal the proxy ends its workers too.
        child.kill("SIGTERM");
        await child.ended;
    };
    await eventually(() => `${name} listens: ${said}`, () => {
        if (child.exitCode !== null) throw new Error(`${name} ended with ${child.exitCode}: ${said}`);
        return new Promise((resolve) => {
            const probe = net.connect(port, "127.0.0.1");
            probe.on("connect", () => resolve(true)).on("error", () => resolve(false)).on("connect", () => probe.destroy());
        });
    });
    return { address: `127.0.0.1:${port}`, close };
}
