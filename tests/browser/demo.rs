//! The page of `serve --demo`.

use serde_json::{Value, json};

use super::server::{PATIENCE, Server, eventually};
use super::{Browser, looks, publish, request};

const PANELS: [&str; 3] = ["event-stream", "WebSocket", "long-poll"];
const QUICK: &str = "[http]\nretry = \"100ms\"\n";

async fn open(server: &Server) -> Browser {
    Browser::open(&format!("http://{}/", server.address)).await
}

fn part(panel: &str, part: &str) -> String {
    format!("document.querySelector('#{panel} [data-part={part}]').textContent")
}

/// Waits until a part of every panel has a text that matches.
async fn await_parts(browser: &Browser, name: &str, pattern: &str) {
    for panel in PANELS {
        browser.await_true(&format!("/{pattern}/.test({})", part(panel, name))).await;
    }
}

/// The texts of a part in the panels.
async fn parts(browser: &Browser, name: &str) -> Value {
    browser.value(&format!("[{}]", PANELS.map(|panel| part(panel, name)).join(","))).await
}

/// Has the page subscribe to channels.
async fn subscribe(browser: &Browser, channels: &str) {
    browser.type_into("#channels", channels).await;
    browser.click("#form button").await;
}

async fn press_all(browser: &Browser, label: &str) {
    for panel in PANELS {
        browser.await_true(&format!("{} === '{label}'", part(panel, "button"))).await;
        browser.click(&format!("#{panel} [data-part=button]")).await;
    }
}

#[tokio::test(flavor = "current_thread")]
async fn after_a_restart_it_has_caught_up_and_neither_lost_nor_repeated_anything() {
    let mut server = Server::start_with(QUICK, &["--demo"]);
    let address = server.address;
    let browser = open(&server).await;
    for is_crash in [true, false] {
        await_parts(&browser, "state", "^open$").await;
        await_parts(&browser, "total", "^[1-9][0-9]").await;
        let folder = if is_crash { server.crash() } else { server.stop() };
        await_parts(&browser, "state", "^(waiting|closed)$").await;
        server = Server::start_in(folder, QUICK, &["--demo", "--listen", &address.to_string()]);
        await_parts(&browser, "told", "^resumed, caught up [0-9]+, after a gap$").await;
        // The new run counts from 1 again.
        browser.await_true("Object.values(clients[0].numbers).every(({ n }) => n < 200)").await;
        assert_eq!(parts(&browser, "lost").await, json!(["0", "0", "0"]));
        assert_eq!(parts(&browser, "repeated").await, json!(["0", "0", "0"]));
    }
    browser.close().await;
}

#[tokio::test(flavor = "current_thread")]
async fn a_client_that_was_cut_catches_up() {
    let server = Server::start_with("", &["--demo"]);
    let browser = open(&server).await;
    await_parts(&browser, "total", "^[1-9]").await;
    press_all(&browser, "cut").await;
    assert_eq!(parts(&browser, "state").await, json!(["cut", "cut", "cut"]));
    for number in 0..3 {
        publish(&server, "demo:chat", Some("message"), json!(format!("missed {number}"))).await;
    }
    press_all(&browser, "resume").await;
    await_parts(&browser, "told", "^resumed, caught up [3-9]").await;
    assert_eq!(parts(&browser, "lost").await, json!(["0", "0", "0"]));
    assert_eq!(parts(&browser, "repeated").await, json!(["0", "0", "0"]));
    browser.close().await;
}

#[tokio::test(flavor = "current_thread")]
async fn it_shows_why_the_server_refuses() {
    let server = Server::start_with("", &["--demo"]);
    let browser = open(&server).await;
    await_parts(&browser, "total", "^[1-9]").await;
    subscribe(&browser, "no name").await;
    await_parts(&browser, "state", "^refused$").await;
    await_parts(&browser, "told", "a channel name holds.*bad_(query|channel)").await;
    // Another name is another attempt.
    subscribe(&browser, "demo:ticker").await;
    await_parts(&browser, "total", "^[1-9]").await;
    await_parts(&browser, "state", "^open$").await;
    // A server that takes nobody is asked again, with its own words on the page.
    let drain = |draining: bool| request(server.admin, "PUT", "/v1/drain", "", &json!({ "draining": draining }));
    assert_eq!(drain(true).0, 200);
    await_parts(&browser, "state", "^(waiting|closed)$").await;
    await_parts(&browser, "told", "going away.*again in").await;
    assert_eq!(drain(false).0, 200);
    await_parts(&browser, "told", "^resumed, caught up").await;
    assert_eq!(parts(&browser, "lost").await, json!(["0", "0", "0"]));
    // A server that is gone gives no words.
    drop(server);
    await_parts(&browser, "told", "trying again").await;
    browser.close().await;
    let server = Server::start_with(
        "[auth]\nkeys = [{ alg = \"HS256\", secret = \"0123456789abcdef0123456789abcdef\" }]",
        &["--demo"],
    );
    let browser = open(&server).await;
    await_parts(&browser, "state", "^refused$").await;
    await_parts(&browser, "told", "token.*unauthorized").await;
    browser.close().await;
}

