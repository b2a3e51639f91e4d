//! What a mount may show again, step by step.

use alloc::vec;
use alloc::vec::Vec;
use bytes::Bytes;
use core::time::Duration;

use super::{Views, What};
use crate::attr::{Attr, FileKind, NewInode};
use crate::client::port::{
    CallId, Input, MasterReply, MasterRequest, MessageId, Output, RegionLine, ReplicaPlace,
};
use crate::client::questions::Route;
use crate::client::{Client, ClientConfig};
use crate::ids::{Epoch, Fence, GroupId, NodeId, Renewal, ReplicaId, SessionId, VolumeId};
use crate::limits::ATTR_KEPT;
use crate::place::{Ino, Place, Places, Salt};
use crate::request::{
    self, Answer, Leadership, LeaseSerial, MetaOp, MetaReply, NameView, Refusal, Request,
    RequestBody, Space,
};
use crate::time::{Instant, Now, Timestamp};
use crate::vfs::Call;

const GROUP: GroupId = GroupId(3);

fn at(ms: u64) -> Instant {
    Instant(0) + Duration::from_millis(ms)
}

fn dir() -> Ino {
    Ino::new(Place(5), 1)
}

fn attr(mode: u16) -> Attr {
    Attr {
        ino: dir(),
        kind: FileKind::Directory,
        mode,
        nlink: 2,
        uid: 0,
        gid: 0,
        rdev: 0,
        size: 0,
        allocated: 0,
        atime: Timestamp::default(),
        mtime: Timestamp::default(),
        ctime: Timestamp::default(),
        btime: Timestamp::default(),
        change: 1,
        fence: Fence(0),
        volume: VolumeId(1),
        salt: Salt(7),
        parent: dir(),
    }
}

/// An answer to a message sent then.
fn route(message: u64, sent: Instant) -> Route {
    Route {
        node: NodeId(1),
        group: GROUP,
        message: MessageId(message),
        epoch: Epoch(1),
        sent,
        places: Places::ALL,
        payload: Bytes::new(),
    }
}

/// A grant that shows the mode, and that there is no name "n".
fn grant(term: u64, number: u64, mode: u16) -> request::Views {
    let name = NameView {
        dir: dir(),
        name: b"n".to_vec(),
        seen: None,
    };
    request::Views {
        serial: LeaseSerial { term, number },
        names: vec![name],
        attrs: vec![attr(mode)],
    }
}

fn leadership(term: u64) -> Leadership {
    Leadership { group: GROUP, term }
}

fn mode(views: &Views, now: Instant) -> Option<u16> {
    let name = views.name(dir(), &b"n".to_vec(), now);
    let attr = views.attr(dir(), now).map(|attr| attr.mode);
    assert_eq!(name.is_some(), attr.is_some());
    attr
}

#[test]
fn a_view_is_used_until_its_term_is_over_and_never_again() {
    let mut views = Views::default();
    views.granted(&route(1, at(0)), grant(4, 1, 7), at(1));
    assert_eq!(mode(&views, at(1900)), Some(7));
    views.confirmed(leadership(4), Epoch(1), at(500), at(501));
    assert_eq!(mode(&views, at(2400)), Some(7));
    assert_eq!(mode(&views, at(2500)), None);
    // P8: a late confirmation says nothing of what may have changed since.
    views.confirmed(leadership(4), Epoch(1), at(2300), at(2600));
    assert_eq!(mode(&views, at(2600)), None);
    views.granted(&route(2, at(2600)), grant(4, 9, 8), at(2601));
    assert_eq!(mode(&views, at(2602)), Some(8));
}

