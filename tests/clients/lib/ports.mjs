import net from "node:net";

/**
 * A free port below 32768. The kernel gives none of these away for port 0, so the port stays free until a program is started on
 * it, and while a server on it is being restarted.
 */
export async function freePort() {
    for (;;) {
        const port = 20_000 + Math.floor(Math.random() * 12_000);
        const probe = net.createServer();
        const isFree = await new Promise((resolve) => {
            probe.once("error", () => resolve(false));
            probe.listen(port, "127.0.0.1", () => probe.close(() => resolve(true)));
        });
        if (isFree) return port;
    }
}
