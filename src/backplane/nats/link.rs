//! Requests to the servers, and the end of a connection.

use std::sync::{Mutex, PoisonError};

use async_nats::{Client, RequestErrorKind};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::Notify;

use super::super::broker::BrokerError;
use super::values::{Answer, Refusal, code};

/// The end of a connection, which everything waits for beside what it wants.
#[derive(Default)]
pub(super) struct Cut {
    why: Mutex<(Option<String>, Option<String>)>,
    bell: Notify,
}

impl Cut {
    /// Tells that the connection is of no use any more.
    pub(super) fn tell(&self, why: &str) {
        let mut told = self.why.lock().unwrap_or_else(PoisonError::into_inner);
        told.0.get_or_insert_with(|| why.to_owned());
        self.bell.notify_waiters();
    }

    /// Remembers what the server has said, for the sentence.
    pub(super) fn note(&self, words: &str) {
        self.why.lock().unwrap_or_else(PoisonError::into_inner).1 = Some(words.to_owned());
    }

    fn error(&self) -> Option<BrokerError> {
        let told = self.why.lock().unwrap_or_else(PoisonError::into_inner);
        let (why, words) = (told.0.as_ref()?, told.1.as_ref());
        Some(BrokerError::Away(words.map_or_else(|| why.clone(), |words| format!("{why}: {words}"))))
    }

    /// Waits for the end.
    pub(super) async fn ended(&self) -> BrokerError {
        loop {
            let bell = self.bell.notified();
            tokio::pin!(bell);
            bell.as_mut().enable();
            if let Some(error) = self.error() {
                return error;
            }
            bell.await;
        }
    }
}

/// What became of a request.
pub(super) enum Failure {
    /// The server has answered with an error.
    Refused(Refusal),
    /// No server is there that answers such requests, so nothing was done.
    Nobody,
    /// The outcome is not known.
    Broken(BrokerError),
}

impl From<Failure> for BrokerError {
    fn from(failure: Failure) -> BrokerError {
        match failure {
            Failure::Refused(refusal) => {
                let text = format!("the broker: {} ({})", refusal.description, refusal.err_code);
                match refusal.err_code {
                    code::NOT_ENABLED
                    | code::NOT_ENABLED_FOR_ACCOUNT
                    | code::REPLICAS_WITHOUT_CLUSTER
                    | code::SUBJECTS_OVERLAP => BrokerError::Refused(text),
                    _ => BrokerError::Away(text),
                }
            }
            Failure::Nobody => BrokerError::Away("the broker's JetStream is off, or has no leader now".into()),
            Failure::Broken(error) => error,
        }
    }
}

/// Waits for the answer to a request.
pub(super) async fn answered<T: DeserializeOwned>(
    cut: &Cut,
    request: impl Future<Output = Result<async_nats::Message, async_nats::RequestError>>,
) -> Result<T, Failure> {
    let reply = tokio::select! {
        reply = request => reply,
        error = cut.ended() => return Err(Failure::Broken(error)),
    };
    let away = |text: String| Failure::Broken(BrokerError::Away(text));
    let reply = reply.map_err(|error| match error.kind() {
        RequestErrorKind::NoResponders => Failure::Nobody,
        _ => away(format!("the broker: {error}")),
    })?;
    let answer: Answer<T> = serde_json::from_slice(&reply.payload)
        .map_err(|error| away(format!("the broker's answer cannot be read: {error}")))?;
    match answer {
        Answer { error: Some(refusal), .. } => Err(Failure::Refused(refusal)),
        Answer { value: Some(value), .. } => Ok(value),
        Answer { .. } => Err(away("the broker's answer cannot be read".into())),
    }
}

/// Asks JetStream's API.
pub(super) async fn ask<T: DeserializeOwned>(
    client: &Client,
    cut: &Cut,
    subject: String,
    question: &Value,
) -> Result<T, Failure> {
    answered(cut, client.request(format!("$JS.API.{subject}"), question.to_string().into())).await
}
