//! The dashboard of the admin listener.

use std::io::Write;
use std::net::TcpStream;

use serde_json::{Value, json};

use super::server::{Server, eventually};
use super::{Browser, looks, publish, request};

const TOKEN: &str = "[admin]\ntoken = \"secret\"\n";

/// Event streams that stay open until they are dropped.
fn streams(server: &Server, target: &str, count: usize) -> Vec<TcpStream> {
    let open = |_| {
        let mut client = TcpStream::connect(server.address).unwrap();
        write!(client, "GET {target} HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        client
    };
    let streams = (0..count).map(open).collect();
    server.await_figure("connections_sse", count as u64);
    streams
}

/// Opens the dashboard, and gives it the token if it asks for one.
async fn open(server: &Server, has_token: bool) -> Browser {
    let browser = Browser::open(&format!("http://{}/", server.admin)).await;
    if has_token {
        browser.await_true("!document.getElementById('form').hidden").await;
        browser.type_into("#token", "secret").await;
        browser.click("#form button").await;
    }
    browser.await_true("document.getElementById('state').textContent === 'serving'").await;
    browser
}

fn text(selector: &str) -> String {
    format!("(document.querySelector('{selector}')?.innerText ?? '')")
}

/// Clicks at the right end of a table's first row, where the row's link must be.
async fn click_row(browser: &Browser, table: &str) {
    let click = "(() => {
        const row = document.querySelector('TABLE tr:nth-child(2)');
        row?.scrollIntoView({ block: 'center' });
        const box = row?.getBoundingClientRect();
        const hit = box && document.elementFromPoint(box.right - 4, box.top + box.height / 2)?.closest('a');
        if (!hit || hit.closest('tr') !== row) return false;
        hit.click();
        return true;
    })()";
    browser.await_true(&click.replace("TABLE", table)).await;
}

#[tokio::test(flavor = "current_thread")]
async fn it_shows_the_servers_figures_and_does_not_count_itself() {
    let server = Server::start_with(TOKEN, &["--demo", "--shards", "2"]);
    let clients = streams(&server, "/sse?channel=demo:clock,demo:ticker", 30);
    let browser = open(&server, true).await;
    let body = text("body");
    browser.await_true(&format!("{body}.includes('demo:ticker') && {body}.includes('2 shards')")).await;
    browser.await_true(&format!("parseFloat({}) > 0", text("#deliveries"))).await;
    browser.await_true(&format!("{}.includes('ms')", text("#latency"))).await;
    assert_eq!(browser.value(&text("#connections")).await, "30");
    assert_eq!(browser.value(&text("#transports")).await, "30 sse, 0 ws, 0 poll, 0 http");
    assert_eq!(browser.value("document.querySelectorAll('#shards tr').length").await, 3);
    // Ended connections are counted by reason.
    drop(clients);
    browser.await_true(&format!("/client|broken/.test({})", text("#closed"))).await;
    browser.await_true(&format!("{} === '0'", text("#connections"))).await;
    assert_eq!(browser.value("document.getElementById('state').className").await, "pill good");
    browser.close().await;
}

#[tokio::test(flavor = "current_thread")]
async fn it_fits_every_screen_in_both_schemes_with_an_empty_console() {
    let server = Server::start_with(TOKEN, &["--demo"]);
    let _clients = streams(&server, "/sse?channel=demo:clock,demo:ticker", 3);
    let browser = Browser::open(&format!("http://{}/", server.admin)).await;
    browser.await_true("!document.getElementById('form').hidden").await;
    looks::check(&browser, "dashboard-token").await;
    browser.type_into("#token", "secret").await;
    browser.click("#form button").await;
    browser.await_true(&format!("{}.includes('demo:ticker')", text("#channels"))).await;
    browser.await_true("document.querySelectorAll('#slowest a').length === 3").await;
    looks::check(&browser, "dashboard").await;
    browser.client.execute("location.hash = 'channel/demo:ticker'", vec![]).await.unwrap();
    browser.await_true("document.querySelectorAll('#trace time').length > 5").await;
    browser.await_true("document.querySelectorAll('#subscribers a').length === 3").await;
    looks::check(&browser, "dashboard-channel").await;
    browser.click("#subscribers a").await;
    browser.await_true("document.querySelectorAll('#tcp dd').length > 5").await;
    looks::check(&browser, "dashboard-connection").await;
    browser.close().await;
}

