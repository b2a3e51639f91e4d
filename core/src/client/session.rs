//! The mount's session with the master, and the region map it fetches from there.
//!
//! Owns opening, renewing and closing. Time travels only in answers and counts from when the question was sent (P8).

use alloc::collections::BTreeMap;
use core::time::Duration;

use super::Client;
use super::ops::{Got, TaskId};
use super::port::{MasterReply, MasterRequest, MessageId, Output};
use super::timers::Wake;
use crate::ids::{Renewal, SessionId};
use crate::limits::{CLOCK_DRIFT_PPM, REQUEST_DEADLINE, SESSION_RENEWAL, SESSION_TERM};
use crate::place::Ino;
use crate::time::Instant;

/// How soon the master is asked again when it was silent.
const MASTER_PAUSE: Duration = Duration::from_millis(200);

/// What was asked of the master.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Matter {
    Open,
    Renew,
    Close,
    Map,
    Stats(TaskId),
}

/// An open session.
#[derive(Clone, Copy, Debug)]
pub(super) struct Live {
    pub(super) id: SessionId,
    pub(super) renewal: Renewal,
    pub(super) root: Ino,
}

/// Where the session is.
#[derive(Clone, Copy, Debug)]
enum Stage {
    Opening,
    Open(Live),
    /// Everything was given back; the master is to hear it.
    Closing(SessionId),
    Gone,
}

/// The session.
#[derive(Debug)]
pub(super) struct Session {
    stage: Stage,
    nonce: u64,
    asked: BTreeMap<MessageId, (Matter, Instant)>,
    renew_at: Instant,
    /// When the session was asked for first.
    opening_since: Option<Instant>,
    /// Nobody ends the session before.
    good_until: Instant,
    map_wanted: bool,
}

impl Session {
    pub(super) const fn new(nonce: u64) -> Self {
        Self {
            stage: Stage::Opening,
            nonce,
            asked: BTreeMap::new(),
            renew_at: Instant(0),
            opening_since: None,
            good_until: Instant(0),
            map_wanted: true,
        }
    }

    /// Whether the session is open and can't have been ended by now, so that leaders still wait for this mount.
    pub(super) fn is_good(&self, now: Instant) -> bool {
        self.live().is_some() && now < self.good_until
    }

    /// The master has confirmed the session in an answer to a question sent then.
    fn confirmed(&mut self, sent: Instant) {
        let life = SESSION_TERM - SESSION_TERM * CLOCK_DRIFT_PPM / 1_000_000;
        self.good_until = self.good_until.max(sent + life);
    }

    /// The session, while it is open.
    pub(super) const fn live(&self) -> Option<Live> {
        match self.stage {
            Stage::Open(live) => Some(live),
            Stage::Opening | Stage::Closing(_) | Stage::Gone => None,
        }
    }

    fn asking(&self, matter: Matter) -> bool {
        self.asked.values().any(|(other, _)| *other == matter)
    }
}

impl Client {
    /// Asks the master whatever is due.
    pub(super) fn drive_session(&mut self) {
        let now = self.now.mono;
        let lost: alloc::vec::Vec<MessageId> = self
            .session
            .asked
            .iter()
            .filter(|(_, (_, sent))| now.since(*sent) >= REQUEST_DEADLINE)
            .map(|(message, _)| *message)
            .collect();
        for message in lost {
            self.master_silent(message);
        }
        match self.session.stage {
            Stage::Opening => {
                self.session.opening_since.get_or_insert(now);
                self.ask_master_once(
                    Matter::Open,
                    MasterRequest::OpenSession {
                        volume: self.config.volume.clone(),
                        read_only: self.config.read_only,
                        nonce: self.session.nonce,
                    },
                );
            }
            Stage::Open(live) => {
                if now >= self.session.renew_at {
                    self.session.renew_at = now + SESSION_RENEWAL;
                    self.ask_master_once(
                        Matter::Renew,
                        MasterRequest::Renew {
                            session: live.id,
                            renewal: live.renewal,
                        },
                    );
                }
                self.timers.set(self.session.renew_at, Wake::Session);
            }
            // The master ends a session that is not renewed: there is nothing left to say then, whoever is there to hear it.
            Stage::Closing(_) if now >= self.session.good_until => {
                self.session_gone();
                return;
            }
            Stage::Closing(session) => {
                self.timers.set(self.session.good_until, Wake::Session);
                self.ask_master_once(Matter::Close, MasterRequest::CloseSession { session });
            }
            Stage::Gone => return,
        }
        if self.session.map_wanted {
            self.ask_master_once(Matter::Map, MasterRequest::Map);
        }
    }

