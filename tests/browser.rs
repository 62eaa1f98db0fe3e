//! A real browser against the real binary: headless Chromium, driven over WebDriver. Its pages use `EventSource`,
//! `WebSocket` and `fetch`.
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, clippy::expect_used, dead_code)]

#[path = "browser/dashboard.rs"]
mod dashboard;
#[path = "browser/demo.rs"]
mod demo;
#[path = "browser/looks.rs"]
mod looks;
#[path = "browser/secured.rs"]
mod secured;
#[path = "e2e/server.rs"]
mod server;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use fantoccini::{Client, ClientBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};

use server::{PATIENCE, Server};

/// Chromium with its driver on a free port, and a profile of its own.
struct Browser {
    driver: Driver,
    client: Client,
    _profile: tempfile::TempDir,
}

impl Browser {
    async fn open(url: &str) -> Browser {
        let driver = Driver::start();
        let profile = tempfile::tempdir().unwrap();
        let mut arguments: Vec<String> = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--disable-dev-shm-usage",
        ]
        .map(str::to_owned)
        .into();
        arguments.push(format!("--user-data-dir={}", profile.path().display()));
        let logs = json!({ "browser": "ALL" });
        // The demo's certificate is signed by itself.
        let capabilities = json!({
            "goog:chromeOptions": { "args": arguments },
            "goog:loggingPrefs": logs,
            "acceptInsecureCerts": true,
        });
        let client = ClientBuilder::new(HttpConnector::new())
            .capabilities(capabilities.as_object().unwrap().clone())
            .connect(&format!("http://127.0.0.1:{}", driver.port))
            .await
            .unwrap();
        let timeouts = fantoccini::wd::TimeoutConfiguration::new(Some(PATIENCE), Some(PATIENCE), None);
        client.update_timeouts(timeouts).await.unwrap();
        client.goto(url).await.unwrap();
        Browser { driver, client, _profile: profile }
    }

    /// Runs a script whose last argument is called with its result.
    async fn run(&self, script: &str, arguments: Vec<Value>) -> Value {
        self.client.execute_async(script, arguments).await.unwrap()
    }

    /// Waits until an expression in the page is true.
    async fn await_true(&self, expression: &str) {
        let deadline = std::time::Instant::now() + PATIENCE;
        loop {
            if self.client.execute(&format!("return Boolean({expression})"), vec![]).await.unwrap() == Value::Bool(true)
            {
                return;
            }
            let text = self.client.execute("return document.body.innerText", vec![]).await.unwrap();
            assert!(std::time::Instant::now() < deadline, "this did not become true: {expression}; {text}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn screenshot(&self, name: &str) {
        let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("screenshots");
        std::fs::create_dir_all(&folder).unwrap();
        let picture = self.client.screenshot().await.unwrap();
        std::fs::write(folder.join(name), picture).unwrap();
    }

    /// Does something that Chromium's driver offers beside WebDriver.
    async fn command(&self, path: &str, body: Value) -> Value {
        let session = self.client.session_id().await.unwrap().unwrap();
        let driver = SocketAddr::from(([127, 0, 0, 1], self.driver.port));
        let (status, answer) = request(driver, "POST", &format!("/session/{session}/{path}"), "", &body);
        assert_eq!(status, 200, "{path}: {answer}");
        answer["value"].clone()
    }

    async fn devtools(&self, command: &str, parameters: Value) {
        self.command("goog/cdp/execute", json!({ "cmd": command, "params": parameters })).await;
    }

    /// Gives the page a width, also a smaller one than a window can have.
    async fn set_width(&self, width: u32) {
        let screen = json!({ "width": width, "height": 900, "deviceScaleFactor": 1, "mobile": false });
        self.devtools("Emulation.setDeviceMetricsOverride", screen).await;
    }

    async fn set_scheme(&self, scheme: &str) {
        let feature = json!({ "name": "prefers-color-scheme", "value": scheme });
        self.devtools("Emulation.setEmulatedMedia", json!({ "features": [feature] })).await;
    }

    /// The lines of the console since the last look.
    async fn console(&self) -> Vec<String> {
        let lines = self.command("se/log", json!({ "type": "browser" })).await;
        lines.as_array().unwrap().iter().map(|line| line["message"].as_str().unwrap().to_owned()).collect()
    }

    /// The value of an expression in the page.
    async fn value(&self, expression: &str) -> Value {
        self.client.execute(&format!("return {expression}"), vec![]).await.unwrap()
    }

    /// Clicks on an element, again while something moves over it or the page replaces it.
    async fn click(&self, selector: &str) {
        let deadline = std::time::Instant::now() + PATIENCE;
        loop {
            let found = self.client.find(fantoccini::Locator::Css(selector)).await;
            let Err(error) = async { found?.click().await }.await else { return };
            assert!(std::time::Instant::now() < deadline, "{selector}: {error}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn type_into(&self, selector: &str, text: &str) {
        let element = self.client.find(fantoccini::Locator::Css(selector)).await.unwrap();
        element.clear().await.unwrap();
        element.send_keys(text).await.unwrap();
    }

    async fn close(self) {
        self.client.close().await.unwrap();
    }
}

/// The browser's WebDriver, on a port of its own.
struct Driver {
    process: Child,
    port: u16,
}

impl Driver {
    /// Starts the driver, again if it exits: it takes a port that is free on `::1`, and exits if another process has the
    /// same port on `127.0.0.1`.
    fn start() -> Driver {
        let mut said = Vec::new();
        for _ in 0..20 {
            let mut process = Command::new("chromedriver")
                .arg("--port=0")
                .stdout(Stdio::piped())
                .spawn()
                .expect("the tests need chromedriver (Debian: chromium chromium-driver)");
            let mut lines = BufReader::new(process.stdout.take().unwrap()).lines().map(|line| line.unwrap());
            for line in lines.by_ref() {
                if let Some(port) = line.strip_prefix("ChromeDriver was started successfully on port ") {
                    let port = port.trim_end_matches('.').parse().unwrap();
                    std::thread::spawn(move || lines.for_each(drop));
                    return Driver { process, port };
                }
                said.push(line);
            }
            said.push(process.wait().unwrap().to_string());
        }
        panic!("chromedriver does not start: {said:#?}");
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Makes a request with a JSON body; gives the status and the JSON answer.
fn request(address: SocketAddr, method: &str, path: &str, fields: &str, body: &Value) -> (u16, Value) {
    let body = body.to_string();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let fields = format!("{fields}Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: {address}\r\n{fields}\r\n{body}").unwrap();
    let mut reader = BufReader::new(stream);
    let (mut head, mut length) = (Vec::new(), 0);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        if line.trim().is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().unwrap();
        }
        head.push(line);
    }
    let mut answer = vec![0; length];
    reader.read_exact(&mut answer).unwrap();
    let status = head[0].split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_slice(&answer).unwrap())
}

/// Publishes on another thread, because the present one drives the browser.
async fn publish(server: &Server, channel: &str, name: Option<&str>, data: Value) -> String {
    let mut command = json!({ "op": "publish", "channel": channel, "data": data });
    if let Some(name) = name {
        command["event"] = name.into();
    }
    server.feed().call(command).unwrap()["id"].as_str().unwrap().to_owned()
}

/// For tests/systemd/run: a page of the host at `RINGCAST_BROWSE` subscribes, the test prints that it is listening, and
/// the page gets the event that the script then publishes.
#[tokio::test(flavor = "current_thread")]
#[ignore = "needs the server of tests/systemd/run"]
async fn a_page_of_another_hosts_server_gets_an_event() {
    let url = std::env::var("RINGCAST_BROWSE").expect("RINGCAST_BROWSE must be set to the server's URL");
    let browser = Browser::open(&url).await;
    let script = "
        const done = arguments[0];
        window.heard = '';
        window.source = new EventSource('/sse?channel=news');
        source.onmessage = (e) => heard = e.data;
        source.onopen = () => done(true);";
    browser.run(script, vec![]).await;
    println!("listening");
    browser.await_true("heard === 'to a browser'").await;
    browser.close().await;
}

#[tokio::test(flavor = "current_thread")]
async fn an_event_source_gets_names_and_lines_and_resumes_after_a_cut() {
    let server = Server::start_with("[http]\nretry = \"100ms\"", &["--demo"]);
    let browser = Browser::open(&format!("http://{}/", server.address)).await;
    let script = "
        const done = arguments[0];
        window.seen = []; window.opened = 0;
        window.source = new EventSource('/sse?channel=room');
        for (const name of ['message', 'tick'])
            source.addEventListener(name, (e) => seen.push([name, e.data, e.lastEventId]));
        source.onopen = () => { opened++; done(source.readyState); };";
    assert_eq!(browser.run(script, vec![]).await, json!(1));
    let first = publish(&server, "room", None, json!("one\ntwo\n\nthree")).await;
    let second = publish(&server, "room", Some("tick"), json!({ "n": [1, "ü"] })).await;
    browser.await_true("seen.length === 2").await;
    // The server cuts the stream, an event is published meanwhile, and the browser reconnects with Last-Event-ID.
    let kicked = server.feed().call(json!({ "op": "kick", "channel": "room" })).unwrap();
    assert_eq!(kicked["kicked"], 1);
    let third = publish(&server, "room", None, json!("after the cut")).await;
    browser.await_true("seen.length === 3").await;
    let fourth = publish(&server, "room", None, json!("")).await;
    browser.await_true("seen.length === 4").await;
    let seen = browser.client.execute("return [seen, opened]", vec![]).await.unwrap();
    let expected = json!([
        ["message", "one\ntwo\n\nthree", first],
        ["tick", "{\"n\":[1,\"ü\"]}", second],
        ["message", "after the cut", third],
        ["message", "", fourth]
    ]);
    assert_eq!(seen, json!([expected, 2]));
    // After `close` the page does not reconnect.
    browser.client.execute("source.close()", vec![]).await.unwrap();
    // The remaining stream is the demo page's own.
    server.await_figure("connections_sse", 1);
    browser.close().await;
}

#[tokio::test(flavor = "current_thread")]
async fn no_event_after_a_restart_of_the_server_is_lost() {
    let server = Server::start_with("[http]\nretry = \"100ms\"", &["--demo"]);
    let address = server.address;
    let browser = Browser::open(&format!("http://{address}/")).await;
    let script = "
        const done = arguments[0];
        window.seen = []; window.gaps = []; window.opened = 0;
        window.source = new EventSource('/sse?channel=room');
        source.onmessage = (e) => seen.push(e.data);
        source.addEventListener('ringcast.gap', (e) => gaps.push(e.data));
        source.onopen = () => { opened++; done(true); };";
    browser.run(script, vec![]).await;
    publish(&server, "room", None, json!("before")).await;
    browser.await_true("seen.length === 1").await;
    let folder = server.crash();
    let server = Server::start_in(folder, "[http]\nretry = \"100ms\"", &["--demo", "--listen", &address.to_string()]);
    browser.await_true("opened === 2").await;
    publish(&server, "room", None, json!("after")).await;
    browser.await_true("seen.length === 2").await;
    assert_eq!(browser.client.execute("return seen", vec![]).await.unwrap(), json!(["before", "after"]));
    browser.close().await;
}

#[tokio::test(flavor = "current_thread")]
async fn pages_of_other_origins_read_with_credentials_only_where_they_may() {
    let pages = Server::start("");
    let origin = format!("http://{}", pages.address);
    let config = format!("[http]\ncors_origins = [\"{origin}\"]\n[websocket]\norigins = [\"{origin}\"]");
    let open = Server::start(&config);
    let shut = Server::start("");
    // The demo's page may not connect to other servers, so this is another page of the same origin.
    let browser = Browser::open(&format!("{origin}/healthz")).await;
    let script = "
        const [base, done] = arguments;
        const source = new EventSource(base + '/sse?channel=a', { withCredentials: true });
        source.onopen = () => { source.close(); done('open'); };
        source.onerror = () => { source.close(); done('refused'); };";
    let url = |server: &Server| json!(format!("http://{}", server.address));
    assert_eq!(browser.run(script, vec![url(&open)]).await, "open");
    assert_eq!(browser.run(script, vec![url(&shut)]).await, "refused");
    let script = "
        const [base, done] = arguments;
        const socket = new WebSocket(base.replace('http', 'ws') + '/ws?channel=a', 'ringcast.v1');
        const told = [];
        socket.onmessage = (e) => { told.push(...Object.keys(JSON.parse(e.data))); if (told[0] === 'hello') socket.close(1000); };
        socket.onclose = (e) => done([socket.protocol, told.join(), e.code, e.wasClean, e.reason.split(':')[0]].join(' '));";
    assert_eq!(browser.run(script, vec![url(&open)]).await, "ringcast.v1 hello 1000 true ");
    // The page learns why it is refused, and the browser calls the end clean.
    assert_eq!(browser.run(script, vec![url(&shut)]).await, "ringcast.v1 bye 4003 true origin");
    let script = "
        const [base, done] = arguments;
        fetch(base + '/poll?channel=a&wait=0', { credentials: 'include' })
            .then((answer) => answer.json()).then((answer) => done(answer.gap), () => done('refused'));";
    assert_eq!(browser.run(script, vec![url(&open)]).await, false);
    assert_eq!(browser.run(script, vec![url(&shut)]).await, "refused");
    browser.close().await;
}

#[tokio::test(flavor = "current_thread")]
async fn web_sockets_and_polls_of_a_page_lose_nothing_over_a_cut() {
    let server = Server::start_with("", &["--demo"]);
    let browser = Browser::open(&format!("http://{}/", server.address)).await;
    let script = "
        const done = arguments[0];
        window.ws = []; window.poll = []; window.position = ''; window.cuts = 0;
        const connect = (after) => {
            const socket = new WebSocket(`ws://${location.host}/ws?channel=room&last_event_id=${after}`);
            let last = after;
            socket.onopen = () => window.sockets = (window.sockets || 0) + 1;
            socket.onmessage = (e) => { const m = JSON.parse(e.data); if (m.id) { last = m.id; ws.push(m.data); } };
            socket.onclose = (e) => { window.code = e.code; cuts++; connect(last); };
        };
        connect('');
        (async () => {
            let next = (await (await fetch('/poll?channel=room&wait=0')).json()).next;
            done(true);
            for (;;) {
                const answer = await (await fetch(`/poll?channel=room&after=${next}&wait=5`)).json();
                next = answer.next;
                poll.push(...answer.events.map((event) => event.data));
            }
        })();";
    browser.run(script, vec![]).await;
    browser.await_true("window.sockets === 1").await;
    let mut expected = Vec::new();
    for number in 0..50 {
        if number == 25 {
            server.feed().call(json!({ "op": "kick", "channel": "room" })).unwrap();
        }
        publish(&server, "room", None, json!({ "n": number })).await;
        expected.push(json!({ "n": number }));
    }
    browser.await_true("ws.length >= 50 && poll.length >= 50").await;
    let seen = browser.client.execute("return [ws, poll, code, cuts]", vec![]).await.unwrap();
    assert_eq!(seen, json!([expected, expected, 4003, 1]));
    browser.close().await;
}