#[test]
fn what_is_recalled_is_forgotten_and_so_are_grants_that_come_late() {
    let mut views = Views::default();
    views.granted(&route(1, at(0)), grant(4, 1, 7), at(1));
    let serial = LeaseSerial { term: 4, number: 3 };
    assert!(views.recall(GROUP, dir(), serial));
    assert_eq!(mode(&views, at(2)), None);
    views.granted(&route(2, at(0)), grant(4, 3, 7), at(3));
    assert_eq!(mode(&views, at(3)), None);
    views.granted(&route(3, at(3)), grant(4, 4, 8), at(4));
    assert_eq!(mode(&views, at(4)), Some(8));
    // Who leads no more is not heeded.
    let deposed = LeaseSerial { term: 3, number: 9 };
    assert!(!views.recall(GROUP, dir(), deposed));
    assert_eq!(mode(&views, at(4)), Some(8));
}

/// P8: what is asserted to a later leader says that nothing of earlier ones is used.
#[test]
fn a_later_leadership_ends_all_views_of_earlier_ones() {
    let mut views = Views::default();
    views.granted(&route(1, at(0)), grant(4, 1, 7), at(1));
    views.led(leadership(5));
    assert_eq!(mode(&views, at(2)), None);
    views.granted(&route(2, at(0)), grant(4, 2, 7), at(3));
    views.confirmed(leadership(4), Epoch(1), at(1), at(3));
    assert_eq!(mode(&views, at(3)), None);
}

/// What a mount changes itself is not recalled from it: answers that were on their way meanwhile are no news.
#[test]
fn answers_from_before_an_own_change_teach_nothing() {
    let mut views = Views::default();
    let concerns = [What::Name(dir(), b"n".to_vec()), What::Attr(dir())];
    views.granted(&route(1, at(0)), grant(4, 1, 7), at(1));
    views.set_aside(&concerns);
    assert_eq!(mode(&views, at(2)), None);
    views.granted(&route(2, at(1)), grant(4, 2, 7), at(2));
    assert_eq!(mode(&views, at(2)), None, "it may be from before or after");
    // The change was message 3; its answer shows what became of it.
    views.take_back(&concerns);
    views.granted(&route(3, at(1)), grant(4, 4, 8), at(3));
    views.changed(&concerns, MessageId(5));
    assert_eq!(mode(&views, at(3)), Some(8));
    views.granted(&route(4, at(1)), grant(4, 3, 7), at(4));
    assert_eq!(mode(&views, at(4)), Some(8));
}

/// P8: recalls are repeated, and may come late: they forget nothing of what must not be learnt.
#[test]
fn a_recall_that_comes_again_lets_no_answer_from_before_an_own_change_in() {
    let mut views = Views::default();
    let concerns = [What::Name(dir(), b"n".to_vec()), What::Attr(dir())];
    let serial = LeaseSerial { term: 4, number: 3 };
    assert!(views.recall(GROUP, dir(), serial));
    // Message 2 asks. Its answer, number 5, is slow; meanwhile this mount makes a change, message 3.
    views.set_aside(&concerns);
    views.take_back(&concerns);
    views.changed(&concerns, MessageId(3));
    assert!(views.recall(GROUP, dir(), serial));
    views.granted(&route(2, at(1)), grant(4, 5, 7), at(4));
    assert_eq!(mode(&views, at(4)), None);
    views.granted(&route(4, at(4)), grant(4, 6, 8), at(5));
    assert_eq!(mode(&views, at(5)), Some(8));
}

/// A change that was given up may still come: what is shown later must be recalled for it, so it is shown to somebody
/// else, as it were.
#[test]
fn who_gives_a_change_up_begins_anew() {
    let mut views = Views::default();
    views.granted(&route(1, at(0)), grant(4, 1, 7), at(1));
    assert_eq!(views.aside(&[]).generation, 1);
    views.forget_all(MessageId(6));
    assert_eq!(views.aside(&[]).generation, 2);
    views.granted(&route(6, at(1)), grant(4, 2, 7), at(2));
    assert_eq!(mode(&views, at(2)), None, "asked before");
    views.granted(&route(7, at(2)), grant(4, 3, 8), at(3));
    assert_eq!(mode(&views, at(3)), Some(8));
}

