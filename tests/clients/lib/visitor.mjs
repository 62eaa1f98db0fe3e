import { eventually, PATIENCE } from "./wait.mjs";

/** A browser's user, who has one page open and no other one's cookies, connections or storage. */
export class Visitor {
    /** Opens a page, which is closed at the end of the test. */
    static async open(browser, url, test) {
        const context = await browser.createBrowserContext();
        test.after(() => context.close());
        const visitor = new Visitor();
        visitor.page = await context.newPage();
        await visitor.page.goto(url);
        return visitor;
    }

    /** Opens an event stream in the page and waits until the server has welcomed it. */
    async subscribe(url, options) {
        const index = await this.openStream(url, options);
        await this.awaitRecord(index, "the stream is open", (record) => told(record, "ringcast.hello").length > 0);
        return index;
    }

    openStream(url, options) {
        return this.page.evaluate((url, options) => window.openStream(url, options), url, options);
    }

    openSocket(url, isKept) {
        return this.page.evaluate((url, isKept) => window.openSocket(url, isKept), url, isKept);
    }

    /** Returns the record of a stream or a WebSocket. */
    look(index) {
        return this.page.evaluate((index) => window.look(index), index);
    }

    /** Waits until a record satisfies a condition, and returns it. */
    async awaitRecord(index, what, condition, patience = PATIENCE) {
        let record;
        const describe = () => `${what}; the page has seen ${JSON.stringify(record).slice(0, 2000)}`;
        return eventually(describe, async () => {
            record = await this.look(index);
            return condition(record) && record;
        }, patience);
    }
}

/** The data of the events of one name that a page was told. */
export function told(record, name) {
    return record.events.filter((event) => event.name === name).map(({ data }) => data);
}
