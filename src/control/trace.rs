//! Traces: the events of a channel as they are published, for viewers of the admin API.
//!
//! All viewers share one connection to the feed. The hub is told to trace a channel when the channel gets its first viewer,
//! and to end the trace when the last one has gone.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use super::Control;
use super::access::ApiError;
use super::api::{self, Named};
use super::calls::{Answer, CallError, Feed, lock};

/// Events that a viewer may be behind before the oldest of them are left out.
const BEHIND_MAX: usize = 128;
/// The longest event that is shown with its data, in bytes, so that the events of [`BEHIND_MAX`] need little memory.
const SHOWN_MAX: usize = 4096;
/// The silence after which a stream gets a comment, so that a viewer that has vanished is noticed.
const BEAT: Duration = Duration::from_secs(15);

/// The channels that have viewers, each with the way to them.
type Viewed = Arc<Mutex<HashMap<String, broadcast::Sender<Bytes>>>>;

/// The traces that viewers follow.
pub(super) struct Traces {
    feed: Feed,
    viewed: Viewed,
    /// Held while a trace begins or ends, so that the hub is told in the order in which viewers come and go.
    order: tokio::sync::Mutex<()>,
}

/// A traced event, as far as this module reads it.
#[derive(Deserialize)]
struct Traced {
    id: String,
    channel: String,
    #[serde(default)]
    event: Option<String>,
}

/// An event of the feed as an event of a stream, with the channel's name. A long one is shown with its size instead of its
/// data.
fn framed(event: &str) -> Option<(String, Bytes)> {
    let traced: Traced = serde_json::from_str(event).ok()?;
    let frame = if event.len() <= SHOWN_MAX {
        format!("data: {event}\n\n")
    } else {
        let mut short = json!({ "id": traced.id, "channel": traced.channel, "bytes": event.len() });
        if let Some(name) = traced.event {
            short["event"] = name.into();
        }
        format!("data: {short}\n\n")
    };
    Some((traced.channel, frame.into()))
}

/// Gives a line of the feed to the viewers of its channel, if it has any.
fn pass_on(viewed: &Viewed, line: &Answer) {
    let Some((channel, frame)) = line.get("event").and_then(|event| framed(event.get())) else { return };
    if let Some(viewers) = lock(viewed).get(&channel) {
        // The last viewer may just have gone.
        let _ = viewers.send(frame);
    }
}

impl Traces {
    /// Takes the connection to the feed that is for traces.
    ///
    /// # Errors
    /// If the connection cannot be used without blocking.
    pub(super) fn new(stream: UnixStream, max_line: usize) -> io::Result<Traces> {
        let viewed = Viewed::default();
        let known = viewed.clone();
        let feed = Feed::new(stream, max_line, move |line| pass_on(&known, &line))?;
        Ok(Traces { feed, viewed, order: tokio::sync::Mutex::default() })
    }

    /// Has the hub trace a channel, unless it does so already.
    async fn begin(&self, channel: &str) -> Result<(), CallError> {
        self.feed.call("trace", &json!({ "channel": channel })).await.map(drop)
    }

    /// Ends the trace of a channel that has no viewer any more.
    async fn end(&self, channel: &str) {
        let _order = self.order.lock().await;
        {
            let mut viewed = lock(&self.viewed);
            if viewed.get(channel).is_none_or(|viewers| viewers.receiver_count() > 0) {
                return;
            }
            viewed.remove(channel);
        }
        if let Err(error) = self.feed.call("untrace", &json!({ "channel": channel })).await {
            tracing::debug!(%error, channel, "a trace did not end");
        }
    }
}

/// One viewer of a trace.
struct Viewer {
    control: Arc<Control>,
    channel: String,
    /// The events to come, until the viewer is dropped.
    events: Option<broadcast::Receiver<Bytes>>,
}

impl Drop for Viewer {
    fn drop(&mut self) {
        // The trace ends if this was the last receiver.
        self.events = None;
        let (control, channel) = (self.control.clone(), std::mem::take(&mut self.channel));
        tokio::spawn(async move { control.traces.end(&channel).await });
    }
}

impl Viewer {
    /// Joins the viewers of a channel.
    ///
    /// # Errors
    /// If the hub does not trace the channel.
    async fn join(control: Arc<Control>, channel: String) -> Result<Viewer, CallError> {
        let _order = control.traces.order.lock().await;
        let events = {
            let mut viewed = lock(&control.traces.viewed);
            viewed.entry(channel.clone()).or_insert_with(|| broadcast::Sender::new(BEHIND_MAX)).subscribe()
        };
        // From here on the viewer's end ends the trace, also if the request is given up before the hub has answered.
        let viewer = Viewer { control: control.clone(), channel, events: Some(events) };
        control.traces.begin(&viewer.channel).await?;
        Ok(viewer)
    }

    /// The next part of the stream, if there is one.
    async fn next(&mut self) -> Option<Bytes> {
        let events = self.events.as_mut()?;
        match tokio::time::timeout(BEAT, events.recv()).await {
            Ok(Ok(event)) => Some(event),
            Ok(Err(RecvError::Lagged(count))) => {
                Some(format!("event: lost\ndata: {}\n\n", json!({ "count": count })).into())
            }
            Ok(Err(RecvError::Closed)) => None,
            Err(_) => Some(Bytes::from_static(b":\n")),
        }
    }
}

/// An event stream of a channel's events, from now on.
pub(super) async fn trace(State(control): State<Arc<Control>>, channel: Named) -> Result<Response, ApiError> {
    let viewer = Viewer::join(control.clone(), api::named(channel)?).await?;
    let events = stream::unfold(viewer, async |mut viewer| {
        let part = viewer.next().await?;
        Some((Ok::<_, Infallible>(part), viewer))
    });
    Ok(([("content-type", "text/event-stream")], Body::from_stream(events)).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn a_long_event_is_shown_with_its_size() {
        let event = |length: usize| json!({ "id": "5-0", "channel": "a", "event": "e", "data": "x".repeat(length) });
        let shown = |event: &Value| {
            let (channel, frame) = framed(&event.to_string()).unwrap();
            assert_eq!(channel, "a");
            let frame = std::str::from_utf8(&frame).unwrap().strip_prefix("data: ").unwrap().to_owned();
            serde_json::from_str::<Value>(&frame).unwrap()
        };
        let around = event(0).to_string().len();
        let longest = event(SHOWN_MAX - around);
        assert_eq!(shown(&longest), longest);
        let longer = event(SHOWN_MAX - around + 1);
        let expected = json!({ "id": "5-0", "channel": "a", "event": "e", "bytes": SHOWN_MAX + 1 });
        assert_eq!(shown(&longer), expected);
        assert!(framed("{\"channel\":1}").is_none());
    }
}