/// A split may have taken places away.
#[test]
fn a_later_epoch_ends_all_views_of_the_region() {
    let mut views = Views::default();
    views.granted(&route(1, at(0)), grant(4, 1, 7), at(1));
    views.confirmed(leadership(4), Epoch(2), at(1), at(2));
    assert_eq!(mode(&views, at(2)), None);
    views.granted(&route(2, at(1)), grant(4, 2, 7), at(3));
    assert_eq!(mode(&views, at(3)), None, "that was of the earlier epoch");
}

/// P8: a view of a directory that shows no entries shows that every name is absent.
#[test]
fn of_an_empty_directory_every_name_is_known_until_it_is_recalled() {
    let mut views = Views::default();
    let other = b"other".to_vec();
    let absent = |views: &Views, ms| views.absent(dir(), &other, GROUP, at(ms));
    let filled = |size| {
        let mut grant = grant(4, 1, 7);
        grant.attrs[0].size = size;
        grant
    };
    views.granted(&route(1, at(0)), filled(1), at(1));
    assert!(!absent(&views, 1), "something is there");
    views.granted(&route(2, at(1)), filled(0), at(1));
    assert!(absent(&views, 2));
    assert!(
        !views.absent(dir(), &other, GroupId(4), at(2)),
        "not of that region"
    );
    // What is made here is learnt, so the rest stays known.
    let made = [What::Name(dir(), other.clone()), What::Attr(dir())];
    views.set_aside(&made);
    assert!(!absent(&views, 2), "nobody knows");
    views.take_back(&made);
    views.changed(&made, MessageId(3));
    assert!(!absent(&views, 2), "its answer did not say");
    views.granted(&route(4, at(2)), filled(1), at(2));
    assert!(views.absent(dir(), &b"third".to_vec(), GROUP, at(3)));
    assert!(
        !views.absent(dir(), &b"third".to_vec(), GROUP, at(2002)),
        "out of term"
    );
    let serial = LeaseSerial { term: 4, number: 3 };
    assert!(views.recall(GROUP, dir(), serial));
    assert!(!views.absent(dir(), &b"third".to_vec(), GROUP, at(3)));
}

/// P11: the kernel keeps attributes for a blink, and drops them before anybody is told that the view is gone.
#[test]
fn whatever_ends_a_view_makes_the_kernel_drop_what_it_keeps() {
    let ends: [fn(&mut Views); 5] = [
        |views| {
            let serial = LeaseSerial { term: 4, number: 3 };
            assert!(views.recall(GROUP, dir(), serial));
        },
        |views| views.set_aside(&[What::Attr(dir())]),
        |views| views.led(leadership(5)),
        |views| views.confirmed(leadership(4), Epoch(2), at(1), at(2)),
        |views| views.forget_all(MessageId(6)),
    ];
    for end in ends {
        let mut views = Views::default();
        views.granted(&route(1, at(0)), grant(4, 1, 7), at(1));
        assert_eq!(views.keep(&attr(8), at(1)), Duration::ZERO, "no view");
        assert_eq!(views.keep(&attr(7), at(1)), ATTR_KEPT);
        assert_eq!(views.outdated(), None);
        end(&mut views);
        assert_eq!(views.outdated(), Some(dir()));
        assert_eq!(views.outdated(), None, "once");
        assert_eq!(views.keep(&attr(7), at(2)), Duration::ZERO);
    }
}

/// The kernel counts from when it comes to the answer.
#[test]
fn a_view_that_ends_soon_is_not_kept() {
    let mut views = Views::default();
    views.granted(&route(1, at(0)), grant(4, 1, 7), at(1));
    assert_eq!(mode(&views, at(1900)), Some(7));
    assert_eq!(views.keep(&attr(7), at(1900)), Duration::ZERO);
}

/// What a mount sends, with the master's and the regions' part played by hand.
struct Mount {
    client: Client,
    now: Instant,
    sent: Vec<(MessageId, Request)>,
}

