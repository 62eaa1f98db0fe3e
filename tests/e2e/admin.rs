//! The admin listener: the API and the document that describes it, metrics, and the permissions.

use std::os::unix::fs::MetadataExt;

use serde_json::{Value, json};

use super::clients::{Answer, Http, Stream, get};
use super::server::{Server, eventually};

const JSON: &str = "Content-Type: application/json\r\n";

fn send(server: &Server, method: &str, target: &str, fields: &str, body: &str) -> Answer {
    let fields = format!("{fields}Content-Length: {}\r\n", body.len());
    let mut http = Http::connect(server.admin);
    http.send(&format!("{method} {target} HTTP/1.1\r\nHost: 127.0.0.1\r\n{fields}\r\n{body}"));
    http.answer(method == "HEAD")
}

pub fn call(server: &Server, method: &str, target: &str, body: &Value) -> (u16, Value) {
    let answer = send(server, method, target, JSON, &body.to_string());
    (answer.status, answer.json())
}

fn ask(server: &Server, target: &str) -> Value {
    let answer = get(server.admin, target);
    assert_eq!(answer.status, 200, "{target}: {}", answer.body);
    answer.json()
}

/// Checks an answer against the document's description of the operation.
fn is_as_described(document: &Value, (method, path): (&str, &str), answer: &Answer) {
    let operation = &document["paths"][path][method];
    assert!(operation.is_object(), "the document has no {method} {path}");
    let status = answer.status;
    let mut response = &operation["responses"][status.to_string()];
    if let Some(name) = response["$ref"].as_str() {
        response = document.pointer(&name[1..]).unwrap();
    }
    let media = answer.header("content-type").unwrap().split(';').next().unwrap();
    let schema = &response["content"][media]["schema"];
    assert!(schema.is_object(), "{method} {path}: {status} as {media} is not in the document: {}", answer.body);
    let value = if media == "application/json" { answer.json() } else { answer.body.clone().into() };
    let mut schema = schema.clone();
    schema["components"] = document["components"].clone();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let errors: Vec<String> = validator.iter_errors(&value).map(|error| error.to_string()).collect();
    assert!(errors.is_empty(), "{method} {path}: {errors:?} in {value}");
}

