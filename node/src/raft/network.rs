//! What a leader or candidate says to another replica, over the connection of their nodes.
//!
//! Owns the translation of openraft's calls, pipelined appends, and their deadlines. Deliberately knows no address:
//! [`Links`] finds the node. Nothing here retries: openraft does, with its own backoff.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::channel::mpsc;
use futures::{Stream, StreamExt};
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::v2::RaftNetworkV2;
use openraft::network::{RPCOption, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendError,
    StreamAppendResult, TransferLeaderError, TransferLeaderRequest, TransferLeaderResponse,
    VoteRequest, VoteResponse,
};
use openraft::{EntryPayload, OptionalSend};
use openraft_rt::{AsyncRuntime, BoxFuture, BoxStream, Instant as _, Select3};
use parking_lot::Mutex;
use polyfs_core::codec::DecodeError;
use polyfs_core::ids::{GroupId, ReplicaId};
use polyfs_core::limits::{RAFT_ELECTION_MIN, REQUEST_DEADLINE};

use super::followers::{Electorate, Followers, PipeId, REST};
use super::log_driver::SharedLog;
use super::snapshot::{Snapshot, SnapshotOf};
use super::state::GroupState;
use super::types::{Entry, LogId, TypeConfig, Vote, join_entry, log_id, split_entry};
use crate::conn::{Appended, Conn};
use crate::links::Links;
use crate::runtime::Runtime;
use crate::wire::{
    AppendHead, AppendStop, Call, Ends, EntryHead, Message, RaftCall, RaftReply, Refused, Reply,
    TransferRefusal, VoteAsk,
};

/// An append without entries waits this long for one with, to go along with it: openraft sends one for each commit.
const HOLD: Duration = Duration::from_millis(5);

/// While entries go out a follower is told no more often than this how far the group has committed: it applies several
/// at once then. Nobody waits for that but whoever becomes leader.
const TELL_COMMIT: Duration = Duration::from_millis(5);

/// How long nothing at all may happen before a pipe looks around.
const IDLE: Duration = Duration::from_secs(3600);

/// After a request with so many bytes, or entries, the next goes out at once: there may be much to catch up with.
const LARGE_BYTES: usize = 256 << 10;
const MANY_ENTRIES: usize = 64;

/// Requests on their way at a time.
const WINDOW: usize = 32;

type Config<R> = TypeConfig<R>;
type Request<R> = AppendEntriesRequest<Config<R>>;
type AppendItem<R> = Result<StreamAppendResult<Config<R>>, RPCError<Config<R>>>;

/// Makes a [`Network`] for each other replica of a group.
pub struct Networks<R: Runtime> {
    links: Links<R>,
    log: SharedLog<R>,
    state: GroupState<R>,
    group: GroupId,
    me: ReplicaId,
    followers: Arc<Mutex<Followers>>,
}

impl<R: Runtime> Networks<R> {
    /// For the replica `me` of `group`, whose node keeps `log` and whose state is `state`.
    #[must_use]
    pub fn new(
        links: Links<R>,
        log: SharedLog<R>,
        state: GroupState<R>,
        group: GroupId,
        me: ReplicaId,
    ) -> Self {
        Self {
            links,
            log,
            state,
            group,
            me,
            followers: Arc::default(),
        }
    }

    fn network(&self, target: u64, heartbeat: bool) -> Network<R> {
        let ends = Ends {
            group: self.group,
            from: self.me,
            to: ReplicaId(target),
        };
        Network {
            links: self.links.clone(),
            log: self.log.clone(),
            state: self.state.clone(),
            followers: Arc::clone(&self.followers),
            ends,
            heartbeat,
        }
    }
}

impl<R: Runtime> RaftNetworkFactory<Config<R>> for Networks<R> {
    type Network = Network<R>;

    async fn new_client(&mut self, target: u64, _: &()) -> Network<R> {
        self.network(target, false)
    }

    async fn new_heartbeat_client(&mut self, target: u64, _: &()) -> Network<R> {
        self.network(target, true)
    }
}

/// The way from one replica to another.
pub struct Network<R: Runtime> {
    pub(super) links: Links<R>,
    log: SharedLog<R>,
    state: GroupState<R>,
    followers: Arc<Mutex<Followers>>,
    pub(super) ends: Ends,
    heartbeat: bool,
}