#[tokio::test(flavor = "current_thread")]
async fn it_shows_goodbyes_ends_and_gaps() {
    let server = Server::start_with(&format!("{QUICK}[namespace.short]\nhistory_events = 1"), &["--demo"]);
    let browser = open(&server).await;
    subscribe(&browser, "short:1").await;
    await_parts(&browser, "state", "^open$").await;
    publish(&server, "short:1", None, json!("before")).await;
    await_parts(&browser, "total", "^1$").await;
    let kick = json!({ "op": "kick", "channel": "short:1", "reason": "maintenance" });
    // A poll hears of a kick only while it waits at the server.
    eventually("all three are kicked", || (server.figure("connections_poll") == 1).then_some(()));
    assert_eq!(server.feed().call(kick).unwrap()["kicked"], 3);
    // A client that is kicked comes back only if somebody wants it. A poll is not told why it ends.
    for panel in ["event-stream", "WebSocket"] {
        browser.await_true(&format!("{}.includes('maintenance (kicked)')", part(panel, "list"))).await;
        browser.await_true(&format!("{} === 'refused'", part(panel, "state"))).await;
        browser.await_true(&format!("{} === 'try again'", part(panel, "button"))).await;
        browser.click(&format!("#{panel} [data-part=button]")).await;
    }
    await_parts(&browser, "state", "^open$").await;
    press_all(&browser, "cut").await;
    for number in 0..5 {
        publish(&server, "short:1", None, json!(number)).await;
    }
    // The position is older than everything that the server has kept.
    browser.client.execute("for (const client of clients) client.id = '1-0'", vec![]).await.unwrap();
    press_all(&browser, "resume").await;
    await_parts(&browser, "told", "^resumed, caught up 1, after a gap$").await;
    await_parts(&browser, "gaps", "^1$").await;
    await_parts(&browser, "list", "no longer has").await;
    publish(&server, "short:1", None, json!("last")).await;
    await_parts(&browser, "list", "last").await;
    server.feed().call(json!({ "op": "end", "channel": "short:1" })).unwrap();
    await_parts(&browser, "list", "short:1 has ended").await;
    await_parts(&browser, "state", "^ended$").await;
    browser.close().await;
}

#[tokio::test(flavor = "current_thread")]
async fn visitors_publish_within_bounds() {
    let server = Server::start_with("", &["--demo"]);
    let browser = open(&server).await;
    let say = async |text: &str| {
        browser.await_true("!document.getElementById('line').disabled").await;
        browser.type_into("#line", text).await;
        browser.click("#say button").await;
    };
    await_parts(&browser, "state", "^open$").await;
    say("<b>hi</b> there").await;
    await_parts(&browser, "list", "“<b>hi<.b> there”").await;
    browser.await_true("document.getElementById('said').textContent === 'published to demo:chat'").await;
    assert_eq!(browser.value("document.getElementById('line').value").await, "");
    let history = server.feed().call(json!({ "op": "history", "channel": "demo:chat" })).unwrap();
    let said = history["events"].as_array().unwrap().iter().find(|event| event["data"]["visitor"] == true).unwrap();
    assert_eq!((&said["data"]["text"], &said["event"]), (&"<b>hi</b> there".into(), &"message".into()));
    // The field takes no more characters than the server does.
    assert_eq!(browser.value("document.getElementById('line').maxLength").await, 200);
    let deadline = std::time::Instant::now() + PATIENCE;
    while browser.value("document.getElementById('said').textContent.startsWith('that is too fast')").await == false {
        assert!(std::time::Instant::now() < deadline, "a flood of lines was not refused");
        say("again").await;
    }
    browser.close().await;
}

