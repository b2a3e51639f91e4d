//! What a network promises.

use bytes::Bytes;
use futures::future::{FutureExt, join, join_all};
use polyfs_core::limits::{FRAME_HEADER_BYTES_MAX, FRAME_PAYLOAD_BYTES_MAX};

use crate::runtime::{Frame, FrameReceiver, FrameSender, Listener, Net, NetError};

/// Runs the suite with connections from one machine to itself at `host` (a name or an address, no port).
///
/// # Panics
/// With the promise that is not kept.
pub async fn net<N: Net>(net: &N, host: &str) {
    frames_arrive_in_order(net, host).await;
    all_sizes_arrive(net, host).await;
    both_ways_at_once(net, host).await;
    many_connections_are_apart(net, host).await;
    closing_is_seen_after_the_last_frame(net, host).await;
    dropping_one_half_leaves_the_other(net, host).await;
    too_large_a_frame_is_refused(net, host).await;
    an_abandoned_receive_loses_nothing(net, host).await;
    an_abandoned_send_breaks_the_connection(net, host).await;
    nobody_listens(net, host).await;
}

type Half<N> = (<N as Net>::Sender, <N as Net>::Receiver);

async fn listen<N: Net>(net: &N, host: &str) -> N::Listener {
    net.listen(&format!("{host}:0"))
        .await
        .expect("port 0 is always free")
}

async fn connect<N: Net>(net: &N, listener: &mut N::Listener) -> (Half<N>, Half<N>) {
    let address = listener.address();
    let (dialled, accepted) = join(net.dial(&address), listener.accept()).await;
    let (sender, receiver, from) = accepted.expect("a listener accepts");
    assert!(!from.is_empty(), "the peer has a name for logs");
    (
        dialled.expect("a listener can be dialled at its address"),
        (sender, receiver),
    )
}

async fn pair<N: Net>(net: &N, host: &str) -> (Half<N>, Half<N>) {
    let mut listener = listen(net, host).await;
    connect(net, &mut listener).await
}

fn frame(number: usize, payload: &[usize]) -> Frame {
    let fill = u8::try_from(number % 251).expect("below 251");
    Frame {
        header: Bytes::from(format!("frame {number}")),
        payload: payload
            .iter()
            .map(|bytes| Bytes::from(vec![fill; *bytes]))
            .collect(),
    }
}

fn assert_same(got: &Frame, sent: &Frame) {
    assert_eq!(got.header, sent.header, "the header arrives as it was");
    assert_eq!(
        got.payload.len(),
        usize::from(sent.payload.iter().any(|piece| !piece.is_empty())),
        "a payload arrives as one piece, an empty one as none"
    );
    assert!(
        got.payload.concat() == sent.payload.concat(),
        "the payload of {:?} arrives as it was",
        sent.header
    );
}

async fn frames_arrive_in_order<N: Net>(net: &N, host: &str) {
    let ((mut sender, _keep), (_keep_too, mut receiver)) = pair(net, host).await;
    let frames: Vec<Frame> = (0..200).map(|n| frame(n, &[n, 0, n * 3])).collect();
    let sending = async {
        for batch in frames.chunks(7) {
            sender.send(batch.to_vec()).await.expect("sending works");
        }
        sender.send(vec![]).await.expect("sending nothing works");
    };
    let receiving = async {
        for sent in &frames {
            assert_same(&receiver.receive().await.expect("it arrives"), sent);
        }
    };
    join(sending, receiving).await;
}

async fn all_sizes_arrive<N: Net>(net: &N, host: &str) {
    let ((mut sender, _keep), (_keep_too, mut receiver)) = pair(net, host).await;
    let large = Frame {
        header: vec![1; FRAME_HEADER_BYTES_MAX].into(),
        payload: vec![vec![2; FRAME_PAYLOAD_BYTES_MAX].into()],
    };
    let frames = [
        Frame::default(),
        large,
        frame(1, &[1 << 20]),
        frame(2, &[1; 3000]),
    ];
    let sending = async {
        sender.send(frames.to_vec()).await.expect("sending works");
    };
    let receiving = async {
        for sent in &frames {
            assert_same(&receiver.receive().await.expect("it arrives"), sent);
        }
    };
    join(sending, receiving).await;
}

async fn both_ways_at_once<N: Net>(net: &N, host: &str) {
    let ((mut a_sends, mut a_receives), (mut b_sends, mut b_receives)) = pair(net, host).await;
    let frames: Vec<Frame> = (0..50).map(|n| frame(n, &[100_000])).collect();
    // Neither side reads before it has sent all, except that both directions run side by side.
    let a_to_b = async { a_sends.send(frames.clone()).await.expect("sending works") };
    let b_to_a = async { b_sends.send(frames.clone()).await.expect("sending works") };
    let at_a = async {
        for sent in &frames {
            assert_same(&a_receives.receive().await.expect("it arrives"), sent);
        }
    };
    let at_b = async {
        for sent in &frames {
            assert_same(&b_receives.receive().await.expect("it arrives"), sent);
        }
    };
    join(join(a_to_b, b_to_a), join(at_a, at_b)).await;
}