/// Why a node whose disk stands still says nothing.
const DISK_STANDS_STILL: &str = "this node's disk stands still: it is to lose its leaders";

/// P2: whatever a leader says renews its followers' leases, an append as much as a heartbeat, and its group commits
/// without its disk. So one whose disk keeps its group from going on falls silent altogether.
fn falls_silent<R: Runtime>(log: &SharedLog<R>, group: GroupId) -> bool {
    log.stands_still(group) && !cfg!(planted = "heartbeats_without_disk")
}

pub(super) fn unreachable_because<R: Runtime>(why: &str) -> Unreachable<Config<R>> {
    Unreachable::new(&io::Error::other(why.to_owned()))
}

fn unreachable_rpc<R: Runtime>(why: &str) -> RPCError<Config<R>> {
    RPCError::Unreachable(unreachable_because(why))
}

impl<R: Runtime> Network<R> {
    /// The connection, if there is one; otherwise one is on its way.
    ///
    /// # Errors
    /// What keeps it from being there.
    pub(super) fn conn(&self) -> Result<Arc<Conn>, &'static str> {
        if falls_silent(&self.log, self.ends.group) {
            return Err(DISK_STANDS_STILL);
        }
        let node = self.links.node_of(self.ends.group, self.ends.to);
        let node = node.ok_or("it is not known which node holds the replica")?;
        self.links
            .to(node)
            .ok_or("no connection to the replica's node")
    }

    /// Counts the other replica among the followers.
    fn followed(&self) -> PipeId {
        let Ends { group, to, .. } = self.ends;
        let node = self.links.node_of(group, to).unwrap_or_default();
        let distance = node.0.wrapping_sub(self.links.me().node.0);
        self.followers.lock().follows(to, distance)
    }

    /// Asks and waits for at most `deadline`.
    pub(super) async fn ask(
        &self,
        body: RaftCall,
        payload: Vec<Bytes>,
        deadline: Duration,
    ) -> Result<RaftReply, String> {
        let conn = self.conn()?;
        let asked = conn.call(
            Call::Raft {
                ends: self.ends,
                body,
            },
            payload,
        );
        match R::Async::timeout(deadline, asked).await {
            Ok(Ok((Reply::Raft(reply), _))) => Ok(reply),
            Ok(Ok((Reply::Refused(refused), _)) | Err(refused)) => Err(refused.to_string()),
            Ok(Ok(_)) => Err("the answer belongs to another question".into()),
            Err(_) => Err("no answer in time".into()),
        }
    }

    /// One question and one answer.
    async fn append_alone(&self, request: &Request<R>, deadline: Duration) -> AppendItem<R> {
        let (to, vote) = (self.ends.to, request.vote);
        let acknowledged = self.followers.lock().acknowledged.by(to, vote);
        let (head, payload) = append_head(request, acknowledged);
        let asked = self.ask(RaftCall::Append(head), payload, deadline).await;
        match asked {
            Ok(RaftReply::Append(result)) => {
                if let Ok(Some(matching)) = result {
                    let mut followers = self.followers.lock();
                    followers.acknowledged.note(to, vote, matching);
                }
                stream_result(result)
            }
            Ok(_) => Err(unreachable_rpc("the answer belongs to another question")),
            Err(why) => Err(unreachable_rpc(&why)),
        }
    }

    async fn ask_vote(
        &self,
        body: RaftCall,
        deadline: Duration,
    ) -> Result<VoteResponse<Config<R>>, RPCError<Config<R>>> {
        match self.ask(body, vec![], deadline).await {
            Ok(RaftReply::Vote {
                vote,
                granted,
                last,
            }) => Ok(VoteResponse::new(vote, last, granted)),
            Ok(_) => Err(unreachable_rpc("the answer belongs to another question")),
            Err(why) => Err(unreachable_rpc(&why)),
        }
    }
}

fn vote_ask<R: Runtime>(request: &VoteRequest<Config<R>>) -> VoteAsk {
    VoteAsk {
        vote: request.vote,
        last: request.last_log_id,
        transfer: request.leadership_transfer,
    }
}

