//! The driver: one for every broker.
//!
//! One connection appends: while a batch is on its way, everything that comes is the next batch. Another one reads. An
//! entry is done when it was read back. When a connection breaks, the node reads up to the end of the log: entries of
//! its own that are there have arrived, and the others never will, so they are sent again in their order.

use std::cell::RefCell;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

use crate::figures::ServerFigures;
use crate::link::HubMessage;
use crate::link::backplane::{BrokerState, FromBroker, Loss, ToBroker, Unordered};
use crate::logic::entry::Entry;
use crate::logic::id::Id;
use crate::sys::clock::unix_ms;

use super::BackplaneParts;
use super::broker::{
    ANSWER_MAX, Appended, Broker, BrokerError, Continuity, PAUSE_MAX, PAUSE_MIN, Page, Reader, Tail, Writer,
};
use super::state::{Batch, Sent, State};

/// The time between two looks at the log's continuity.
const CHECK_EVERY: Duration = Duration::from_secs(1);
/// The time between two looks for entries whose time is up.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// The most entries and bytes of one batch.
const BATCH_ENTRIES: usize = 512;
const BATCH_BYTES: usize = 1 << 20;
/// The time for the first connection at a start: servers of NATS need up to ten seconds to elect a leader.
const START_MAX: Duration = Duration::from_secs(15);

/// Waits for a broker's answer, but not for longer than `time`.
async fn within<T>(
    time: Duration,
    answer: impl Future<Output = Result<T, BrokerError>>,
    sentence: &str,
) -> Result<T, BrokerError> {
    timeout(time, answer).await.unwrap_or_else(|_| Err(BrokerError::Away(sentence.into())))
}

/// The driver of one broker.
struct Driver {
    parts: BackplaneParts,
    wake: UnixStream,
    state: RefCell<State>,
    /// Rung when the hub has applied entries.
    room: Notify,
}

/// Runs until the hub has ended, which ends the process.
pub(super) async fn run<B: Broker>(mut broker: B, parts: BackplaneParts) {
    // The runtime waits for descriptors of its own types only. As it asks the kernel for readiness, which works for every
    // descriptor, the wake-up's is wrapped as a socket, and only the readiness is used.
    let wake = parts.inbox.wake.waitable();
    let wake = match wake.and_then(|wake| UnixStream::from_std(std::os::unix::net::UnixStream::from(wake))) {
        Ok(wake) => wake,
        Err(error) => {
            let _ = parts.started.send(Err(error.to_string()));
            return;
        }
    };
    let state = State::new();
    let driver = Driver { parts, wake, state: RefCell::new(state), room: Notify::new() };
    driver.serve(&mut broker).await;
}