#[test]
fn every_path_answers_as_the_document_says() {
    let server = Server::start("[namespace.room]\npresence = true");
    let mut stream = Stream::open(server.address, "/sse?channel=room:1");
    let conn = ask(&server, "/v1/connections")["connections"][0]["conn"].as_str().unwrap().to_owned();
    let document = ask(&server, "/v1/openapi.json");
    let mut tried = 0;
    // An example of each operation, with the status that it must be answered with.
    let cases = [
        ("get", "/healthz", "/healthz".to_owned(), None, 200),
        ("get", "/readyz", "/readyz".into(), None, 200),
        ("get", "/v1/openapi.json", "/v1/openapi.json".into(), None, 200),
        ("get", "/v1/stats", "/v1/stats".into(), None, 200),
        ("get", "/metrics", "/metrics".into(), None, 200),
        ("post", "/v1/publish", "/v1/publish".into(), Some(json!({ "channel": "room:1", "data": { "z": 1 } })), 200),
        ("post", "/v1/publish", "/v1/publish".into(), Some(json!({ "channels": ["a", "b"], "data": "x" })), 200),
        ("post", "/v1/publish", "/v1/publish".into(), Some(json!({ "items": [{ "channel": "a", "data": 1 }] })), 200),
        ("post", "/v1/publish", "/v1/publish".into(), Some(json!({ "channel": "a b", "data": 1 })), 400),
        ("post", "/v1/publish", "/v1/publish".into(), Some(json!({ "op": "kick", "user": "u" })), 400),
        ("get", "/v1/channels", "/v1/channels?limit=5".into(), None, 200),
        ("get", "/v1/channels", "/v1/channels?prefix=room".into(), None, 200),
        ("get", "/v1/channels", "/v1/channels?limit=many".into(), None, 400),
        ("get", "/v1/channels/{channel}/history", "/v1/channels/room:1/history?limit=10".into(), None, 200),
        ("get", "/v1/channels/{channel}/history", "/v1/channels/room:1/history?after=x".into(), None, 400),
        ("get", "/v1/channels/{channel}/presence", "/v1/channels/room:1/presence".into(), None, 200),
        ("get", "/v1/connections", "/v1/connections?channel=room:1&order=slowest".into(), None, 200),
        ("get", "/v1/connections", "/v1/connections?address=127.0.0.1&user=nobody".into(), None, 200),
        ("get", "/v1/connections", "/v1/connections?address=here".into(), None, 400),
        ("get", "/v1/connections/{conn}", format!("/v1/connections/{conn}"), None, 200),
        ("get", "/v1/connections/{conn}", "/v1/connections/0.9999.1".into(), None, 404),
        ("get", "/v1/connections/{conn}", "/v1/connections/77.0.1".into(), None, 404),
        ("get", "/v1/drain", "/v1/drain".into(), None, 200),
        ("put", "/v1/drain", "/v1/drain".into(), Some(json!({ "draining": false })), 200),
        ("put", "/v1/drain", "/v1/drain".into(), Some(json!({ "draining": "yes" })), 400),
        ("get", "/v1/log", "/v1/log".into(), None, 200),
        ("put", "/v1/log", "/v1/log".into(), Some(json!({ "level": "info,ringcast::shard=debug" })), 200),
        ("put", "/v1/log", "/v1/log".into(), Some(json!({ "level": "a=b=c" })), 400),
        ("post", "/v1/kick", "/v1/kick".into(), Some(json!({ "conn": conn })), 200),
        ("post", "/v1/kick", "/v1/kick".into(), Some(json!({})), 400),
    ];
    for (method, path, target, body, status) in &cases {
        let answer = match body {
            Some(body) => send(&server, &method.to_uppercase(), target, JSON, &body.to_string()),
            None => get(server.admin, target),
        };
        assert_eq!(answer.status, *status, "{method} {target}: {}", answer.body);
        is_as_described(&document, (method, path), &answer);
        tried += 1;
    }
    assert_eq!(tried, cases.len());
    // The document describes no operation that is not tried.
    for (path, methods) in document["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys() {
            // The endless streams are tested elsewhere.
            let is_endless = path == "/v1/live" || path.ends_with("/trace");
            let is_tried = cases.iter().any(|case| (case.0, case.1) == (&**method, &**path)) || is_endless;
            assert!(is_tried, "{method} {path} is described and not tried");
        }
    }
    assert_eq!(stream.next().unwrap().data, "{\"z\":1}");
}

#[test]
fn errors_are_as_the_document_says() {
    let server = Server::start("[feed]\nmax_line = \"64KiB\"");
    let document = ask(&server, "/v1/openapi.json");
    let refused = |method: &str, path: &str, target: &str, fields: &str, body: &str| {
        let answer = send(&server, &method.to_uppercase(), target, fields, body);
        is_as_described(&document, (method, path), &answer);
        (answer.status, answer.json()["error"]["code"].as_str().unwrap().to_owned())
    };
    let too_long = (413, "too_long".to_owned());
    let max = 64 << 10;
    let publish = |fields: &str, body: &str| refused("post", "/v1/publish", "/v1/publish", fields, body);
    let event = |length: usize| {
        let around = json!({ "channel": "a", "data": "" }).to_string().len();
        json!({ "channel": "a", "data": "x".repeat(length - around) }).to_string()
    };
    // The body is too long by itself, or the feed's line is: body, op, reference and key.
    for length in [50 * max, max + 1, max, max - 20] {
        assert_eq!(publish(JSON, &event(length)), too_long, "{length}");
    }
    let fits = event(max - 60);
    assert_eq!(publish(&format!("{JSON}Idempotency-Key: {}\r\n", "k".repeat(60)), &fits), too_long);
    assert_eq!(send(&server, "POST", "/v1/publish", JSON, &fits).status, 200);
    for (method, path) in [("put", "/v1/log"), ("put", "/v1/drain"), ("post", "/v1/kick")] {
        assert_eq!(refused(method, path, path, JSON, &" ".repeat(max + 1)), too_long, "{path}");
    }
    assert_eq!(publish("", &fits), (415, "media_type".into()));
    let history = "/v1/channels/{channel}/history";
    assert_eq!(refused("get", history, "/v1/channels/%ff/history", "", ""), (400, "bad_field".into()));
    // A failure of the server is answered with 503: here a folder has the name of the server's file.
    std::fs::remove_file(server.feed_path.with_extension("revoked")).unwrap();
    std::fs::create_dir(server.feed_path.with_extension("revoked")).unwrap();
    let kicked = refused("post", "/v1/kick", "/v1/kick", JSON, &json!({ "jti": "lost" }).to_string());
    assert_eq!(kicked, (503, "not_kept".into()));
}

