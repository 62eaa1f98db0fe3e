// A web server for the pages of the tests and the packages that they load.
import fs from "node:fs";
import http from "node:http";
import path from "node:path";
import { fileURLToPath } from "node:url";

const ROOT = fileURLToPath(new URL("..", import.meta.url));
const TYPES = { ".html": "text/html; charset=utf-8", ".js": "text/javascript", ".mjs": "text/javascript" };

/** The file that a path names. Packages name their modules without the ending. */
function find(url) {
    const file = path.join(ROOT, path.normalize(new URL(url, "http://localhost").pathname));
    return [file, `${file}.js`].find((file) => fs.statSync(file, { throwIfNoEntry: false })?.isFile());
}

/** Serves `pages/` and `node_modules/` on two origins, of which the server is to admit only the first. */
export async function servePages() {
    const serve = () => new Promise((resolve) => {
        const server = http.createServer((request, response) => {
            const file = find(request.url);
            if (!file) return response.writeHead(404).end();
            response.writeHead(200, { "Content-Type": TYPES[path.extname(file)] ?? "application/octet-stream" });
            fs.createReadStream(file).pipe(response);
        });
        server.listen(0, "127.0.0.1", () => resolve(server));
    });
    const servers = [await serve(), await serve()];
    const [admitted, refused] = servers.map((server) => `http://127.0.0.1:${server.address().port}`);
    const close = () => servers.forEach((server) => {
        server.close();
        server.closeAllConnections();
    });
    return { admitted, refused, close };
}
