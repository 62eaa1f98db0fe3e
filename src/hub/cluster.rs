//! The other nodes of a cluster, as the log tells of them: which are alive, and which users each of them has on channels.
//!
//! Times are those of the log, so that all nodes take a silent node for gone at the same entry.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use arcstr::ArcStr;

use crate::figures::NodeSeen;
use crate::logic::entry::{Control, Presence};
use crate::logic::event::ChannelName;
use crate::logic::id::Id;

/// The time between two beats of a node.
pub(super) const BEAT_EVERY: Duration = Duration::from_secs(5);
/// The silence after which a node is taken for gone, in milliseconds of the log.
const GONE_AFTER_MS: u64 = 15_000;
/// The time for which a new node waits for the state of the others.
const STATE_MAX: Duration = Duration::from_secs(2);
/// Users in one part of a node's state.
const STATE_USERS: usize = 500;

/// A node that is alive.
#[derive(Clone, Debug, Default)]
pub(super) struct Node {
    /// The log's time of its newest entry.
    pub(super) heard_ms: u64,
    /// The name by which operators know it.
    pub(super) name: Box<str>,
    pub(super) version: Box<str>,
    pub(super) position: Id,
    /// Whether this node has begun to write that it is gone.
    is_being_buried: bool,
}

impl Node {
    /// The node for operators, at a time of the log.
    pub(super) fn seen(&self, now_ms: u64) -> NodeSeen {
        let silent_ms = now_ms.saturating_sub(self.heard_ms);
        let (name, version) = (self.name.clone(), self.version.clone());
        NodeSeen { name, version, position: self.position.to_string(), silent_ms }
    }
}

/// A user on a channel.
#[derive(Debug, Default)]
struct Here {
    /// Whether the user has a connection on this node.
    is_local: bool,
    /// The nodes on which the user has one, as the log tells.
    nodes: BTreeSet<ArcStr>,
    /// Whether an entry about the user is on its way to the log.
    is_under_way: bool,
}

/// A question of another node that this node's shards are answering.
#[derive(Debug)]
struct Asked {
    node: ArcStr,
    request: u64,
    missing: usize,
    count: u64,
}

/// How far this node has joined.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Joining {
    /// The node has not asked the others for their state.
    Alone,
    /// The node waits for the state of these nodes.
    Asked(BTreeSet<ArcStr>, Instant),
    /// The node knows what the others know.
    Joined,
}

/// The change that an entry makes to a user's presence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// The user has come to the cluster.
    Came,
    /// The user has left it.
    Left,
    /// The user was there before and after, or neither.
    None,
}

/// The cluster as this node sees it.
#[derive(Debug)]
pub(super) struct Cluster {
    mark: ArcStr,
    nodes: BTreeMap<ArcStr, Node>,
    present: BTreeMap<ChannelName, BTreeMap<ArcStr, Here>>,
    /// Users whose entry was refused, and is to be written again.
    unwritten: Vec<(ChannelName, ArcStr)>,
    asked: HashMap<u64, Asked>,
    joining: Joining,
    beat_at: Option<Instant>,
}

impl Cluster {
    /// The cluster as a node sees it that has read nothing yet.
    pub(super) fn new(mark: ArcStr) -> Cluster {
        Cluster {
            mark,
            nodes: BTreeMap::new(),
            present: BTreeMap::new(),
            unwritten: Vec::new(),
            asked: HashMap::new(),
            joining: Joining::Alone,
            beat_at: None,
        }
    }

    /// Notes that a node has written an entry.
    pub(super) fn hear(&mut self, node: &ArcStr, at_ms: u64) {
        match self.nodes.get_mut(node) {
            Some(known) => known.heard_ms = known.heard_ms.max(at_ms),
            None => {
                self.nodes.insert(node.clone(), Node { heard_ms: at_ms, ..Node::default() });
            }
        }
    }

    /// Takes a node's beat.
    pub(super) fn beat(&mut self, node: &ArcStr, name: Box<str>, version: Box<str>, position: Id) {
        if let Some(known) = self.nodes.get_mut(node) {
            (known.name, known.version, known.position) = (name, version, position);
        }
    }

    /// The nodes that are alive.
    pub(super) fn nodes(&self) -> impl ExactSizeIterator<Item = &Node> {
        self.nodes.values()
    }

    /// Whether this node must write a beat now.
    pub(super) fn is_beat_due(&mut self, now: Instant) -> bool {
        let is_due = self.beat_at.is_none_or(|at| at <= now);
        if is_due {
            self.beat_at = Some(now + BEAT_EVERY);
        }
        is_due
    }