    fn ask_master_once(&mut self, matter: Matter, request: MasterRequest) {
        if !self.session.asking(matter) {
            self.ask_master(matter, request);
        }
    }

    fn ask_master(&mut self, matter: Matter, request: MasterRequest) {
        let message = self.questions.fresh_message();
        let now = self.now.mono;
        self.session.asked.insert(message, (matter, now));
        self.timers.set(now + REQUEST_DEADLINE, Wake::Session);
        self.out.push_back(Output::SendMaster { message, request });
    }

    pub(super) fn ask_stats(&mut self, task: TaskId) {
        self.ask_master(Matter::Stats(task), MasterRequest::Stats);
    }

    /// The map did not say where a place is: it is asked for again.
    pub(super) fn want_map(&mut self) {
        if !self.session.map_wanted {
            self.session.map_wanted = true;
            self.drive_session();
        }
    }

    /// The renewal number is too old.
    pub(super) fn renew_soon(&mut self) {
        self.session.renew_at = self.now.mono;
        self.drive_session();
    }

    pub(super) fn master_silent(&mut self, message: MessageId) {
        let Some((matter, _)) = self.session.asked.remove(&message) else {
            return;
        };
        let again = self.now.mono + MASTER_PAUSE;
        match matter {
            Matter::Stats(task) => self.wake_task_at(task, again),
            Matter::Renew => {
                self.session.renew_at = again;
                self.timers.set(again, Wake::Session);
            }
            Matter::Open | Matter::Close | Matter::Map => self.timers.set(again, Wake::Session),
        }
    }

    pub(super) fn master_answer(&mut self, message: MessageId, reply: MasterReply) {
        let Some((matter, sent)) = self.session.asked.remove(&message) else {
            return;
        };
        match reply {
            MasterReply::Opened {
                session,
                renewal,
                root,
            } => self.session_opened(Live {
                id: session,
                renewal,
                root,
            }),
            MasterReply::Renewed(renewal) => {
                if let Stage::Open(live) = &mut self.session.stage {
                    live.renewal = live.renewal.max(renewal);
                    self.session.confirmed(sent);
                }
            }
            MasterReply::Closed => self.session_gone(),
            MasterReply::SessionOver => {
                if matter == Matter::Close {
                    self.session_gone();
                } else {
                    self.session_over();
                }
            }
            MasterReply::NoVolume => {
                self.session.stage = Stage::Gone;
                let volume = self.config.volume.clone().into_bytes();
                self.out.push_back(Output::Refused { volume });
            }
            MasterReply::Map(lines) => {
                self.session.map_wanted = false;
                self.regions.replace(lines);
                self.questions.unpark();
            }
            MasterReply::Stats(stats) => {
                if let Matter::Stats(task) = matter {
                    self.step_task(task, Got::Stats(stats), None);
                }
            }
            // A mount does not ask how the cluster is.
            MasterReply::Status(_) | MasterReply::Joined(_) | MasterReply::ComeBackEmpty => {}
        }
    }

    fn session_opened(&mut self, live: Live) {
        if !matches!(self.session.stage, Stage::Opening) {
            return;
        }
        self.session.stage = Stage::Open(live);
        // A repeated question is answered with the session that the first one opened.
        if let Some(asked) = self.session.opening_since.take() {
            self.session.confirmed(asked);
        }
        self.session.renew_at = self.now.mono + SESSION_RENEWAL;
        self.timers.set(self.session.renew_at, Wake::Session);
        self.questions.unpark();
        if !self.mounted {
            self.mounted = true;
            self.out.push_back(Output::Mounted { root: live.root });
        }
    }

    /// Everything this session had is gone: operations in slots fail, dirty data is lost, a new session is opened.
    pub(super) fn session_over(&mut self) {
        if !matches!(self.session.stage, Stage::Open(_)) {
            return;
        }
        self.session.stage = Stage::Opening;
        self.session.nonce = self.rng.next();
        self.session.opening_since = None;
        self.session.good_until = Instant(0);
        let waiting = self.lose_delegations();
        self.fail_slotted();
        self.views.forget_session(self.questions.last_message());
        self.lose_all_leases();
        for task in waiting {
            self.step_waiting(task, Got::Woken);
        }
        self.drive_session();
    }

    pub(super) fn close_session(&mut self) {
        match self.session.stage {
            Stage::Open(live) => {
                self.session.stage = Stage::Closing(live.id);
                self.session.map_wanted = false;
                self.drive_session();
            }
            Stage::Opening => self.session_gone(),
            Stage::Closing(_) | Stage::Gone => {}
        }
    }

    fn session_gone(&mut self) {
        if !matches!(self.session.stage, Stage::Gone) {
            self.session.stage = Stage::Gone;
            self.out.push_back(Output::Gone);
        }
    }
}
