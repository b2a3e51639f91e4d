//! Where views come in and go out: with answers and frames, by recalls; and questions that they answer.
//!
//! Owns which questions need not be asked. Deliberately tells nobody that an answer is this mount's own.

use crate::client::Client;
use crate::client::questions::Route;
use crate::error::FsError;
use crate::ids::GroupId;
use crate::place::{Ino, NameHash};
use crate::request::{self, Answer, LeaseDone, LeaseSerial, MetaQuery, MetaReply, RequestBody};

impl Client {
    /// The answer to a question, as far as views give one.
    pub(in super::super) fn answer_from_views(&self, body: &RequestBody) -> Option<Answer> {
        let RequestBody::MetaQuery(query) = body else {
            return None;
        };
        let now = self.now.mono;
        if !self.session.is_good(now) {
            return None;
        }
        let inode = |ino: Ino| {
            let attr = self.views.attr(ino, now)?.clone();
            Some(Answer::Meta(Ok(MetaReply::Inode { attr, grant: None })))
        };
        match query {
            MetaQuery::GetAttr { ino } => inode(*ino),
            MetaQuery::Lookup {
                dir, salt, name, ..
            } => {
                let seen = self.views.name(*dir, name, now).or_else(|| {
                    let here = self
                        .regions
                        .group_at(NameHash::of(*salt, name).place(*dir))?;
                    self.views.absent(*dir, name, here, now).then_some(None)
                });
                let Some(seen) = seen? else {
                    return Some(Answer::Meta(Err(FsError::NotFound)));
                };
                let elsewhere = || {
                    let place = NameHash::of(*salt, name).place(*dir);
                    let here = self.regions.group_at(place)?;
                    let there = self.regions.meta_group(seen.ino)?;
                    (here != there).then_some(Answer::Meta(Ok(MetaReply::Elsewhere { seen })))
                };
                inode(seen.ino).or_else(elsewhere)
            }
            MetaQuery::Open { .. }
            | MetaQuery::Map { .. }
            | MetaQuery::ReadLink { .. }
            | MetaQuery::ReadDir { .. }
            | MetaQuery::GetXattr { .. }
            | MetaQuery::ListXattr { .. }
            | MetaQuery::TestLock { .. }
            | MetaQuery::Named { .. }
            | MetaQuery::Audit { .. } => None,
        }
    }

    /// An answer came with views.
    pub(in super::super) fn learn_views(&mut self, route: &Route, views: request::Views) {
        if self.granted_by(route, views.serial.term) {
            let now = self.now.mono;
            self.views.granted(route, views, now);
        }
    }

    /// A leader recalls the view of an inode: it is forgotten at once, whatever is under way.
    pub(in super::super) fn view_recalled(
        &mut self,
        group: GroupId,
        ino: Ino,
        serial: LeaseSerial,
    ) {
        if self.views.recall(group, ino, serial) {
            self.lease_done(LeaseDone::Forgot(ino, serial));
        }
    }
}