#[tokio::test(flavor = "current_thread")]
async fn charts_grow_from_the_right_edge_and_tell_scale_and_values() {
    let server = Server::start_with("", &["--demo"]);
    let _clients = streams(&server, "/sse?channel=demo:ticker", 30);
    let browser = open(&server, false).await;
    let spots = "document.querySelector('#connections-line .line').getAttribute('d').slice(1).split('L')";
    browser.await_true(&format!("{spots}.length > 2")).await;
    // The newest value is at the right edge, and the place of what was not measured is empty.
    let ends = browser.value(&format!("[{spots}.at(0), {spots}.at(-1)].map(parseFloat)")).await;
    assert!(ends[0].as_f64() > Some(400.0) && ends[1] == 600.0, "{ends}");
    // The scale ends at a round number that is not below the values.
    assert_eq!(browser.value(&text("#connections-line .top")).await, "50");
    let label = "document.getElementById('connections-line').getAttribute('aria-label')";
    assert_eq!(browser.value(label).await, "Connections: 30 now, 30 at most in the last minute");
    let tip = "document.querySelector('#connections-line .tip')";
    assert_eq!(browser.value(&format!("{tip}.hidden")).await, true);
    let hover = "
        const chart = document.getElementById('connections-line'), box = chart.getBoundingClientRect();
        const at = { clientX: box.right - 1, clientY: box.top + 20, bubbles: true };
        chart.dispatchEvent(new PointerEvent('pointermove', at));
        return chart.querySelector('.tip').textContent;";
    assert_eq!(browser.client.execute(hover, vec![]).await.unwrap(), "30, now");
    browser.await_true(&format!("!{tip}.hidden")).await;
    let away = "document.getElementById('connections-line').dispatchEvent(new PointerEvent('pointerleave'))";
    browser.client.execute(away, vec![]).await.unwrap();
    assert_eq!(browser.value(&format!("{tip}.hidden")).await, true);
    // The arrow keys do what the pointer does.
    browser.client.execute("document.getElementById('connections-line').focus()", vec![]).await.unwrap();
    let chart = browser.client.find(fantoccini::Locator::Css("#connections-line")).await.unwrap();
    chart.send_keys("\u{e012}").await.unwrap();
    browser.await_true(&format!("/^30, \\d+ s ago$/.test({tip}.textContent)")).await;
    browser.close().await;
}

#[tokio::test(flavor = "current_thread")]
async fn a_row_leads_to_its_channel_and_to_its_connection() {
    let server = Server::start("");
    let _clients = streams(&server, "/sse?channel=room:1,room:2", 2);
    publish(&server, "room:1", None, json!("first")).await;
    let browser = open(&server, false).await;
    browser.await_true("document.querySelector('#channels a')?.textContent === 'room:1'").await;
    // The whole row leads there, and not the name alone.
    click_row(&browser, "#channels").await;
    browser.await_true(&format!("{} === 'room:1'", text("#title"))).await;
    browser.await_true("document.querySelectorAll('#subscribers a').length === 2").await;
    // The trace begins with the page, so events are published until one of them is shown.
    let mut last = String::new();
    let shown = "document.querySelector('#trace time') !== null";
    while browser.value(shown).await == false {
        last = publish(&server, "room:1", Some("tick"), json!({ "traced": true })).await;
    }
    browser.await_true(&format!("{}.includes('tick') && {0}.includes('\"traced\":true')", text("#trace"))).await;
    click_row(&browser, "#subscribers").await;
    browser.await_true(&format!("/^\\d+\\.\\d+\\.\\d+$/.test({})", text("#title"))).await;
    browser.await_true(&format!("{}.includes('{last}')", text("#cursors"))).await;
    browser.await_true(&format!("{}.includes('room:2') && {0}.includes('0 B')", text("#cursors"))).await;
    browser
        .await_true(&format!("{}.includes('round trip') && {}.includes('127.0.0.1')", text("#tcp"), text("#facts")))
        .await;
    let next = publish(&server, "room:2", None, json!("x")).await;
    browser
        .await_true(&format!(
            "{}.includes('1 event, room:2 up to {next}') && {}.includes('{next}')",
            text("#trace"),
            text("#cursors")
        ))
        .await;
    // The way back is a link, and the address names the page.
    browser.click(".title a").await;
    browser.await_true("document.getElementById('overview').checkVisibility() && location.hash === ''").await;
    assert_eq!(browser.console().await, Vec::<String>::new());
    browser.close().await;
}

