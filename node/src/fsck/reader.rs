//! Reading all regions through their leaders, page by page.
//!
//! Owns the walk over places, so that a split on the way loses nothing, and the retries. Deliberately judges nothing.

use std::time::Duration;

use polyfs_core::client::port::{MasterReply, MasterRequest, RegionLine};
use polyfs_core::ids::{Renewal, SessionId};
use polyfs_core::limits::CALL_DEADLINE;
use polyfs_core::place::{Ino, PLACES, Place, Places};
use polyfs_core::region::audit;
use polyfs_core::region::key::{self, Kind};
use polyfs_core::request::{
    Answer, Aside, ChunkName, ChunkState, DataQuery, DataReply, Header, MetaQuery, MetaReply,
    Refusal, Request, RequestBody, Space,
};
use polyfs_core::time::Timestamp;

use super::FsckError;
use crate::access::Access;
use crate::runtime::Runtime;
use crate::wire::Reply;

/// Records of one page.
const PAGE: u32 = 2048;
/// Names of one page of chunks.
const NAMES: u32 = 8192;
/// One page takes no longer: chunks are read whole.
const PAGE_DEADLINE: Duration = Duration::from_secs(5);
/// The pause before a region is asked again.
const PAUSE: Duration = Duration::from_millis(200);

/// A record as it is stored.
pub(super) type Record = (Vec<u8>, Vec<u8>);

/// Reads the regions of a cluster.
pub(super) struct Reader<R: Runtime> {
    access: Access<R>,
    lines: Vec<RegionLine>,
}

impl<R: Runtime> Reader<R> {
    /// Fetches the region map.
    pub(super) async fn new(access: Access<R>) -> Result<Self, FsckError> {
        let lines = Vec::new();
        let mut reader = Self { access, lines };
        reader.fetch_map().await?;
        Ok(reader)
    }

    pub(super) fn regions(&self) -> usize {
        self.lines.len()
    }

    pub(super) async fn pause(&self, span: Duration) {
        self.access.runtime().sleep(span).await;
    }

    async fn fetch_map(&mut self) -> Result<(), FsckError> {
        let give_up = self.access.runtime().now().mono + CALL_DEADLINE;
        while self.access.runtime().now().mono < give_up {
            match self.access.ask_master(MasterRequest::Map).await {
                Some(MasterReply::Map(lines)) => {
                    self.lines = lines;
                    return Ok(());
                }
                _ => self.pause(PAUSE).await,
            }
        }
        Err(FsckError::NoMaster)
    }

    fn line(&self, space: Space, place: Place) -> Option<usize> {
        let holds = |line: &RegionLine| line.space == space && line.places.contains(place);
        self.lines.iter().position(holds)
    }

    /// Asks the leader of the region that holds a place; what is asked may depend on what the region holds.
    async fn ask(
        &mut self,
        space: Space,
        place: Place,
        body: impl Fn(Places) -> RequestBody,
    ) -> Result<(Answer, Places), FsckError> {
        let give_up = self.access.runtime().now().mono + CALL_DEADLINE;
        let mut tries = 0;
        loop {
            if self.access.runtime().now().mono >= give_up {
                return Err(FsckError::NoAnswer { space, place });
            }
            let Some(at) = self.line(space, place) else {
                self.fetch_map().await?;
                if self.line(space, place).is_none() {
                    self.pause(PAUSE).await;
                }
                continue;
            };
            let line = &self.lines[at];
            let target = line.leader.or_else(|| {
                let replicas = &line.replicas;
                (!replicas.is_empty()).then(|| replicas[tries % replicas.len()].node)
            });
            tries += 1;
            let Some(target) = target else {
                self.fetch_map().await?;
                continue;
            };
            let header = Header {
                group: line.group,
                epoch: line.epoch,
                session: SessionId::CLUSTER,
                renewal: Renewal(0),
                slot: None,
                seen: Timestamp::default(),
                aside: Aside::default(),
            };
            let (places, body) = (line.places, body(line.places));
            let request = Request { header, body };
            let asked = self.access.request_once(target, request, PAGE_DEADLINE);
            match asked.await {
                Some((Reply::Answer(Answer::Refused(refusal)), _)) => {
                    self.heed(at, refusal).await?;
                }
                Some((Reply::Answer(answer), _)) => return Ok((answer, places)),
                _ => {
                    self.lines[at].leader = None;
                    self.pause(PAUSE).await;
                }
            }
        }
    }

    async fn heed(&mut self, at: usize, refusal: Refusal) -> Result<(), FsckError> {
        match refusal {
            Refusal::NotLeader {
                leader: Some((node, _)),
            } if self.lines[at].leader != Some(node) => self.lines[at].leader = Some(node),
            Refusal::Epoch { epoch, places } if epoch > self.lines[at].epoch => {
                (self.lines[at].epoch, self.lines[at].places) = (epoch, places);
            }
            Refusal::NotLeader { .. } => {
                self.lines[at].leader = None;
                self.pause(PAUSE).await;
            }
            _ => {
                self.pause(PAUSE).await;
                self.fetch_map().await?;
            }
        }
        Ok(())
    }