    /// Begins to wait for the state of the nodes that are alive. Returns whether this node must ask for it.
    pub(super) fn ask_for_state(&mut self, newest_ms: u64, now: Instant) -> bool {
        if self.joining != Joining::Alone {
            return false;
        }
        let is_alive = |node: &Node| newest_ms.saturating_sub(node.heard_ms) <= GONE_AFTER_MS;
        let others = self.nodes.iter().filter(|(mark, node)| **mark != self.mark && is_alive(node));
        let missing: BTreeSet<ArcStr> = others.map(|(mark, _)| mark.clone()).collect();
        self.joining = Joining::Asked(missing, now + STATE_MAX);
        true
    }

    /// Whether this node knows what the others know, or has waited for it long enough.
    pub(super) fn has_joined(&mut self, now: Instant) -> bool {
        match &self.joining {
            Joining::Asked(missing, until) if missing.is_empty() || *until <= now => self.joining = Joining::Joined,
            _ => {}
        }
        self.joining == Joining::Joined
    }

    /// Takes a part of a node's state.
    pub(super) fn take_state(&mut self, node: &ArcStr, present: Vec<Presence>, is_last: bool) {
        for Presence { channel, user } in present {
            self.here(&channel, &user).nodes.insert(node.clone());
        }
        if let (Joining::Asked(missing, _), true) = (&mut self.joining, is_last) {
            missing.remove(node);
        }
    }

    /// This node's own state in parts, for a node that asks; the revoked tokens go with the last part.
    pub(super) fn state(&self, revoked: Vec<(ArcStr, u64)>) -> Vec<Control> {
        let mut all: Vec<Presence> = Vec::new();
        for (channel, users) in &self.present {
            let own = users.iter().filter(|(_, here)| here.nodes.contains(&self.mark));
            all.extend(own.map(|(user, _)| Presence { channel: channel.clone(), user: user.clone() }));
        }
        let mut parts: Vec<Control> = all
            .chunks(STATE_USERS)
            .map(|part| Control::State { present: part.to_vec(), revoked: Vec::new(), last: false })
            .collect();
        parts.extend(revoked.chunks(STATE_USERS).map(|part| Control::State {
            present: Vec::new(),
            revoked: part.to_vec(),
            last: false,
        }));
        parts.push(Control::State { present: Vec::new(), revoked: Vec::new(), last: true });
        parts
    }

    fn here(&mut self, channel: &ChannelName, user: &ArcStr) -> &mut Here {
        self.present.entry(channel.clone()).or_default().entry(user.clone()).or_default()
    }

    /// Notes whether a user has a connection on this node. Returns the entry that is to be written for it.
    pub(super) fn set_local(&mut self, channel: &ChannelName, user: &ArcStr, is_local: bool) -> Option<Control> {
        self.here(channel, user).is_local = is_local;
        self.next_entry(channel, user)
    }

    /// The entry that brings the log's word about this node and a user up to date, unless one is under way.
    fn next_entry(&mut self, channel: &ChannelName, user: &ArcStr) -> Option<Control> {
        let mark = self.mark.clone();
        let here = self.here(channel, user);
        let is_known = here.nodes.contains(&mark);
        if here.is_under_way {
            return None;
        }
        if here.is_local == is_known {
            self.drop_if_absent(channel, user);
            return None;
        }
        here.is_under_way = true;
        let (channel, user) = (channel.clone(), user.clone());
        Some(match here.is_local {
            true => Control::Join { channel, user },
            false => Control::Leave { channel, user, of: None },
        })
    }

    fn drop_if_absent(&mut self, channel: &ChannelName, user: &ArcStr) {
        let Some(users) = self.present.get_mut(channel) else { return };
        if users.get(user).is_some_and(|here| !here.is_local && !here.is_under_way && here.nodes.is_empty()) {
            users.remove(user);
        }
        if users.is_empty() {
            self.present.remove(channel);
        }
    }

    /// Notes that an entry about a user was refused; it is written again later.
    pub(super) fn note_refused(&mut self, channel: ChannelName, user: ArcStr) {
        self.here(&channel, &user).is_under_way = false;
        self.unwritten.push((channel, user));
    }

    /// Entries that were refused and are to be written now.
    pub(super) fn take_unwritten(&mut self) -> Vec<Control> {
        let all = std::mem::take(&mut self.unwritten);
        all.into_iter().filter_map(|(channel, user)| self.next_entry(&channel, &user)).collect()
    }