#[test]
fn publishing_over_the_api_is_publishing_over_the_feed() {
    let server = Server::start("");
    let mut stream = Stream::open(server.address, "/sse?channel=a");
    // Data keeps the publisher's order of members; only white space is removed.
    let body = "{\"channel\":\"a\",\n \"data\":{\"z\": 1, \"a\": [1.50, 1e3]},\"event\":\"e\"}";
    let answer = send(&server, "POST", "/v1/publish", JSON, body);
    let event = stream.next().unwrap();
    assert_eq!((event.name.as_str(), event.data.as_str()), ("e", "{\"z\":1,\"a\":[1.50,1e3]}"));
    assert_eq!(answer.json()["id"], event.id.as_str());
    // An idempotency key is the same one in the feed's line, in the body and in the header.
    let (_, first) = call(&server, "POST", "/v1/publish", &json!({ "channel": "a", "data": 1, "key": "k" }));
    let header = send(
        &server,
        "POST",
        "/v1/publish",
        &format!("{JSON}Idempotency-Key: k\r\n"),
        &json!({ "channel": "a", "data": 1 }).to_string(),
    );
    let feed = server.feed().call(json!({ "op": "publish", "channel": "a", "data": 1, "key": "k" })).unwrap();
    assert_eq!((&header.json()["id"], &feed["id"]), (&first["id"], &first["id"]));
    // A batch is published as a whole or not at all.
    let items = json!({ "items": [{ "channel": "a", "data": 2 }, { "channel": "$a", "data": 2 }] });
    assert_eq!(call(&server, "POST", "/v1/publish", &items).0, 400);
    let (_, ids) = call(&server, "POST", "/v1/publish", &json!({ "items": [{ "channel": "a", "data": 3 }] }));
    assert_eq!(ids["ids"].as_array().unwrap().len(), 1);
    assert_eq!([stream.next().unwrap().data, stream.next().unwrap().data], ["1", "3"]);
    // The body is longer than a line of the feed may be.
    let long = json!({ "channel": "a", "data": "x".repeat(2 << 20) }).to_string();
    assert_eq!(send(&server, "POST", "/v1/publish", JSON, &long).status, 413);
    // Simultaneous requests get their own answers.
    let ids: Vec<String> = std::thread::scope(|scope| {
        let publish = |number: u32| {
            let server = &server;
            move || call(server, "POST", "/v1/publish", &json!({ "channel": "a", "data": number })).1["id"].clone()
        };
        let all: Vec<_> = (0..20).map(|number| scope.spawn(publish(number))).collect();
        all.into_iter().map(|one| one.join().unwrap().as_str().unwrap().to_owned()).collect()
    });
    for _ in &ids {
        let event = stream.next().unwrap();
        assert_eq!(ids[event.data.parse::<usize>().unwrap()], event.id);
    }
}