impl Mount {
    fn new() -> Self {
        let config = ClientConfig {
            volume: "v".into(),
            read_only: false,
            write_back_bytes_max: 1 << 20,
        };
        let mut mount = Self {
            client: Client::new(config, 1, Now::default()),
            now: at(0),
            sent: Vec::new(),
        };
        mount.drain();
        mount
    }

    fn give(&mut self, input: Input) {
        let mono = self.now;
        let wall = Timestamp::default();
        self.client.handle_input(Now { mono, wall }, input);
        self.drain();
    }

    fn drain(&mut self) {
        let mut replies = Vec::new();
        while let Some(output) = self.client.poll_output() {
            match output {
                Output::Send {
                    message, request, ..
                } => self.sent.push((message, request)),
                Output::SendMaster { message, request } => {
                    let reply = match request {
                        MasterRequest::OpenSession { .. } => MasterReply::Opened {
                            session: SessionId(1),
                            renewal: Renewal(1),
                            root: dir(),
                        },
                        MasterRequest::Map => MasterReply::Map(vec![line()]),
                        MasterRequest::Renew { .. }
                        | MasterRequest::CloseSession { .. }
                        | MasterRequest::Stats
                        | MasterRequest::Status
                        | MasterRequest::Join(_) => MasterReply::Renewed(Renewal(1)),
                    };
                    replies.push(Input::MasterAnswer { message, reply });
                }
                Output::Reply { .. }
                | Output::RenewLeases { .. }
                | Output::Invalidate { .. }
                | Output::DropAttr { .. }
                | Output::Lost { .. }
                | Output::Mounted { .. }
                | Output::Refused { .. }
                | Output::Gone => {}
            }
        }
        for reply in replies {
            self.give(reply);
        }
    }

    /// Answers the latest request that was sent.
    fn answer(&mut self, answer: Answer) {
        let (message, _) = self.sent.last().expect("something was asked");
        let message = *message;
        let payload = Bytes::new();
        self.give(Input::Answer {
            message,
            answer,
            payload,
        });
    }

    fn make(&mut self, name: &[u8]) {
        let new = NewInode {
            kind: FileKind::Symlink,
            mode: 0o777,
            uid: 0,
            gid: 0,
            rdev: 0,
            target: Bytes::new(),
        };
        let call = Call::Make {
            dir: dir(),
            name: name.to_vec(),
            new,
        };
        let id = CallId(self.sent.len() as u64);
        self.give(Input::Call { id, call });
    }
}

fn line() -> RegionLine {
    RegionLine {
        group: GROUP,
        space: Space::Meta,
        places: Places::ALL,
        epoch: Epoch(1),
        replicas: vec![ReplicaPlace {
            replica: ReplicaId(1),
            node: NodeId(1),
        }],
        leader: Some(NodeId(1)),
    }
}

/// P8: a change whose end is not known may come later: from then on its sender is one of those who must forget first.
#[test]
fn a_change_that_was_given_up_raises_the_generation() {
    let mut mount = Mount::new();
    mount.make(b"n");
    let salt = Answer::Meta(Ok(MetaReply::Inode {
        attr: attr(7),
        grant: None,
    }));
    mount.answer(salt);
    let (_, asked) = mount.sent.last().expect("it is made");
    assert!(matches!(
        asked.body,
        RequestBody::MetaOp(MetaOp::Make { .. })
    ));
    assert_eq!(asked.header.aside.generation, 1);
    assert_eq!(asked.header.aside.inos, [dir()]);
    // A refusal of the only copy that was sent leaves nothing behind.
    mount.answer(Answer::Refused(Refusal::Changed));
    let (_, asked) = mount.sent.last().expect("it is tried again");
    assert_eq!(asked.header.aside.generation, 1);
    for seconds in 1..=40 {
        mount.now = at(seconds * 1000);
        mount.give(Input::Tick);
    }
    mount.make(b"m");
    let (_, asked) = mount.sent.last().expect("the next is asked for");
    assert_eq!(asked.header.aside.generation, 2);
}
