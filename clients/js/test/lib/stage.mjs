import { launch } from "../../../../tests/clients/lib/browsers.mjs";
import { Server } from "../../../../tests/clients/lib/server.mjs";
import { Proxy } from "./proxy.mjs";

/** A server behind a proxy, with a browser if one is named, which may have more preferences. All of it ends with the test. */
export async function stage(t, config, browserName, preferences) {
    const server = await Server.start(config);
    const proxy = await Proxy.start(server.port);
    const browser = browserName && (await launch(browserName, preferences));
    t.after(async () => {
        await browser?.close().catch(() => {});
        proxy.close();
        await server.close();
    });
    return { server, proxy, browser };
}