#[tokio::test(flavor = "current_thread")]
async fn with_the_token_it_kicks_drains_and_sets_the_log_level() {
    let server = Server::start(&format!("{TOKEN}[feed]\nallow_users = [\"{}\"]", own_user()));
    let _clients = streams(&server, "/sse?channel=room", 3);
    let browser = open(&server, true).await;
    let conn = server.feed().call(json!({ "op": "connections" })).unwrap()["connections"][0]["conn"].clone();
    browser.type_into("#wanted", conn.as_str().unwrap()).await;
    browser.click("#find button").await;
    browser.await_true("document.querySelectorAll('#tcp dd').length > 5").await;
    browser.click("#kick").await;
    browser.type_into("#reason", "out you go").await;
    browser.click("#sure-yes").await;
    browser.await_true(&format!("{} === '1 connection was ended.'", text("#told"))).await;
    browser.await_true(&format!("{}.includes('kicked')", text("#trace"))).await;
    server.await_figure("connections_sse", 2);
    // A question that is answered with no changes nothing.
    browser.click("#drain").await;
    browser.click("#sure-no").await;
    browser.click("#drain").await;
    browser.click("#sure-yes").await;
    browser.await_true(&format!("{} === 'takes no new clients'", text("#state"))).await;
    server.await_figure("connections_sse", 0);
    browser.await_true(&format!("{} === 'take clients again'", text("#drain"))).await;
    browser.click("#drain").await;
    browser.await_true(&format!("{} === 'serving'", text("#state"))).await;
    let level = "const level = document.getElementById('level'); level.value = 'debug'; level.dispatchEvent(new Event('change'))";
    browser.client.execute(level, vec![]).await.unwrap();
    browser.await_true(&format!("{}.includes('debug')", text("#told"))).await;
    let token = "Authorization: Bearer secret\r\n";
    let log = || request(server.admin, "GET", "/v1/log", token, &Value::Null).1;
    assert_eq!(log(), json!({ "level": "debug" }));
    let lines = || {
        server.log.lock().unwrap().iter().any(|line| line["message"] == "draining was switched over the admin listener")
    };
    eventually("the log has a line about the drain", || lines().then_some(()));
    browser.close().await;
    // Without a token, and where the feed is for some users alone, the page only shows.
    let server = Server::start(&format!("[feed]\nallow_users = [\"{}\"]", own_user()));
    let _clients = streams(&server, "/sse?channel=room", 1);
    let browser = open(&server, false).await;
    browser.await_true("document.querySelectorAll('#slowest a').length === 1").await;
    browser.click("#slowest a").await;
    browser.await_true("document.querySelectorAll('#tcp dd').length > 5").await;
    let visible = "['#kick', '#drain', '#level', '#wanted'].map((id) => document.querySelector(id).checkVisibility())";
    assert_eq!(browser.value(visible).await, json!([false, false, false, true]));
    assert_eq!(browser.console().await, Vec::<String>::new());
    browser.close().await;
}

/// The user that the tests, and so their servers, run as.
fn own_user() -> u32 {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").unwrap().uid()
}
