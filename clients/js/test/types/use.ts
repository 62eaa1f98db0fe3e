// The package as a program sees it: this file is checked against the built types, and the lines with an error must have one.
import { connect, type RingcastEvent } from "ringcast";
import { connect as connectSse } from "ringcast/sse";
import { useChannel, useLatest } from "ringcast/react";
import { RingcastConnector } from "ringcast/echo";

interface Order {
    total: number;
}
type Map = { "orders:*": Order; news: string };

const rc = connect<Map>("/push", { token: async () => "t", share: true });
rc.subscribe("orders:1", (event) => event.data.total.toFixed(), { after: null, event: "paid" });
rc.subscribe("news", ({ data }) => data.toUpperCase());
// @ts-expect-error: there is no such channel
rc.subscribe("other", () => {});
// @ts-expect-error: news are texts
rc.subscribe("news", ({ data }) => data.total);
export async function all(): Promise<void> {
    for await (const event of rc.events("orders:2")) event satisfies RingcastEvent<Order>;
    for await (const chunk of rc.stream("news")) chunk.length;
    const id: string = await rc.publish("news", "text");
    rc.on("gap", ({ channels, after, resumed }) => [channels.join(), after, resumed, id]);
    using other = connect("/push");
    other.subscribe("any", ({ data }) => data.what.ever);
}
connectSse("/push").subscribe("a", () => {});
// @ts-expect-error: event streams carry no messages of clients
connectSse("/push").send;
export const Component = () => {
    useChannel(rc, "news", ({ data }) => data.length);
    return useLatest(rc, "orders:3")?.data.total;
};
new RingcastConnector({ host: "https://push.example.com" }).channel("orders").listen("Paid", () => {});