#[test]
fn connections_are_found_and_described() {
    let server = Server::start_with("", &["--shards", "2"]);
    let _many: Vec<Stream> = (0..20).map(|_| Stream::open(server.address, "/sse?channel=many")).collect();
    let _one = Stream::open(server.address, "/sse?channel=one,many");
    let all = ask(&server, "/v1/connections?limit=5");
    assert_eq!((all["matched"].as_u64(), all["connections"].as_array().unwrap().len()), (Some(21), 5));
    let one = ask(&server, "/v1/connections?channel=one");
    assert_eq!(one["matched"], 1);
    assert_eq!(one["connections"][0]["channels_total"], 2);
    assert_eq!(ask(&server, "/v1/connections?channel=none")["matched"], 0);
    assert_eq!(ask(&server, "/v1/connections?address=127.0.0.2")["matched"], 0);
    let id = server.publish("one", "x");
    let conn = one["connections"][0]["conn"].as_str().unwrap();
    let row = eventually("the event is delivered", || {
        let row = ask(&server, &format!("/v1/connections/{conn}"))["connection"].clone();
        (row["events"] == 1 && row["lag_bytes"] == 0).then_some(row)
    });
    let channels = row["channels"].as_array().unwrap();
    assert!(channels.iter().any(|channel| channel["channel"] == "one" && channel["cursor"] == id.as_str()), "{row}");
    assert!(row["tcp"]["congestion_window"].as_u64().unwrap() > 0);
    // Subscribers are counted over shards, and the busiest channel comes first.
    for _ in 0..5 {
        server.publish("many", "x");
    }
    let channels = ask(&server, "/v1/channels")["channels"].clone();
    assert_eq!((&channels[0]["channel"], &channels[0]["subscribers"]), (&json!("many"), &json!(21)));
    assert!(channels[0]["events_per_second"].as_f64().unwrap() > channels[1]["events_per_second"].as_f64().unwrap());
    // The pages together name each channel exactly once.
    for number in 0..30 {
        server.publish(&format!("page:{number}"), "x");
    }
    let (mut names, mut cursor) = (Vec::new(), json!(0));
    while !cursor.is_null() {
        let page = ask(&server, &format!("/v1/channels?prefix=page:&limit=7&cursor={cursor}"));
        names.extend(page["channels"].as_array().unwrap().iter().map(|row| row["channel"].to_string()));
        cursor = page["cursor"].clone();
    }
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 30);
}

#[test]
fn a_client_that_does_not_read_is_listed_as_the_slowest() {
    let server = Server::start("[limits]\nnot_sent = \"4KiB\"\n[namespace.\"*\"]\nmax_lag = \"64MiB\"");
    let mut reading = Stream::open(server.address, "/sse?channel=a");
    let mut deaf = Http::connect(server.address);
    deaf.send("GET /sse?channel=a HTTP/1.1\r\nHost: a\r\n\r\n");
    deaf.head();
    let address = deaf.stream.local_addr().unwrap().to_string();
    eventually("one falls behind", || {
        server.publish("a", &"x".repeat(500_000));
        reading.next().unwrap();
        let slowest = ask(&server, "/v1/connections?order=slowest&limit=1")["connections"][0].clone();
        (slowest["blocked"] == true && slowest["lag_bytes"].as_u64() > Some(0) && slowest["address"] == address)
            .then_some(())
    });
    let text = get(server.admin, "/metrics").body;
    let value = |metric: &str| text.lines().find_map(|line| line.strip_prefix(metric)?.trim().parse::<f64>().ok());
    assert!(value("ringcast_lag_bytes_count{shard=\"0\"}").is_some());
}