async fn many_connections_are_apart<N: Net>(net: &N, host: &str) {
    let mut listener = listen(net, host).await;
    let mut clients = vec![];
    let mut servers = vec![];
    for _ in 0..10 {
        let (client, server) = connect(net, &mut listener).await;
        clients.push(client);
        servers.push(server);
    }
    join_all(clients.iter_mut().enumerate().map(async |(n, client)| {
        let sent = client.0.send(vec![frame(n, &[n])]).await;
        sent.expect("sending works");
    }))
    .await;
    for (n, server) in servers.iter_mut().enumerate() {
        let got = server.1.receive().await.expect("it arrives");
        assert_same(&got, &frame(n, &[n]));
    }
}

async fn closing_is_seen_after_the_last_frame<N: Net>(net: &N, host: &str) {
    let ((mut sender, receiver), (_keep, mut peer)) = pair(net, host).await;
    sender
        .send(vec![frame(1, &[10]), frame(2, &[])])
        .await
        .expect("sending works");
    drop((sender, receiver));
    assert_same(
        &peer.receive().await.expect("sent before"),
        &frame(1, &[10]),
    );
    assert_same(&peer.receive().await.expect("sent before"), &frame(2, &[]));
    assert_eq!(peer.receive().await, Err(NetError::Closed));
    assert!(peer.receive().await.is_err(), "an end stays an end");
}

async fn dropping_one_half_leaves_the_other<N: Net>(net: &N, host: &str) {
    let ((sender, mut receiver), (mut peer_sends, mut peer_receives)) = pair(net, host).await;
    drop(sender);
    peer_sends
        .send(vec![frame(1, &[1])])
        .await
        .expect("sending works");
    assert_same(
        &receiver.receive().await.expect("the other way is open"),
        &frame(1, &[1]),
    );
    drop(receiver);
    assert!(
        peer_receives.receive().await.is_err(),
        "dropping both halves closes it"
    );
}

async fn too_large_a_frame_is_refused<N: Net>(net: &N, host: &str) {
    let ((mut sender, _keep), (_keep_too, mut receiver)) = pair(net, host).await;
    let large = Frame {
        header: Bytes::new(),
        payload: vec![vec![0; FRAME_PAYLOAD_BYTES_MAX + 1].into()],
    };
    assert!(
        sender.send(vec![frame(1, &[1]), large]).await.is_err(),
        "a frame beyond the limits is refused"
    );
    sender
        .send(vec![frame(2, &[2])])
        .await
        .expect("the connection goes on");
    assert_same(
        &receiver.receive().await.expect("it arrives"),
        &frame(2, &[2]),
    );
}

async fn an_abandoned_receive_loses_nothing<N: Net>(net: &N, host: &str) {
    let ((mut sender, _keep), (_keep_too, mut receiver)) = pair(net, host).await;
    for n in 0..20 {
        {
            let waiting = std::pin::pin!(receiver.receive());
            let sending = std::pin::pin!(sender.send(vec![frame(n, &[70_000])]));
            // Polls the receiver once or more beside the send, and drops it wherever it then is.
            let raced = futures::future::select(sending, waiting);
            if let futures::future::Either::Right((got, sending)) = raced.await {
                assert_same(&got.expect("it arrives"), &frame(n, &[70_000]));
                sending.await.expect("sending works");
                continue;
            }
        }
        assert_same(
            &receiver.receive().await.expect("it arrives"),
            &frame(n, &[70_000]),
        );
    }
}

async fn an_abandoned_send_breaks_the_connection<N: Net>(net: &N, host: &str) {
    let ((mut sender, _keep), (_keep_too, mut receiver)) = pair(net, host).await;
    // Far more than any buffer between the two takes while nobody reads.
    let frames: Vec<Frame> = (0..20)
        .map(|n| frame(n, &[FRAME_PAYLOAD_BYTES_MAX]))
        .collect();
    {
        let sending = std::pin::pin!(sender.send(frames));
        let ready = std::pin::pin!(std::future::ready(()));
        let raced = futures::future::select(sending, ready).await;
        assert!(
            matches!(raced, futures::future::Either::Right(_)),
            "a peer that does not read holds its sender up"
        );
    }
    assert!(
        matches!(
            sender.send(vec![frame(99, &[])]).now_or_never(),
            Some(Err(_))
        ),
        "after half a frame nothing else may be sent"
    );
    drop((sender, _keep));
    while let Ok(got) = receiver.receive().await {
        assert_ne!(got.header, frame(99, &[]).header);
    }
}

async fn nobody_listens<N: Net>(net: &N, host: &str) {
    let listener = listen(net, host).await;
    let address = listener.address();
    assert!(
        net.listen(&address).await.is_err(),
        "an address is listened at once only"
    );
    drop(listener);
    assert!(
        net.dial(&address).await.is_err(),
        "where nobody listens nobody answers"
    );
    assert!(
        net.dial("no-such-name.invalid:1").await.is_err(),
        "a name that does not exist is an error"
    );
    assert!(
        net.dial("no port").await.is_err(),
        "an address needs a port"
    );
}