    /// Takes the entry that a user has come to a node, or has left it. `is_own`: this node has written the entry. Returns
    /// what changes for the cluster, and the entry that this node is to write because of it.
    pub(super) fn apply(
        &mut self,
        channel: &ChannelName,
        user: &ArcStr,
        (node, is_join): (&ArcStr, bool),
        is_own: bool,
    ) -> (Change, Option<Control>) {
        let here = self.here(channel, user);
        let before = here.nodes.is_empty();
        match is_join {
            true => here.nodes.insert(node.clone()),
            false => here.nodes.remove(node),
        };
        if is_own {
            here.is_under_way = false;
        }
        let change = match (before, here.nodes.is_empty()) {
            (true, false) => Change::Came,
            (false, true) => Change::Left,
            _ => Change::None,
        };
        (change, self.next_entry(channel, user))
    }

    /// The users on a channel, each with whether it is on this node, and the number of other nodes.
    pub(super) fn users(&self, channel: &str) -> impl Iterator<Item = (&ArcStr, usize)> {
        let users = self.present.get(channel).into_iter().flatten();
        let others = |here: &Here| here.nodes.iter().filter(|node| **node != self.mark).count();
        users.filter(|(_, here)| !here.nodes.is_empty()).map(move |(user, here)| (user, others(here)))
    }

    /// A node that was silent for too long at this time of the log, if it is for this node to say so: the entries that
    /// take its users off, and the one that says that it is gone.
    pub(super) fn bury(&mut self, newest_ms: u64) -> Vec<Control> {
        let is_gone = |node: &Node| newest_ms.saturating_sub(node.heard_ms) > GONE_AFTER_MS;
        let first_alive = self.nodes.iter().find(|(_, node)| !is_gone(node)).map(|(mark, _)| mark);
        if first_alive != Some(&self.mark) {
            return Vec::new();
        }
        let gone = self.nodes.iter_mut().find(|(_, node)| is_gone(node) && !node.is_being_buried);
        let Some((mark, node)) = gone else { return Vec::new() };
        node.is_being_buried = true;
        let mark = mark.clone();
        self.farewell(&mark)
    }

    /// The entries that take a node's users off, and the one that says that it is gone.
    fn farewell(&self, mark: &ArcStr) -> Vec<Control> {
        let mut entries = Vec::new();
        for (channel, users) in &self.present {
            for (user, _) in users.iter().filter(|(_, here)| here.nodes.contains(mark)) {
                entries.push(Control::Leave { channel: channel.clone(), user: user.clone(), of: Some(mark.clone()) });
            }
        }
        entries.push(Control::Gone { node: mark.clone() });
        entries
    }

    /// The entries with which this node ends.
    pub(super) fn end(&self) -> Vec<Control> {
        self.farewell(&self.mark)
    }

    /// Takes the entry that a node is gone.
    pub(super) fn forget(&mut self, node: &ArcStr) {
        self.nodes.remove(node);
        if let Joining::Asked(missing, _) = &mut self.joining {
            missing.remove(node);
        }
    }

    /// Begins to count what this node's shards answer to another node's question.
    pub(super) fn begin_answer(&mut self, question: u64, node: ArcStr, request: u64, shards: usize) {
        self.asked.insert(question, Asked { node, request, missing: shards, count: 0 });
    }