#[test]
fn metrics_agree_with_what_happened() {
    let server = Server::start_with("", &["--shards", "2"]);
    let mut streams: Vec<Stream> = (0..10).map(|_| Stream::open(server.address, "/sse?channel=a")).collect();
    assert_eq!(get(server.address, "/nothing").status, 404);
    server.publish("a", "x");
    for stream in &mut streams {
        stream.next().unwrap();
    }
    server.await_fresh_figures();
    let sum = |text: &str, metric: &str| -> f64 {
        let values = text.lines().filter(|line| line.starts_with(metric));
        values.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
    };
    let text = eventually("the clock has published the distributions", || {
        let answer = get(server.admin, "/metrics");
        (sum(&answer.body, "ringcast_delivery_latency_seconds_count") == 10.0).then_some(answer.body)
    });
    for (metric, expected) in [
        ("ringcast_connections{shard=\"0\",transport=\"sse\"}", None),
        ("ringcast_opened_total", Some(10.0)),
        ("ringcast_deliveries_total", Some(10.0)),
        ("ringcast_hub_events_published_total", Some(1.0)),
        ("ringcast_ready", Some(1.0)),
        ("ringcast_rejected_total{shard=\"0\",status=\"404\"}", None),
    ] {
        assert!(text.contains(metric), "{metric} is missing");
        assert!(expected.is_none_or(|expected| sum(&text, metric) == expected), "{metric}: {}", sum(&text, metric));
    }
    assert_eq!(sum(&text, "ringcast_rejected_total"), 1.0);
    // Quantiles need the bucket `+Inf`.
    let all: Vec<&str> = text.lines().filter(|line| line.contains("latency_seconds_bucket{le=\"+Inf\"")).collect();
    assert_eq!(all.iter().map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum::<f64>(), 10.0);
    let open = Http::connect(server.admin).request("GET", "/metrics", "Accept: application/openmetrics-text\r\n");
    assert!(open.header("content-type").unwrap().starts_with("application/openmetrics-text"));
    assert!(open.body.ends_with("# EOF\n"));
    promtool(&["check", "metrics"], &text);
    // The metrics that the alert rules and the dashboard use exist.
    let rules = std::fs::read_to_string("docs/alerts.yml").unwrap();
    promtool(&["check", "rules", "docs/alerts.yml"], "");
    let board = std::fs::read_to_string("docs/grafana.json").unwrap();
    serde_json::from_str::<Value>(&board).unwrap();
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    for words in [&rules, &board] {
        let names = words.split(|c| !is_part(c)).filter(|word| word.starts_with("ringcast_"));
        for name in names {
            let found =
                text.lines().any(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])));
            assert!(found, "there is no metric {name}");
        }
    }
}

/// Checks that Prometheus' own checker accepts a text.
fn promtool(arguments: &[&str], text: &str) {
    use std::io::Write;
    use std::process::{Command, Stdio};
    let mut promtool = Command::new("promtool");
    promtool.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut promtool = promtool.spawn().expect("the tests need promtool (Debian: prometheus)");
    promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
}

#[test]
fn draining_can_be_taken_back() {
    let server = Server::start("");
    let mut stream = Stream::open(server.address, "/sse?channel=a");
    assert_eq!(call(&server, "PUT", "/v1/drain", &json!({ "draining": true })).1, json!({ "draining": true }));
    assert_eq!(get(server.admin, "/readyz").status, 503);
    assert_eq!(stream.next().unwrap().name, "ringcast.bye");
    eventually("new clients are refused", || {
        let answer = get(server.address, "/sse?channel=a");
        (answer.status == 503 && answer.header("retry-after").is_some()).then_some(())
    });
    // Publishing goes on during the drain, and clients that resume afterwards lose no event.
    let id = server.publish("a", "meanwhile");
    assert_eq!(call(&server, "PUT", "/v1/drain", &json!({ "draining": false })).0, 200);
    assert_eq!(get(server.admin, "/readyz").status, 200);
    let mut stream = eventually("new clients are accepted again", || {
        (get(server.address, "/poll?channel=a&wait=0").status == 200)
            .then(|| Stream::open(server.address, "/sse?channel=a&last_event_id=0-0"))
    });
    let events = [stream.next().unwrap(), stream.next().unwrap()];
    assert!(events.iter().any(|event| event.id == id), "{events:?}");
    // The server still stops on SIGTERM.
    call(&server, "PUT", "/v1/drain", &json!({ "draining": true }));
    server.stop();
}