/// The header of a request, and its entries' payloads, to a follower that has acknowledged so far.
fn append_head<R: Runtime>(
    request: &Request<R>,
    acknowledged: Option<LogId>,
) -> (AppendHead, Vec<Bytes>) {
    let mut payloads = Vec::new();
    let entries = request.entries.iter().map(|entry| {
        let (head, payload) = split_entry(entry);
        let payload_bytes = u32::try_from(payload.len()).expect("an entry is bounded");
        if !payload.is_empty() {
            payloads.push(payload);
        }
        let (term, index) = (
            entry.log_id.committed_leader_id().term,
            entry.log_id.index(),
        );
        EntryHead {
            term,
            index,
            head,
            payload_bytes,
        }
    });
    let entries = entries.collect();
    let head = AppendHead {
        vote: request.vote,
        prev: request.prev_log_id,
        commit: request.leader_commit,
        acknowledged,
        entries,
    };
    (head, payloads)
}

/// The request of a header and a frame's payload.
///
/// # Errors
/// When they do not fit each other.
pub(crate) fn append_request<R: Runtime>(
    head: AppendHead,
    mut payload: Bytes,
) -> Result<Request<R>, DecodeError> {
    let mut entries = Vec::with_capacity(head.entries.len());
    for entry in head.entries {
        let bytes = usize::try_from(entry.payload_bytes).expect("usize has at least 32 bits");
        if bytes > payload.len() {
            return Err(DecodeError::Invalid("append"));
        }
        let own = payload.split_to(bytes);
        entries.push(join_entry(
            log_id(entry.term, entry.index),
            entry.head,
            own,
        )?);
    }
    if !payload.is_empty() {
        return Err(DecodeError::Trailing("append", payload.len()));
    }
    Ok(AppendEntriesRequest {
        vote: head.vote,
        prev_log_id: head.prev,
        leader_commit: head.commit,
        entries,
    })
}

fn stream_result<R: Runtime>(result: Appended) -> AppendItem<R> {
    match result {
        Ok(matching) => Ok(Ok(matching)),
        Err(AppendStop::Conflict(id)) => Ok(Err(StreamAppendError::Conflict(id))),
        Err(AppendStop::HigherVote(vote)) => Ok(Err(StreamAppendError::HigherVote(vote))),
        Err(AppendStop::Refused(refused)) => Err(unreachable_rpc(&refused.to_string())),
    }
}

impl<R: Runtime> RaftNetworkV2<Config<R>> for Network<R> {
    type SnapshotData = Snapshot<R>;

