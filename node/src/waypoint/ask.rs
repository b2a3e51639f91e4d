//! Asking a waypoint.

use openraft_rt::AsyncRuntime;
use polyfs_core::limits::REQUEST_DEADLINE;
use polyfs_core::waypoint::{Reply, Request};
use thiserror::Error;

use crate::runtime::{FrameReceiver, FrameSender, Net, NetError, Runtime};
use crate::wire::{HelloRefusal, Message, WIRE_VERSION};

/// Why a waypoint has not answered.
#[derive(Debug, Error)]
pub enum AskError {
    /// It can't be reached, or nothing came in time.
    #[error(transparent)]
    Net(#[from] NetError),
    /// What answers there is no waypoint, or one of another version.
    #[error(transparent)]
    Refused(#[from] HelloRefusal),
}

/// Asks the waypoint at `address`, whose name is resolved anew; it has [`REQUEST_DEADLINE`] to answer.
///
/// # Errors
/// When it can't be reached, does not answer in time, or is no waypoint.
pub async fn ask<R: Runtime>(
    runtime: &R,
    address: &str,
    request: Request,
) -> Result<Reply, AskError> {
    let asked = async {
        let (mut sender, mut receiver) = runtime.net().dial(address).await?;
        let question = Message::Ask {
            version: WIRE_VERSION,
            request,
        };
        sender.send(vec![question.frame(vec![])]).await?;
        match Message::of(receiver.receive().await?) {
            Ok((Message::Told(told), _)) => Ok(told?),
            Ok((Message::Welcome(Err(refusal)), _)) => Err(refusal.into()),
            Ok(_) | Err(_) => Err(NetError::Garbage("no waypoint's answer").into()),
        }
    };
    let asked = R::Async::timeout(REQUEST_DEADLINE, asked).await;
    asked.unwrap_or_else(|_| Err(NetError::Failed("no answer in time".into()).into()))
}
