//! `cargo bench` measures the pure code that runs per request and per event.
#![allow(missing_docs, clippy::unwrap_used)]

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ringcast::hub::BareHub;
use ringcast::hub::ids::IdSource;
use ringcast::link::to_shard;
use ringcast::logic::event::{Draft, Event, Kind};
use ringcast::logic::history::{History, HistoryLimits};
use ringcast::logic::id::Id;
use ringcast::logic::log::Log;
use ringcast::logic::protocol::{feed, http, query, ws};
use ringcast::logic::session::{LaneKey, Spoken};
use ringcast::logic::wheel::Wheel;
use ringcast::sys::wake::Wake;

fn event(n: u64) -> Event {
    let draft = Draft { name: None, kind: Kind::Text, payload: vec![b'x'; 128].into() };
    Event { id: Id::new(1_700_000_000_000, n), channel: "orders:1".into(), draft }
}

fn parsers(criterion: &mut Criterion) {
    let head = b"GET /sse?channel=orders:1 HTTP/1.1\r\nHost: push.example\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64)\r\n\
        Accept: text/event-stream\r\nAccept-Language: en\r\nCache-Control: no-cache\r\nLast-Event-ID: 1700000000000-1\r\n\r\n";
    let limits = http::HeadLimits { head_bytes_max: 8192, fields_max: 64 };
    criterion.bench_function("http head", |b| b.iter(|| http::parse(black_box(head), &limits)));
    criterion.bench_function("query", |b| b.iter(|| query::parse(black_box("channel=orders:1&after=17-1"), 100)));
    let line = format!(r#"{{"op":"publish","channel":"orders:1","data":"{}","ref":17}}"#, "x".repeat(128));
    criterion.bench_function("feed line", |b| b.iter(|| feed::parse(black_box(line.as_bytes()))));
    let mut frame = Vec::new();
    ws::write_client_frame(&mut frame, ws::Opcode::Text, &[b'x'; 128], [1, 2, 3, 4]);
    criterion.bench_function("ws frame", |b| {
        b.iter_batched_ref(
            || (ws::Decoder::default(), frame.clone()),
            |(decoder, frame)| decoder.read(frame, 65536).unwrap().consumed,
            criterion::BatchSize::SmallInput,
        )
    });
}

fn framers(criterion: &mut Criterion) {
    let event = event(1);
    let mut group = criterion.benchmark_group("frame");
    group.throughput(Throughput::Bytes(128));
    for (name, spoken) in
        [("sse", Spoken::SSE), ("ws json", Spoken::WS_JSON), ("ws raw", Spoken::WS_RAW), ("poll", Spoken::POLL)]
    {
        let key = black_box(LaneKey::of(spoken, true));
        let mut out = Vec::with_capacity(1024);
        group.bench_function(name, |b| {
            b.iter(|| {
                out.clear();
                key.frame(black_box(&event), &mut out);
            })
        });
    }
}

fn structures(criterion: &mut Criterion) {
    criterion.bench_function("log append, read, trim", |b| {
        let mut log = Log::new(Some(Id::ZERO));
        let mut n = 0;
        b.iter(|| {
            n += 1;
            let cursor = log.head();
            log.append(Id::new(n, 0), |out| out.extend_from_slice(&[b'x'; 160]));
            black_box(log.bytes(cursor, log.head()));
            log.trim(log.floor(64 * 1024))
        })
    });
    criterion.bench_function("history push", |b| {
        let limits = HistoryLimits { events_max: 1000, bytes_max: 1 << 20, age_max_ms: 600_000 };
        let mut history = History::new(Id::ZERO);
        let mut n = 0;
        b.iter(|| {
            n += 1;
            history.push(Arc::new(event(n)), &limits, 1_700_000_000_000);
        })
    });
    criterion.bench_function("wheel insert and advance", |b| {
        let mut wheel = Wheel::new(0);
        let mut now = 0;
        b.iter(|| {
            now += 1;
            for slot in 0..100u32 {
                wheel.insert(slot, now + 250);
            }
            black_box(wheel.advance(now))
        })
    });
}

/// The way of an event from a parsed command into a shard's queue and out of it, with a thousand channels.
fn routing(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("hub");
    for (name, events_max) in [("publish, no history", 0), ("publish, history of 100", 100)] {
        let folder = tempfile::tempdir().unwrap();
        let (to, from) = to_shard(1 << 30, Wake::new().unwrap()).unwrap();
        let limits = HistoryLimits { events_max, bytes_max: 1 << 20, age_max_ms: 600_000 };
        let ids = IdSource::open(&folder.path().join("x.ids"), 1_000_000).unwrap();
        let mut hub = BareHub::new(ids, vec![to], Box::new(move |_| limits));
        for channel in 0..1000 {
            hub.follow(0, channel, &format!("orders:{channel}"));
        }
        let data = "x".repeat(128);
        let line = |n| format!(r#"{{"op":"publish","channel":"orders:{n}","data":"{data}"}}"#).into_bytes();
        let lines: Vec<Vec<u8>> = (0..1000).map(line).collect();
        let (mut n, mut out) = (0, Vec::new());
        group.bench_function(name, |b| {
            b.iter(|| {
                n = (n + 1) % lines.len();
                hub.execute(feed::parse(&lines[n]).unwrap(), 1_000_000, &mut out).unwrap();
                while let Some(batch) = from.next() {
                    from.done(ringcast::link::FromHub::weigh(&batch));
                }
            })
        });
    }
}

criterion_group!(all, parsers, framers, structures, routing);
criterion_main!(all);