#[tokio::test(flavor = "current_thread")]
async fn an_answer_is_streamed_over_a_cut_and_can_be_stopped() {
    let server = Server::start_with(QUICK, &["--demo"]);
    let browser = open(&server).await;
    let text = "document.getElementById('answer').textContent";
    let ask = async |label: &str| {
        browser
            .await_true(&format!(
                "!document.getElementById('ask').disabled && document.getElementById('ask').textContent === '{label}'"
            ))
            .await;
        browser.click("#ask").await;
    };
    ask("ask").await;
    browser.await_true(&format!("{text}.includes('good question')")).await;
    let end = "because each word has an id.";
    assert_eq!(browser.value(&format!("{text}.includes('{end}')")).await, false, "the answer comes word by word");
    // All of the page's connections are cut, and come back.
    browser.client.execute("for (const client of clients) client.cut()", vec![]).await.unwrap();
    browser.client.execute("dispatchEvent(new Event('pagehide')); dispatchEvent(new PageTransitionEvent('pageshow', { persisted: true }))", vec![]).await.unwrap();
    browser.await_true(&format!("{text}.endsWith('{end}')")).await;
    let whole = browser.value(text).await;
    assert!(
        whole.as_str().unwrap().starts_with("You ask: “Why is nothing lost?” That is a good question. These words are"),
        "{whole}"
    );
    // A second one is stopped.
    ask("ask").await;
    browser
        .await_true(&format!("{text}.startsWith('You ask') && !{text}.includes('{end}') && {text}.length > 30"))
        .await;
    ask("stop").await;
    browser.await_true("document.getElementById('ask').textContent === 'ask'").await;
    // The backend has ended the answer's channel, on which nothing is to come.
    let status = "
        const done = arguments[0], { run } = Object.values(clients[0].numbers)[0];
        const ask = async () => {
            const stop = new AbortController();
            const { status } = await fetch(`/sse?channel=demo:answer-${run}-2`, { signal: stop.signal });
            stop.abort();
            status === 204 ? done(status) : setTimeout(ask, 50);
        };
        ask();";
    assert_eq!(browser.run(status, vec![]).await, 204);
    assert_eq!(browser.value(&format!("{text}.includes('{end}')")).await, false);
    browser.close().await;
}

#[tokio::test(flavor = "current_thread")]
async fn its_figures_move() {
    let server = Server::start_with("", &["--demo"]);
    let browser = open(&server).await;
    let figure = |id: &str| format!("parseFloat(document.getElementById('{id}').textContent)");
    browser.await_true(&format!("{} > 0 && {} >= 3", figure("deliveries"), figure("connections"))).await;
    let events = browser.value(&figure("events")).await.as_f64().unwrap();
    browser.await_true(&format!("{} > {events}", figure("events"))).await;
    browser
        .await_true("document.querySelector('#deliveries-line .line').getAttribute('d').split('L').length > 2")
        .await;
    browser.close().await;
}

#[tokio::test(flavor = "current_thread")]
async fn its_three_lines_of_code_work_and_can_be_copied() {
    let server = Server::start_with("", &["--demo"]);
    let browser = open(&server).await;
    subscribe(&browser, "room").await;
    await_parts(&browser, "state", "^open$").await;
    for panel in PANELS {
        let code = browser.value(&part(panel, "code")).await;
        let code = code.as_str().unwrap();
        assert_eq!(code.lines().count(), 3, "{code}");
        // What the button has copied is pasted into the page's field.
        browser.click(&format!("#{panel} [data-part=copy]")).await;
        browser.await_true(&format!("{} === 'copied'", part(panel, "copy"))).await;
        browser.type_into("#channels", "\u{e009}v").await;
        let pasted = browser.value("document.getElementById('channels').value").await;
        assert_eq!(
            pasted.as_str().unwrap().split_whitespace().collect::<String>(),
            code.split_whitespace().collect::<String>()
        );
        // The code runs as it is: what it logs is caught.
        let run = format!(
            "console.log = (...told) => (window.logged ??= []).push(JSON.stringify(told)); window.logged = [];\n(async () => {{ {code} }})();"
        );
        browser.client.execute(&run, vec![]).await.unwrap();
        let deadline = std::time::Instant::now() + PATIENCE;
        while browser.value(&format!("logged.some((line) => line.includes('to the code of {panel}'))")).await == false {
            assert!(std::time::Instant::now() < deadline, "the code logs nothing: {code}");
            publish(&server, "room", None, json!(format!("to the code of {panel}"))).await;
        }
    }
    browser.close().await;
}

#[tokio::test(flavor = "current_thread")]
async fn it_fits_every_screen_in_both_schemes_with_an_empty_console() {
    let server = Server::start_with("", &["--demo"]);
    let browser = open(&server).await;
    await_parts(&browser, "total", "^[1-9]").await;
    browser.await_true("document.getElementById('deliveries').textContent !== '–'").await;
    looks::check(&browser, "demo").await;
    press_all(&browser, "cut").await;
    press_all(&browser, "resume").await;
    await_parts(&browser, "told", "^resumed").await;
    looks::check(&browser, "demo-resumed").await;
    browser.close().await;
}