    /// Takes a shard's answer. Returns whether the question was another node's, and the reply if no answer is missing.
    pub(super) fn answered(&mut self, question: u64, count: u64) -> Option<Option<Control>> {
        let asked = self.asked.get_mut(&question)?;
        asked.count += count;
        asked.missing = asked.missing.saturating_sub(1);
        if asked.missing > 0 {
            return Some(None);
        }
        let asked = self.asked.remove(&question)?;
        Some(Some(Control::Kicked { node: asked.node, request: asked.request, count: asked.count }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> (ChannelName, ArcStr, ArcStr, ArcStr) {
        ("c".into(), "u".into(), "a".into(), "b".into())
    }

    #[test]
    fn a_user_comes_with_the_first_node_and_goes_with_the_last() {
        let (channel, user, a, b) = names();
        let mut cluster = Cluster::new(a.clone());
        let join = Control::Join { channel: channel.clone(), user: user.clone() };
        assert_eq!(cluster.set_local(&channel, &user, true), Some(join));
        assert_eq!(cluster.set_local(&channel, &user, true), None, "an entry is under way");
        assert_eq!(cluster.apply(&channel, &user, (&b, true), false), (Change::Came, None));
        assert_eq!(cluster.apply(&channel, &user, (&a, true), true), (Change::None, None));
        assert_eq!(cluster.users("c").collect::<Vec<_>>(), [(&user, 1)]);
        assert_eq!(cluster.apply(&channel, &user, (&b, false), false), (Change::None, None));
        let leave = Control::Leave { channel: channel.clone(), user: user.clone(), of: None };
        assert_eq!(cluster.set_local(&channel, &user, false), Some(leave));
        assert_eq!(cluster.apply(&channel, &user, (&a, false), true), (Change::Left, None));
        assert!(cluster.present.is_empty());
    }

    #[test]
    fn a_user_that_came_back_while_its_leave_was_under_way_is_written_again() {
        let (channel, user, a, _) = names();
        let mut cluster = Cluster::new(a.clone());
        cluster.set_local(&channel, &user, true);
        cluster.apply(&channel, &user, (&a, true), true);
        assert!(cluster.set_local(&channel, &user, false).is_some());
        assert_eq!(cluster.set_local(&channel, &user, true), None);
        let (change, entry) = cluster.apply(&channel, &user, (&a, false), true);
        assert_eq!(change, Change::Left);
        assert!(matches!(entry, Some(Control::Join { .. })), "{entry:?}");
        cluster.note_refused(channel.clone(), user.clone());
        assert!(matches!(cluster.take_unwritten()[..], [Control::Join { .. }]));
        assert!(cluster.take_unwritten().is_empty());
    }

    #[test]
    fn the_first_live_node_says_that_a_silent_one_is_gone_and_takes_its_users_off() {
        let (channel, user, a, b) = names();
        let (mut first, mut second) = (Cluster::new(a.clone()), Cluster::new(b.clone()));
        let dead = ArcStr::from("A-dead");
        for cluster in [&mut first, &mut second] {
            [&dead, &a, &b].into_iter().for_each(|node| cluster.hear(node, 1000));
            cluster.apply(&channel, &user, (&dead, true), false);
            [&a, &b].into_iter().for_each(|node| cluster.hear(node, 16_000));
            assert!(cluster.bury(16_000).is_empty(), "15 s are not over");
        }
        assert!(second.bury(16_001).is_empty(), "it is for the first one");
        let leave = Control::Leave { channel: channel.clone(), user: user.clone(), of: Some(dead.clone()) };
        assert_eq!(first.bury(16_001), [leave, Control::Gone { node: dead.clone() }]);
        assert!(first.bury(16_001).is_empty(), "it is said once");
        assert_eq!(second.apply(&channel, &user, (&dead, false), false).0, Change::Left);
        second.forget(&dead);
        assert_eq!(second.nodes().len(), 2);
    }

    #[test]
    fn a_new_node_waits_for_the_state_of_all_that_are_alive_but_not_for_ever() {
        let (channel, user, a, b) = names();
        let now = Instant::now();
        let mut new = Cluster::new(a.clone());
        new.hear(&b, 20_000);
        new.hear(&ArcStr::from("old"), 1000);
        assert!(new.ask_for_state(20_000, now) && !new.ask_for_state(20_000, now));
        assert!(!new.has_joined(now));
        let mut other = Cluster::new(b.clone());
        other.set_local(&channel, &user, true);
        other.apply(&channel, &user, (&b, true), true);
        for part in other.state(vec![("t".into(), 9)]) {
            assert!(!new.has_joined(now));
            let Control::State { present, last, .. } = part else { panic!("{part:?}") };
            new.take_state(&b, present, last);
        }
        assert!(new.has_joined(now));
        assert_eq!(new.users("c").collect::<Vec<_>>(), [(&user, 1)]);
        let mut late = Cluster::new(a);
        late.hear(&b, 20_000);
        late.ask_for_state(20_000, now);
        assert!(late.has_joined(now + STATE_MAX));
    }

    #[test]
    fn another_nodes_question_is_answered_when_all_shards_have() {
        let (.., a, b) = names();
        let mut cluster = Cluster::new(a);
        cluster.begin_answer(7, b.clone(), 3, 2);
        assert_eq!(cluster.answered(7, 2), Some(None));
        assert_eq!(cluster.answered(7, 5), Some(Some(Control::Kicked { node: b, request: 3, count: 7 })));
        assert_eq!((cluster.answered(7, 1), cluster.answered(8, 1)), (None, None), "these are this node's own");
    }
}