    async fn append_entries(
        &mut self,
        request: Request<R>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Config<R>>, RPCError<Config<R>>> {
        let item = self.append_alone(&request, option.hard_ttl()).await;
        item.map(Into::into)
    }

    fn stream_append<'s, S>(
        &'s mut self,
        mut input: S,
        option: RPCOption,
    ) -> BoxFuture<'s, Result<BoxStream<'s, AppendItem<R>>, RPCError<Config<R>>>>
    where
        S: Stream<Item = Request<R>> + OptionalSend + Unpin + 'static,
    {
        Box::pin(async move {
            // openraft waits out its backoff inside the input: it must be asked even when nothing can be sent.
            let Some(request) = input.next().await else {
                return Ok(Box::pin(futures::stream::empty()) as BoxStream<'s, _>);
            };
            if self.heartbeat {
                // A stream would be set up and torn down for it.
                let item = self.append_alone(&request, option.hard_ttl()).await;
                return Ok(Box::pin(futures::stream::iter([item])) as BoxStream<'s, _>);
            }
            let conn = self.conn().map_err(unreachable_rpc)?;
            let opened = conn.open_stream();
            let (stream, results) = opened.map_err(|why| unreachable_rpc(&why.to_string()))?;
            let mut pipe = Pipe::<R, S> {
                line: Line {
                    conn,
                    ends: self.ends,
                    stream,
                },
                vote: request.vote,
                log: self.log.clone(),
                state: self.state.clone(),
                id: self.followed(),
                followers: Arc::clone(&self.followers),
                input: Some(input),
                resting: None,
                results,
                held: None,
                told: None,
                sent: VecDeque::new(),
                asks: Asks(VecDeque::new()),
                ready: VecDeque::new(),
                ended: false,
            };
            pipe.send(&request).map_err(unreachable_rpc)?;
            let items = futures::stream::unfold(pipe, |mut pipe| async move {
                pipe.next().await.map(|item| (item, pipe))
            });
            Ok(Box::pin(items) as BoxStream<'s, _>)
        })
    }

    async fn vote(
        &mut self,
        request: VoteRequest<Config<R>>,
        option: RPCOption,
    ) -> Result<VoteResponse<Config<R>>, RPCError<Config<R>>> {
        self.ask_vote(RaftCall::Vote(vote_ask(&request)), option.hard_ttl())
            .await
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<Config<R>>,
        option: RPCOption,
    ) -> Result<VoteResponse<Config<R>>, RPCError<Config<R>>> {
        self.ask_vote(RaftCall::PreVote(vote_ask(&request)), option.hard_ttl())
            .await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: SnapshotOf<R>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<Config<R>>, StreamingError<Config<R>>> {
        super::snapshot::send(self, vote, snapshot, cancel).await
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<Config<R>>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Config<R>>, RPCError<Config<R>>> {
        let body = RaftCall::Transfer {
            from: *request.from_leader(),
            to: *request.to_node_id(),
            last: request.last_log_id().copied(),
        };
        match self.ask(body, vec![], option.hard_ttl()).await {
            Ok(RaftReply::Transfer(Ok(()))) => Ok(Ok(())),
            Ok(RaftReply::Transfer(Err(refusal))) => Ok(Err(match refusal {
                TransferRefusal::VoteChanged { expected, actual } => {
                    TransferLeaderError::VoteChanged { expected, actual }
                }
                TransferRefusal::LogNotFlushed { expected, actual } => {
                    TransferLeaderError::LogNotFlushed { expected, actual }
                }
            })),
            Ok(_) => Err(unreachable_rpc("the answer belongs to another question")),
            Err(why) => Err(unreachable_rpc(&why)),
        }
    }
}

/// The sending end of a stream on its connection; closes it when dropped.
struct Line {
    conn: Arc<Conn>,
    pub(super) ends: Ends,
    stream: u64,
}

impl Line {
    fn send(&self, head: AppendHead, payload: Vec<Bytes>) -> Result<(), Refused> {
        self.conn.send(
            &Message::Append {
                ends: self.ends,
                stream: self.stream,
                head,
            },
            payload,
        )
    }
}

impl<R: Runtime, S> Drop for Pipe<R, S> {
    fn drop(&mut self) {
        self.followers.lock().left_alone(self.id);
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.conn.close_stream(self.stream);
    }
}

/// An answer tells who leads for so long after its request: what a follower stands by its leader, less something for clocks
/// that drift. openraft
/// takes an answer for one to everything of the same end, also to what was asked since without entries, and lets reads go
/// by that: a later answer could be of a follower that has elected somebody else before the read.
const ANSWER_COUNTS: Duration = RAFT_ELECTION_MIN.saturating_sub(Duration::from_millis(100));

/// Appends under way: requests go out as they come, results come back in the same order.
struct Pipe<R: Runtime, S> {
    line: Line,
    /// The leadership that sends: openraft begins another stream for another.
    vote: Vote,
    log: SharedLog<R>,
    state: GroupState<R>,
    id: PipeId,
    followers: Arc<Mutex<Followers>>,
    input: Option<S>,
    /// While requests wait for company, unasked for.
    resting: Option<Rest<<R::Async as AsyncRuntime>::Instant>>,
    results: mpsc::UnboundedReceiver<Appended>,
    /// An entry-less request that waits for company, and until when.
    held: Option<(Request<R>, <R::Async as AsyncRuntime>::Instant)>,
    /// How far the group has committed, as the other end was told last, and when.
    told: Option<(Option<LogId>, <R::Async as AsyncRuntime>::Instant)>,
    /// For each request on its way: when it was sent.
    sent: VecDeque<<R::Async as AsyncRuntime>::Instant>,
    asks: Asks<<R::Async as AsyncRuntime>::Instant>,
    ready: VecDeque<AppendItem<R>>,
    ended: bool,
}

/// Requests without entries that openraft waits to see answered, sent as such or not: the ends of their logs, and when each
/// was made.
struct Asks<I>(VecDeque<(Option<LogId>, I)>);

impl<I: PartialOrd> Asks<I> {
    fn asked(&mut self, end: Option<LogId>, now: I) {
        match self.0.back_mut() {
            Some(last) if last.0 == end => last.1 = now,
            _ => self.0.push_back((end, now)),
        }
    }

    /// An answer matches this far, to what was sent then: whether it is taken for one to a request that was made since.
    fn answered(&mut self, matching: Option<LogId>, sent: I) -> bool {
        let mut since = false;
        while let Some((_, made)) = self.0.pop_front_if(|(end, _)| *end <= matching) {
            since |= made > sent && !cfg!(planted = "late_answers_count");
        }
        since
    }
}

/// When a pipe that rests looks whether it is needed, and when it ends in any case.
#[derive(Clone, Copy)]
struct Rest<I> {
    look: I,
    end: I,
}

impl<R: Runtime, S> Pipe<R, S>
where
    S: Stream<Item = Request<R>> + OptionalSend + Unpin + 'static,
{
    async fn next(&mut self) -> Option<AppendItem<R>> {
        loop {
            if let Some(item) = self.ready.pop_front() {
                return Some(item);
            }
            // The output ends when the input has: else the group has a leader and never commits.
            if self.ended || (self.input.is_none() && self.sent.is_empty() && self.held.is_none()) {
                return None;
            }
            if let Err(why) = self.step().await {
                self.ended = true;
                return Some(Err(unreachable_rpc(why)));
            }
        }
    }

    /// Waits for whatever comes first: a result, a request, or a time.
    async fn step(&mut self) -> Result<(), &'static str> {
        let answer_by = self.sent.front().map(|sent| *sent + REQUEST_DEADLINE);
        let held_until = self.held.as_ref().map(|(_, until)| *until);
        let look = self.resting.map(|rest| rest.look);
        let times = [answer_by, held_until, look].into_iter().flatten();
        let wake = times.min().unwrap_or_else(|| NowPlus::now_plus(IDLE));
        let asks = self.sent.len() < WINDOW && self.resting.is_none();
        let input = self.input.as_mut().filter(|_| asks);
        let next_request = async {
            match input {
                Some(input) => input.next().await,
                None => std::future::pending().await,
            }
        };
        let came = R::Async::select3(
            self.results.next(),
            next_request,
            R::Async::sleep_until(wake),
        );
        match came.await {
            Select3::First(Some(result)) => self.answered(result),
            Select3::First(None) => Err("the connection broke"),
            Select3::Second(Some(request)) => self.requested(request),
            Select3::Second(None) => {
                self.input = None;
                self.send_held()
            }
            Select3::Third(()) if answer_by.is_some_and(|by| by <= wake) => {
                Err("no answer in time")
            }
            Select3::Third(()) if look.is_some_and(|look| look <= wake) => {
                let rest = self.resting.expect("it has a time to look");
                self.rest_until(rest.end, <R::Async as AsyncRuntime>::Instant::now());
                Ok(())
            }
            Select3::Third(()) => self.send_held(),
        }
    }

    fn answered(&mut self, result: Appended) -> Result<(), &'static str> {
        let sent = self.sent.pop_front().ok_or("an answer to nothing")?;
        if result.is_ok() {
            let took = <R::Async as AsyncRuntime>::Instant::now() - sent;
            let asked_since = self.asks.answered(result.ok().flatten(), sent);
            if asked_since && took > ANSWER_COUNTS {
                return Err("an answer came too late to tell who leads");
            }
            let now = self.log.runtime().now().mono;
            let mut followers = self.followers.lock();
            followers.answered(self.id, now, took);
            if let Ok(Some(matching)) = result {
                let to = self.line.ends.to;
                followers.acknowledged.note(to, self.vote, matching);
            }
        }
        self.ended = result.is_err();
        self.ready.push_back(stream_result::<R>(result));
        Ok(())
    }

    fn requested(&mut self, request: Request<R>) -> Result<(), &'static str> {
        if request.entries.is_empty() {
            let now = <R::Async as AsyncRuntime>::Instant::now();
            self.asks.asked(request.prev_log_id, now);
            let until = <R::Async as AsyncRuntime>::Instant::now_plus(HOLD);
            // A second one says all that the first did, and must not wait longer.
            let until = self.held.take().map_or(until, |(_, until)| until);
            self.held = Some((request, until));
            return Ok(());
        }
        // What was held is answered together with what follows it: an answer says how far the log matches.
        self.held = None;
        let now = <R::Async as AsyncRuntime>::Instant::now();
        self.rest(&request, now);
        match self.told {
            Some((committed, at))
                if now < at + TELL_COMMIT && committed < request.leader_commit =>
            {
                let told_later = Request::<R> {
                    vote: request.vote,
                    prev_log_id: request.entries.last().map(|entry| entry.log_id),
                    entries: Vec::new(),
                    leader_commit: request.leader_commit,
                };
                let mut request = request;
                request.leader_commit = committed;
                // Along with the next entries, if such come soon after its time.
                self.held = Some((told_later, at + TELL_COMMIT + HOLD));
                self.send(&request)
            }
            _ => self.send(&request),
        }
    }

    /// What comes next may wait for company, if the group commits without this follower.
    fn rest(&mut self, request: &Request<R>, now: <R::Async as AsyncRuntime>::Instant) {
        let bytes = |entry: &Entry| match &entry.payload {
            EntryPayload::Normal(command) => command.bytes(),
            EntryPayload::Blank | EntryPayload::Membership(_) => 0,
        };
        let many = request.entries.len() >= MANY_ENTRIES;
        if !many && request.entries.iter().map(bytes).sum::<usize>() < LARGE_BYTES {
            self.rest_until(now + REST, now);
        }
    }

    /// It waits until `end` at the latest, if the group commits without this follower until it looks again.
    fn rest_until(
        &mut self,
        end: <R::Async as AsyncRuntime>::Instant,
        now: <R::Async as AsyncRuntime>::Instant,
    ) {
        let mono = self.log.runtime().now().mono;
        let mut followers = self.followers.lock();
        let waits = now < end && followers.may_wait(self.id, &self.electorate(), mono);
        let unless_late = followers.may_rest_for(self.state.applied_index(), mono);
        self.resting = unless_late.filter(|_| waits).map(|span| Rest {
            look: end.min(now + span),
            end,
        });
    }

    fn electorate(&self) -> Electorate {
        Electorate {
            leader: self.line.ends.from,
            voters: self.state.voters(),
        }
    }

    fn send_held(&mut self) -> Result<(), &'static str> {
        match self.held.take() {
            Some((held, _)) => self.send(&held),
            None => Ok(()),
        }
    }

    fn send(&mut self, request: &Request<R>) -> Result<(), &'static str> {
        if falls_silent(&self.log, self.line.ends.group) {
            return Err(DISK_STANDS_STILL);
        }
        let acknowledged = {
            let followers = self.followers.lock();
            followers.acknowledged.by(self.line.ends.to, request.vote)
        };
        let (head, payload) = append_head(request, acknowledged);
        let now = <R::Async as AsyncRuntime>::Instant::now();
        if self
            .told
            .is_none_or(|(committed, _)| committed < request.leader_commit)
        {
            self.told = Some((request.leader_commit, now));
        }
        self.line
            .send(head, payload)
            .map_err(|_| "the connection does not take more")?;
        if let Some(last) = request.entries.last() {
            let mono = self.log.runtime().now().mono;
            let applied = self.state.applied_index();
            let mut followers = self.followers.lock();
            followers.sent(last.log_id.index(), applied, mono);
        }
        self.sent.push_back(now);
        Ok(())
    }
}

/// Instants of openraft's runtime, by distance.
trait NowPlus: Sized {
    fn now_plus(span: Duration) -> Self;
}

impl<I: openraft_rt::Instant> NowPlus for I {
    fn now_plus(span: Duration) -> Self {
        I::now() + span
    }
}

#[cfg(test)]
mod tests {
    use super::Asks;
    use crate::raft::types::log_id;
    use std::collections::VecDeque;

    /// openraft credits an answer to all requests whose end it reaches.
    #[test]
    fn an_answer_is_taken_for_one_to_what_was_asked_since() {
        let end = |index| Some(log_id(1, index));
        let mut asks = Asks(VecDeque::new());
        assert!(!asks.answered(end(3), 1), "nothing was asked");
        asks.asked(end(4), 10);
        assert!(!asks.answered(end(3), 20), "it does not reach so far");
        assert!(!asks.answered(end(4), 20), "it was sent after that");
        asks.asked(end(5), 30);
        asks.asked(end(5), 40);
        asks.asked(end(6), 50);
        assert!(asks.answered(end(5), 35), "the second came since");
        assert!(!asks.answered(end(5), 35), "once");
        assert!(asks.answered(end(9), 35), "so did the third");
    }
}
