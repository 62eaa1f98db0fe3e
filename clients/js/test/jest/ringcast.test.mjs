import { connect } from "../../dist/ringcast.js";

test("a client is made without a page", () => {
    const rc = connect("https://push.example.com");
    expect(rc.state).toEqual({ name: "idle" });
    rc.close();
    expect(rc.state.name).toBe("closed");
});