    /// All records of a kind, page by page.
    pub(super) async fn scan(
        &mut self,
        kind: Kind,
        take: &mut (dyn FnMut(&Record) + Send),
    ) -> Result<(), FsckError> {
        let (from, to) = key::kind_in(kind, Places::ALL);
        self.range(kind, from, to, take).await
    }

    /// All records of a kind with `from <= key < to`.
    async fn range(
        &mut self,
        kind: Kind,
        mut from: Vec<u8>,
        to: Vec<u8>,
        take: &mut (dyn FnMut(&Record) + Send),
    ) -> Result<(), FsckError> {
        let keys_only = audit::KEYS_ONLY.contains(&kind);
        while from < to {
            let Some(place) = place_of(&from) else {
                return Ok(());
            };
            if place.0 >= PLACES {
                return Ok(());
            }
            let query = |places: Places| {
                let (_, end) = key::kind_in(kind, places);
                RequestBody::MetaQuery(MetaQuery::Audit {
                    from: from.clone(),
                    to: end.min(to.clone()),
                    limit: PAGE,
                    keys_only,
                })
            };
            let (answer, places) = self.ask(Space::Meta, place, query).await?;
            let Answer::Meta(Ok(MetaReply::Records(records))) = answer else {
                return Err(FsckError::Unexpected(format!("{answer:?}")));
            };
            match records.last() {
                Some((last, _)) => {
                    from = last.clone();
                    from.push(0);
                }
                None => {
                    let next = Places {
                        start: places.end,
                        end: PLACES,
                    };
                    (from, _) = key::kind_in(kind, next);
                }
            }
            records.iter().for_each(&mut *take);
        }
        Ok(())
    }

    /// Everything that is kept under an inode's number, entries aside.
    pub(super) async fn records_of(&mut self, ino: Ino) -> Result<Vec<Record>, FsckError> {
        let mut found = Vec::new();
        let mut take = |record: &Record| {
            if key::number(&record.0, 0) == Some(ino.0) {
                found.push(record.clone());
            }
        };
        for kind in [
            Kind::Inode,
            Kind::Xattr,
            Kind::Inline,
            Kind::Run,
            Kind::Locks,
            Kind::Orphan,
            Kind::Garbage,
        ] {
            let (from, to) = key::prefix(&key::of_inode(kind, ino));
            self.range(kind, from, to, &mut take).await?;
        }
        // A directory has one fragment in each region that holds some of its bucket.
        let (from, to) = key::kind_in(Kind::Fragment, ino.bucket().places());
        self.range(Kind::Fragment, from, to, &mut take).await?;
        Ok(found)
    }

    /// The names of all chunks there are.
    pub(super) async fn chunks(&mut self) -> Result<Vec<ChunkName>, FsckError> {
        let mut all = Vec::new();
        let (mut place, mut after) = (Place(0), None);
        while place.0 < PLACES {
            let query = |_| {
                RequestBody::DataQuery(DataQuery::List {
                    after,
                    limit: NAMES,
                })
            };
            let (answer, places) = self.ask(Space::Data, place, query).await?;
            let Answer::Data(Ok(DataReply::Chunks(names))) = answer else {
                return Err(FsckError::Unexpected(format!("{answer:?}")));
            };
            match names.last() {
                Some(last) => {
                    place = last.place();
                    after = Some((place, *last));
                }
                None => (place, after) = (Place(places.end), None),
            }
            all.extend(names);
        }
        Ok(all)
    }

    /// How the first of these chunks are: of as many as one answer covers, at least of one. They are sorted by place.
    pub(super) async fn verify(
        &mut self,
        chunks: &[ChunkName],
    ) -> Result<Vec<ChunkState>, FsckError> {
        let Some(first) = chunks.first() else {
            return Ok(Vec::new());
        };
        let query = |places: Places| {
            let here = |chunk: &&ChunkName| places.contains(chunk.place());
            let chunks = chunks.iter().take(64).take_while(here);
            RequestBody::DataQuery(DataQuery::Verify {
                chunks: chunks.copied().collect(),
            })
        };
        let (answer, _) = self.ask(Space::Data, first.place(), query).await?;
        match answer {
            Answer::Data(Ok(DataReply::Verified(states))) if !states.is_empty() => Ok(states),
            other => Err(FsckError::Unexpected(format!("{other:?}"))),
        }
    }
}

fn place_of(key: &[u8]) -> Option<Place> {
    let bytes = key.get(1..5)?.try_into().ok()?;
    Some(Place(u32::from_be_bytes(bytes)))
}