impl Driver {
    async fn serve<B: Broker>(&self, broker: &mut B) {
        let begun = Instant::now();
        let mut pause = PAUSE_MIN;
        loop {
            let error = match within(ANSWER_MAX * 2, broker.open(), "the broker does not answer").await {
                Ok((writer, reader, tail)) => {
                    let opened = Instant::now();
                    let error = self.session(writer, reader, tail).await;
                    // A connection that breaks at once is no better than one that cannot be made.
                    if opened.elapsed() > CHECK_EVERY {
                        pause = PAUSE_MIN;
                    }
                    self.count(|figures| &figures.backplane_reconnects);
                    error
                }
                Err(error) => {
                    let has_begun = self.state.borrow().has_begun;
                    let is_final = matches!(error, BrokerError::Refused(_)) || begun.elapsed() > START_MAX;
                    if !has_begun && is_final {
                        let _ = self.parts.started.send(Err(error.to_string()));
                        return;
                    }
                    error
                }
            };
            self.note_away(&error);
            // A random part keeps the nodes from coming back all at once.
            let random = 0.5 + fastrand::f64();
            self.rest(pause.mul_f64(random)).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    fn note_away(&self, error: &BrokerError) {
        debug!(%error, "a connection to the broker has ended or failed");
        self.state.borrow_mut().away_since.get_or_insert_with(Instant::now);
        if self.parts.figures.backplane_up.swap(0, Ordering::Relaxed) == 1 {
            warn!(%error, "the broker is away: publishers wait, and clients stay");
            self.tell(FromBroker::State(BrokerState::Away));
        }
    }

    /// Waits for a while. Entries whose time is up are refused meanwhile.
    async fn rest(&self, time: Duration) {
        let until = Instant::now() + time;
        while Instant::now() < until {
            self.take_messages();
            self.refuse_late();
            self.note_age();
            self.note_lost();
            sleep(LOOK_EVERY.min(until.saturating_duration_since(Instant::now()))).await;
        }
    }

    /// Tells load balancers that the broker has been away for long.
    fn note_lost(&self) {
        let max = self.parts.config.unready_after;
        let away = self.state.borrow().away_since.map_or(Duration::ZERO, |since| since.elapsed());
        if !max.is_zero() && away >= max {
            self.parts.state.set_broker_lost(true);
        }
    }

    /// Notes how far this host's clock is from the broker's.
    fn note_clock(&self, broker_ms: u64) {
        if broker_ms > 0 {
            let skew_ms = unix_ms().abs_diff(broker_ms);
            ServerFigures::set(&self.parts.figures.backplane_clock_skew_ms, skew_ms);
        }
    }

    /// Reads and appends until something breaks.
    async fn session<W: Writer, R: Reader>(&self, mut writer: W, mut reader: R, tail: Tail) -> BrokerError {
        if let Err(error) = self.begin(&mut writer, &mut reader, tail).await {
            return error;
        }
        tokio::select! {
            error = self.read_on(&mut reader) => error,
            error = self.write_on(&mut writer) => error,
        }
    }

    /// Finds the position to read on from, reads up to the end of the log, and settles entries of an earlier connection.
    async fn begin<W: Writer, R: Reader>(&self, writer: &mut W, reader: &mut R, tail: Tail) -> Result<(), BrokerError> {
        self.note_clock(tail.now_ms);
        let is_first = !std::mem::replace(&mut self.state.borrow_mut().has_begun, true);
        if is_first {
            self.begin_first(tail);
            let _ = self.parts.started.send(Ok(()));
        } else {
            self.check(writer).await?;
        }
        self.parts.figures.backplane_up.store(1, Ordering::Relaxed);
        while self.state.borrow().position < tail.last {
            self.read_some(reader).await?;
            self.take_messages();
            self.refuse_late();
            if self.state.borrow().position < tail.last && self.check_if_stuck(writer).await? {
                break;
            }
        }
        self.settle_unknown(tail.is_fenced_off);
        match is_first {
            true => {
                let read = self.parts.figures.backplane_entries.load(Ordering::Relaxed);
                ServerFigures::set(&self.parts.figures.backplane_catchup_entries, read);
            }
            false => info!("the broker is back"),
        }
        self.state.borrow_mut().away_since = None;
        self.parts.state.set_broker_lost(false);
        self.tell(FromBroker::State(BrokerState::Live));
        Ok(())
    }

    /// Whether the log has no entry after the position although its newest id is greater: entries at its end were deleted.
    async fn check_if_stuck<W: Writer>(&self, writer: &mut W) -> Result<bool, BrokerError> {
        let before = self.state.borrow().position;
        self.check(writer).await?;
        Ok(self.state.borrow().position == before)
    }

    fn begin_first(&self, tail: Tail) {
        let from = tail.from;
        self.state.borrow_mut().position = from;
        self.tell(FromBroker::State(BrokerState::CatchingUp { from, until: tail.last.max(from), now_ms: tail.now_ms }));
    }

    /// Sends entries again that are surely not in the log. If that is not sure, their publishers are told so.
    fn settle_unknown(&self, is_fenced_off: bool) {
        let mut state = self.state.borrow_mut();
        let newest_own = state.newest_own;
        for sent in std::mem::take(&mut state.sent).into_iter().rev() {
            let number = sent.entry.number;
            if number < newest_own {
                // A later entry of the same connection was taken, so this one was refused.
                self.refuse(number, true, "the broker did not take it");
            } else if is_fenced_off || sent.is_lasting {
                state.send_again(sent);
            } else {
                self.refuse(number, false, "the connection to the broker was cut");
            }
        }
    }

    /// Reads entries as they come.
    async fn read_on<R: Reader>(&self, reader: &mut R) -> BrokerError {
        loop {
            if let Err(error) = self.read_some(reader).await {
                return error;
            }
        }
    }

    /// Reads once, if the hub keeps up.
    async fn read_some<R: Reader>(&self, reader: &mut R) -> Result<(), BrokerError> {
        while self.parts.inbox.is_full() {
            // The hub rings when it has applied entries; the time is for a ring that came before.
            let _ = timeout(LOOK_EVERY, self.room.notified()).await;
        }
        let (after, is_entry) = self.position();
        let read = within(ANSWER_MAX, reader.read(after, is_entry), "the broker does not answer a read");
        let Page { entries, has_hole } = read.await?;
        let Some(first) = entries.first() else { return Ok(()) };
        // A look at the log may have moved the position meanwhile, and has told the gap then.
        if has_hole && self.position() == (after, true) {
            self.state.borrow_mut().has_told_hole = true;
            self.count(|figures| &figures.backplane_gaps_trimmed);
            self.tell(FromBroker::Gap { after, resumed: first.id.before(), loss: Loss::Trimmed });
        }
        self.note_read(&entries);
        self.parts.inbox.note_read(&entries);
        self.tell(FromBroker::Entries(entries));
        Ok(())
    }

    /// The position, and whether it is that of an entry.
    fn position(&self) -> (Id, bool) {
        let state = self.state.borrow();
        (state.position, state.is_entry)
    }

    fn note_read(&self, entries: &[Entry]) {
        let mut state = self.state.borrow_mut();
        state.read_at = Instant::now();
        state.is_entry = true;
        let now_ms = unix_ms();
        let transit_ms = entries.iter().map(|entry| now_ms.saturating_sub(entry.at_ms)).sum();
        // Entries from before the start are old.
        if self.parts.figures.backplane_up.load(Ordering::Relaxed) == 1 && state.away_since.is_none() {
            ServerFigures::add(&self.parts.figures.backplane_transit_ms, transit_ms);
        }
        for entry in entries {
            state.position = state.position.max(entry.id);
            let own = entry.origin.as_ref().filter(|origin| origin.node == self.parts.mark);
            let Some(number) = own.map(|origin| origin.number) else { continue };
            state.newest_own = state.newest_own.max(number);
            if let Ok(place) = state.sent.binary_search_by_key(&number, |sent| sent.entry.number) {
                let since = state.sent.remove(place).map(|sent| sent.since);
                let took = since.map_or(Duration::ZERO, |since| since.elapsed());
                ServerFigures::add(&self.parts.figures.backplane_acks, 1);
                ServerFigures::add(&self.parts.figures.backplane_ack_us, took.as_micros() as u64);
            }
        }
        ServerFigures::add(&self.parts.figures.backplane_entries, entries.len() as u64);
    }

    /// Appends what the hub hands over, and looks after the log.
    async fn write_on<W: Writer>(&self, writer: &mut W) -> BrokerError {
        let mut checked = Instant::now();
        loop {
            self.take_messages();
            self.refuse_late();
            match self.next_batch() {
                Some(batch) => {
                    if let Err(error) = self.append(writer, batch).await {
                        return error;
                    }
                }
                None => self.wait().await,
            }
            if checked.elapsed() >= CHECK_EVERY {
                checked = Instant::now();
                // At the start of a connection, what was taken before is still to be read.
                if let Err(error) = self.check(writer).await.and_then(|()| self.look_for_lost_reads()) {
                    return error;
                }
            }
        }
    }

    /// Waits for messages of the hub, or for a while.
    async fn wait(&self) {
        if timeout(LOOK_EVERY, self.wake.readable()).await.is_ok() {
            // Readiness is over once a read would wait, which the wake-up's own read does not tell the runtime.
            let _ =
                self.wake.try_io(Interest::READABLE, || -> io::Result<()> { Err(io::ErrorKind::WouldBlock.into()) });
            self.parts.inbox.wake.clear();
            self.room.notify_one();
        }
    }

    fn take_messages(&self) {
        let mut state = self.state.borrow_mut();
        let since = Instant::now();
        while let Some(message) = self.parts.inbox.next() {
            let ToBroker::Append { entries, is_whole, is_lasting } = message;
            let whole = entries.first().filter(|_| is_whole).map(|entry| entry.number);
            state.queue.push_back(Batch { entries, whole, is_lasting, since });
        }
    }

    /// The next entries to append together: a batch that is whole, or several that are not.
    fn next_batch(&self) -> Option<Batch> {
        let mut state = self.state.borrow_mut();
        let mut batch = state.queue.pop_front()?;
        let mut bytes: usize = batch.entries.iter().map(|entry| entry.content.weight()).sum();
        while batch.whole.is_none() && batch.entries.len() < BATCH_ENTRIES && bytes < BATCH_BYTES {
            let Some(next) =
                state.queue.pop_front_if(|next| next.whole.is_none() && next.is_lasting == batch.is_lasting)
            else {
                break;
            };
            bytes += next.entries.iter().map(|entry| entry.content.weight()).sum::<usize>();
            batch.entries.extend(next.entries);
        }
        Some(batch)
    }

    async fn append<W: Writer>(&self, writer: &mut W, batch: Batch) -> Result<(), BrokerError> {
        let Batch { entries, whole, is_lasting, since } = batch;
        {
            let mut state = self.state.borrow_mut();
            let sent = |entry: &Unordered| Sent { entry: entry.clone(), is_lasting, whole, since, taken: None };
            state.sent.extend(entries.iter().map(sent));
        }
        let append =
            within(ANSWER_MAX, writer.append(&entries, whole.is_some()), "the broker does not answer an append");
        let outcomes = append.await?;
        ServerFigures::add(&self.parts.figures.backplane_appends, entries.len() as u64);
        ServerFigures::add(&self.parts.figures.backplane_batches, 1);
        let now = Instant::now();
        let mut again = None;
        let mut state = self.state.borrow_mut();
        for (entry, outcome) in entries.iter().zip(outcomes) {
            let place = state.sent.binary_search_by_key(&entry.number, |sent| sent.entry.number).ok();
            match outcome {
                Appended::Done => {
                    if let Some(sent) = place.and_then(|place| state.sent.get_mut(place)) {
                        sent.taken = Some(now);
                    }
                    continue;
                }
                Appended::Again(why) => {
                    again = Some(why);
                    continue;
                }
                Appended::Refused(why) => self.refuse(entry.number, true, &why),
                Appended::Unconfirmed(why) => self.refuse(entry.number, false, &why),
            }
            place.and_then(|place| state.sent.remove(place));
        }
        if let Some(why) = again {
            while let Some(sent) = state.sent.pop_back_if(|sent| sent.taken.is_none()) {
                state.send_again(sent);
            }
            return Err(BrokerError::Away(why));
        }
        if let Some(last) = entries.last() {
            self.tell(FromBroker::Confirmed(last.number));
        }
        Ok(())
    }

    /// Publishes the figure of how long ago an entry was read.
    fn note_age(&self) {
        let age_ms = self.state.borrow().read_at.elapsed().as_millis() as u64;
        ServerFigures::set(&self.parts.figures.backplane_last_entry_age_ms, age_ms);
    }

    /// Refuses entries that have waited for too long.
    fn refuse_late(&self) {
        let max = self.parts.config.publish_timeout;
        let mut state = self.state.borrow_mut();
        let is_late = |since: Instant, is_lasting: bool| !is_lasting && since.elapsed() >= max;
        while let Some(batch) = state.queue.pop_front_if(|batch| is_late(batch.since, batch.is_lasting)) {
            for entry in &batch.entries {
                self.refuse(entry.number, true, "the broker was away for too long");
            }
        }
        while let Some(sent) = state.sent.pop_front_if(|sent| is_late(sent.since, sent.is_lasting)) {
            self.refuse(sent.entry.number, false, "the broker did not give it back in time");
        }
    }

    fn refuse(&self, number: u64, is_certain: bool, why: &str) {
        self.count(|figures| match is_certain {
            true => &figures.backplane_refused,
            false => &figures.backplane_unsure,
        });
        self.tell(FromBroker::Refused { number, is_certain, why: Arc::from(why) });
    }

    /// Looks whether the log still is what this node has read.
    async fn check<W: Writer>(&self, writer: &mut W) -> Result<(), BrokerError> {
        self.note_age();
        let (position, is_entry) = self.position();
        if std::mem::take(&mut self.state.borrow_mut().has_told_hole) {
            writer.forget().await;
        }
        let silent = "the broker does not answer a look at the log";
        let (resumed, loss) = match within(ANSWER_MAX, writer.check(position, is_entry), silent).await? {
            Continuity::Whole => return Ok(()),
            Continuity::Trimmed(resumed) => (resumed, Loss::Trimmed),
            Continuity::Emptied(resumed) => (resumed, Loss::Emptied),
            Continuity::Lost(after) => {
                let position = self.state.borrow().position;
                warn!(%after, %position, "the broker has lost entries that were read: every node is told");
                self.count(|figures| &figures.backplane_fences);
                return within(ANSWER_MAX, writer.fence(position, after), silent).await;
            }
        };
        let mut state = self.state.borrow_mut();
        let after = state.position;
        // A read that came meanwhile tells of holes itself.
        if state.has_told_hole || loss == Loss::Trimmed && after != position {
            return Ok(());
        }
        state.position = resumed.max(after);
        state.is_entry = false;
        let resumed = state.position;
        self.count(|figures| match loss {
            Loss::Emptied => &figures.backplane_gaps_emptied,
            Loss::Trimmed | Loss::Lost => &figures.backplane_gaps_trimmed,
        });
        self.tell(FromBroker::Gap { after: after.min(resumed), resumed, loss });
        Ok(())
    }

    /// Finds entries that the broker has taken and that do not come back: the reading connection is then one to a server
    /// that is not the writing one's.
    fn look_for_lost_reads(&self) -> Result<(), BrokerError> {
        let state = self.state.borrow();
        let is_lost = |sent: &Sent| sent.taken.is_some_and(|taken| taken.elapsed() > ANSWER_MAX);
        match state.sent.iter().any(is_lost) {
            true => Err(BrokerError::Away("the broker has taken entries that do not come back".into())),
            false => Ok(()),
        }
    }

    fn tell(&self, message: FromBroker) {
        self.parts.to_hub.send(HubMessage::Broker(message));
        self.parts.to_hub.ring();
    }

    fn count(&self, figure: impl FnOnce(&ServerFigures) -> &std::sync::atomic::AtomicU64) {
        ServerFigures::add(figure(&self.parts.figures), 1);
    }
}