#[test]
fn pages_of_other_sites_can_neither_read_nor_change_anything() {
    let server = Server::start("");
    let request = |fields: &str| {
        let mut http = Http::connect(server.admin);
        http.send(&format!("GET /v1/stats HTTP/1.1\r\n{fields}\r\n"));
        http.answer(false).status
    };
    assert_eq!(request("Host: localhost:8081\r\n"), 200);
    assert_eq!(request("Host: rebound.example\r\n"), 403);
    if let Some(name) = ringcast::sys::process::host_name() {
        assert_eq!(request(&format!("Host: {name}:8081\r\n")), 200);
    }
    let named = Server::start("[admin]\nhosts = [\"admin.example\"]");
    let answer = |host: &str| {
        let mut http = Http::connect(named.admin);
        http.send(&format!("GET /v1/stats HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        http.answer(false).status
    };
    assert_eq!((answer("admin.example"), answer("rebound.example")), (200, 403));
    for media in ["", "Content-Type: text/plain\r\n", "Content-Type: application/x-www-form-urlencoded\r\n"] {
        let answer = send(&server, "POST", "/v1/publish", media, "{\"channel\":\"a\",\"data\":1}");
        assert_eq!((answer.status, answer.json()["error"]["code"].as_str().unwrap()), (415, "media_type"));
    }
    let preflight = send(&server, "OPTIONS", "/v1/publish", "Origin: http://evil.example\r\n", "");
    assert!(preflight.header("access-control-allow-origin").is_none());
    assert_eq!(get(server.admin, "/nothing").json()["error"]["code"], "not_found");
    assert_eq!(send(&server, "DELETE", "/v1/stats", JSON, "").status, 405);
    // Clients have no way to the figures.
    assert_eq!(get(server.address, "/v1/live").status, 404);
    assert_eq!(get(server.address, "/sse?channel=$figures").status, 400);
}

#[test]
fn a_page_of_another_site_is_refused_with_and_without_a_token() {
    for token in ["", "[admin]\ntoken = \"secret\""] {
        let server = Server::start(token);
        let document = ask(&server, "/v1/openapi.json");
        let request = |path: &'static str, origin: &str| {
            let fields = format!("Authorization: Bearer secret\r\nOrigin: {origin}\r\n");
            let answer = Http::connect(server.admin).request("GET", path, &fields);
            if answer.status != 200 {
                is_as_described(&document, ("get", path), &answer);
                assert_eq!(answer.json()["error"]["code"], "origin");
            }
            answer.status
        };
        for path in ["/v1/stats", "/v1/connections", "/metrics", "/v1/log"] {
            assert_eq!(request(path, "http://evil.example"), 403, "{path}");
            assert_eq!(request(path, "null"), 403, "{path}");
            assert_eq!(request(path, "http://localhost"), 200, "{path}: `request` names the host so");
        }
    }
}

#[test]
fn what_clients_need_a_token_for_needs_one_here_too() {
    for checked in [super::tokens::KEYS, "[auth]\nask_backend = true\n"] {
        let server = Server::start(checked);
        let document = ask(&server, "/v1/openapi.json");
        server.publish("secret:1", "secret:payload");
        let contents = [
            ("/v1/channels", "/v1/channels"),
            ("/v1/channels/{channel}/history", "/v1/channels/secret:1/history"),
            ("/v1/channels/{channel}/presence", "/v1/channels/secret:1/presence"),
            ("/v1/channels/{channel}/trace", "/v1/channels/secret:1/trace"),
            ("/v1/connections", "/v1/connections"),
            ("/v1/connections/{conn}", "/v1/connections/0.1.1"),
        ];
        for (path, target) in contents {
            let answer = get(server.admin, target);
            assert_eq!(answer.status, 403, "{path}");
            is_as_described(&document, ("get", path), &answer);
            let error = answer.json()["error"].clone();
            assert_eq!(error["code"], "no_token");
            assert!(error["message"].as_str().unwrap().starts_with("set [admin] token"), "{error}");
        }
        for (method, path, body) in [
            ("POST", "/v1/publish", json!({ "channel": "a", "data": 1 })),
            ("POST", "/v1/kick", json!({ "channel": "a" })),
            ("PUT", "/v1/drain", json!({ "draining": true })),
        ] {
            assert_eq!(call(&server, method, path, &body).1["error"]["code"], "no_token", "{path}");
        }
        // Figures, health and status are shown, and none of them tells of a channel.
        for path in ["/healthz", "/readyz", "/metrics", "/v1/stats", "/stats", "/v1/drain", "/v1/log"] {
            let answer = get(server.admin, path);
            assert!(answer.status == 200 && !answer.body.contains("secret:"), "{path}: {}", answer.body);
        }
        let mut viewer = Stream::open_admin(server.admin, "/v1/live");
        for _ in 0..2 {
            let data = viewer.next().unwrap().data;
            assert!(data.contains("\"channels\":[]") && !data.contains("secret:"), "{data}");
        }
    }
    // With a token everything is shown to its bearer.
    let server = Server::start(&format!("{}[admin]\ntoken = \"t\"", super::tokens::KEYS));
    server.publish("secret:1", "secret:payload");
    let with = |path: &str| Http::connect(server.admin).request("GET", path, "Authorization: Bearer t\r\n");
    assert!(with("/v1/channels/secret:1/history").body.contains("secret:payload"));
    assert_eq!(get(server.admin, "/v1/channels").status, 401);
}

#[test]
fn slow_bodies_do_not_delay_requests_that_only_read() {
    let server = Server::start("");
    let slow = |_| {
        let mut http = Http::connect(server.admin);
        http.send(&format!("POST /v1/publish HTTP/1.1\r\nHost: localhost\r\n{JSON}Content-Length: 100\r\n\r\n{{"));
        http
    };
    let slow: Vec<Http> = (0..100).map(slow).collect();
    for path in ["/metrics", "/v1/stats", "/v1/live"] {
        let mut http = Http::connect(server.admin);
        assert_eq!(http.request("HEAD", path, "").status, 200, "{path}");
    }
    for http in &slow {
        http.stream.set_nonblocking(true).unwrap();
        assert_eq!(http.stream.peek(&mut [0]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    }
}

#[test]
fn viewers_of_the_figures_do_not_count_as_clients() {
    let server = Server::start("");
    let mut viewer = Stream::open_admin(server.admin, "/v1/live");
    let figures: Value = serde_json::from_str(&viewer.next().unwrap().data).unwrap();
    assert_eq!(figures["stats"]["node"]["ready"], true);
    // A viewer is no client, and what it gets is no delivery.
    let figures: Value = serde_json::from_str(&viewer.next().unwrap().data).unwrap();
    assert_eq!(figures["stats"]["node"]["connections"], 0);
    for name in ["slots", "connections_sse", "accepted", "requests", "events_received", "deliveries", "sent_bytes"] {
        assert_eq!(server.figure(name), 0, "{name}");
    }
    assert_eq!(server.stats()["node"]["events_published"], 0);
}

#[test]
fn viewers_of_a_channel_get_its_events_as_they_are_published() {
    let server = Server::start("[namespace.short]\nhistory_events = 0");
    let open = |channel: &str| Stream::open_admin(server.admin, &format!("/v1/channels/{channel}/trace"));
    let (mut first, mut second) = (open("short:1"), open("short:1"));
    server.publish("other", "not this");
    let id = server.publish("short:1", "x");
    for viewer in [&mut first, &mut second] {
        let event: Value = serde_json::from_str(&viewer.next().unwrap().data).unwrap();
        assert_eq!(event, json!({ "id": id, "channel": "short:1", "data": "x" }));
    }
    // The trace goes on for the viewer that stays.
    drop(first);
    let id = server.publish("short:1", &"x".repeat(5000));
    let event: Value = serde_json::from_str(&second.next().unwrap().data).unwrap();
    assert_eq!((&event["id"], &event["data"]), (&id.into(), &Value::Null));
    assert!(event["bytes"].as_u64() > Some(5000), "{event}");
    // Traces end with their viewers: otherwise the limit of a connection to the feed would be reached.
    for number in 0..150 {
        let target = format!("/v1/channels/c{number}/trace");
        eventually("a channel is traced", || (send(&server, "HEAD", &target, "", "").status == 200).then_some(()));
    }
    let refused = get(server.admin, "/v1/channels/a,b/trace");
    assert_eq!((refused.status, &refused.json()["error"]["code"]), (400, &"bad_channel".into()));
}

#[test]
fn every_path_but_health_needs_the_token() {
    let server = Server::start("[admin]\ntoken = \"secret\"");
    for path in ["/v1/stats", "/v1/connections", "/metrics", "/v1/live", "/v1/log", "/stats"] {
        assert_eq!(get(server.admin, path).status, 401, "{path}");
        let with = |token: &str| {
            let mut http = Http::connect(server.admin);
            http.request("HEAD", path, &format!("Authorization: Bearer {token}\r\n")).status
        };
        assert_eq!((with("secret2"), with("secret")), (401, 200), "{path}");
    }
    for path in ["/healthz", "/readyz", "/", "/v1/openapi.json"] {
        assert_eq!(get(server.admin, path).status, 200, "{path}");
    }
}

#[test]
fn the_api_without_a_token_respects_the_feeds_permissions() {
    let own = std::fs::metadata("/proc/self").unwrap();
    let (user, group) = (own.uid(), own.gid());
    let changes = [
        ("post", "/v1/publish", json!({ "channel": "a", "data": 1 })),
        ("post", "/v1/kick", json!({ "channel": "a" })),
        ("put", "/v1/drain", json!({ "draining": true })),
        ("put", "/v1/log", json!({ "level": "debug" })),
    ];
    for narrowed in [
        format!("[feed]\nreaders = [\"{user}\"]"),
        format!("[feed]\nallow_users = [\"{user}\"]"),
        format!("[feed]\ngroup = \"{group}\""),
    ] {
        let server = Server::start(&narrowed);
        let document = ask(&server, "/v1/openapi.json");
        for (method, path, body) in &changes {
            let answer = send(&server, &method.to_uppercase(), path, JSON, &body.to_string());
            assert_eq!(answer.status, 403, "{narrowed}: {method} {path}: {}", answer.body);
            is_as_described(&document, (method, path), &answer);
            let error = &answer.json()["error"];
            assert_eq!(error["code"], "no_token");
            assert!(error["message"].as_str().unwrap().starts_with("set [admin] token"), "{error}");
        }
        // The refused requests changed nothing, and reading needs no token.
        assert_eq!(ask(&server, "/v1/drain"), json!({ "draining": false }));
        assert_eq!(ask(&server, "/v1/log")["level"], "info");
        assert_eq!(ask(&server, "/v1/stats")["node"]["events_published"], 0);
    }
    let server = Server::start(&format!("[feed]\ngroup = \"{group}\"\n[admin]\ntoken = \"secret\""));
    for (method, path, body) in &changes {
        let fields = format!("{JSON}Authorization: Bearer secret\r\n");
        let answer = send(&server, &method.to_uppercase(), path, &fields, &body.to_string());
        assert_eq!(answer.status, 200, "{method} {path}: {}", answer.body);
    }
}
