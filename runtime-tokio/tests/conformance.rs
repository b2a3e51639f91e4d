//! The production runtime keeps every promise of the conformance suites, and a few of its own.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that can't go on has failed, and one that skips says so"
)]

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use polyfs_core::limits::FRAME_HEADER_BYTES_MAX;
use polyfs_node::runtime::{
    Frame, FrameReceiver, FrameSender, Lane, Listener, Net, NetError, Runtime, Tried,
};
use polyfs_node::{frame, testing};
use polyfs_runtime_tokio::{LockError, SocketNet, TokioDir, TokioRuntime, lock_data_dir};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(test);
}

/// A directory of its own for one test, removed afterwards.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("polyfs-test-{}-{next}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn runtime() {
    run(async { testing::runtime(&TokioRuntime::new()).await });
}

#[test]
fn net() {
    run(async { testing::net(&SocketNet, "127.0.0.1").await });
}

#[test]
fn processes_of_this_machine_talk_over_a_local_socket() {
    run(async {
        for listens in ["127.0.0.1:0", "0.0.0.0:0"] {
            let mut listener = SocketNet.listen(listens).await.unwrap();
            let address = listener.address().replace("0.0.0.0", "127.0.0.1");
            let dialled = SocketNet.dial(&address).await.unwrap();
            let (_sender, _receiver, from) = listener.accept().await.unwrap();
            let own = format!("process {} of this machine", std::process::id());
            assert_eq!(from, own, "{listens}");
            // Whoever comes over TCP all the same is served, too.
            let raw = tokio::net::TcpStream::connect(&address).await.unwrap();
            let (_sender, _receiver, from) = listener.accept().await.unwrap();
            assert_eq!(from, raw.local_addr().unwrap().to_string());
            drop(dialled);
            // The name is gone with the listener: nobody else's connections end at a dead socket.
            drop(listener);
            assert!(SocketNet.dial(&address).await.is_err());
        }
    });
}

#[test]
fn a_peer_of_this_machine_that_reads_nothing_is_given_up() {
    let paused = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    paused.block_on(async {
        let mut listener = SocketNet.listen("127.0.0.1:0").await.unwrap();
        let (mut sender, _keep) = SocketNet.dial(&listener.address()).await.unwrap();
        let _stopped = listener.accept().await.unwrap();
        let frames = frames_of_many_sizes();
        let sent = loop {
            let sent = sender.send(frames.clone()).await;
            if sent.is_err() {
                break sent;
            }
        };
        assert!(matches!(sent, Err(NetError::Failed(_))), "{sent:?}");
    });
}

#[test]
fn names_are_resolved() {
    run(async {
        let listener = SocketNet.listen("localhost:0").await.unwrap();
        let port = listener.address().rsplit(':').next().unwrap().to_owned();
        SocketNet.dial(&format!("localhost:{port}")).await.unwrap();
    });
}

#[test]
fn dir() {
    let scratch = Scratch::new();
    testing::dir(&TokioDir::open(&scratch.0.join("made/here")).unwrap());
}

#[test]
fn dir_in_memory_where_direct_access_may_be_refused() {
    let path = PathBuf::from(format!("/dev/shm/polyfs-test-{}", std::process::id()));
    let Ok(dir) = TokioDir::open(&path) else {
        return println_skipped();
    };
    testing::dir(&dir);
    std::fs::remove_dir_all(path).unwrap();
}

fn println_skipped() {
    println!("skipped: this machine has no /dev/shm");
}

#[test]
fn a_data_directory_has_one_user() {
    let scratch = Scratch::new();
    let lock = lock_data_dir(&scratch.0).unwrap();
    assert!(matches!(lock_data_dir(&scratch.0), Err(LockError::InUse(path)) if path == scratch.0));
    use polyfs_store::disk::Dir;
    let dir = TokioDir::open(&scratch.0).unwrap();
    assert_eq!(
        dir.list(),
        Ok(vec![]),
        "the lock is none of the store's files"
    );
    drop(lock);
    drop(lock_data_dir(&scratch.0).unwrap());
}

#[test]
fn what_is_no_frame_ends_the_connection() {
    run(async {
        let good = frame::encode(&Frame {
            header: Bytes::from_static(b"header"),
            payload: vec![Bytes::from_static(b"payload")],
        })
        .unwrap();
        let mut damaged = good.to_vec();
        *damaged.last_mut().unwrap() ^= 1;
        let cases = [
            (
                b"GET / HTTP/1.1\r\nHost: polyfs\r\n\r\n".to_vec(),
                "it does not begin with the magic number",
            ),
            (damaged, "its payload is damaged"),
        ];
        for (bytes, reason) in cases {
            let mut listener = SocketNet.listen("127.0.0.1:0").await.unwrap();
            let mut raw = tokio::net::TcpStream::connect(listener.address())
                .await
                .unwrap();
            raw.write_all(&good).await.unwrap();
            raw.write_all(&bytes).await.unwrap();
            let (_sender, mut receiver, _) = listener.accept().await.unwrap();
            assert_eq!(&receiver.receive().await.unwrap().header[..], b"header");
            assert_eq!(receiver.receive().await, Err(NetError::Garbage(reason)));
            assert!(receiver.receive().await.is_err());
        }
    });
}

#[test]
fn the_wire_carries_what_frame_rs_says() {
    run(async {
        let mut listener = SocketNet.listen("127.0.0.1:0").await.unwrap();
        let mut raw = tokio::net::TcpStream::connect(listener.address())
            .await
            .unwrap();
        let (mut sender, receiver, _) = listener.accept().await.unwrap();
        // More pieces than one system call takes.
        let frames: Vec<Frame> = (0..100_u8)
            .map(|n| Frame {
                header: vec![n; usize::from(n)].into(),
                payload: (0..n).map(|m| vec![m; 3].into()).collect(),
            })
            .collect();
        let expected: Vec<u8> = frames
            .iter()
            .flat_map(|f| frame::encode(f).unwrap())
            .collect();
        sender.send(frames).await.unwrap();
        drop((sender, receiver));
        let mut got = vec![];
        raw.read_to_end(&mut got).await.unwrap();
        assert!(got == expected);
    });
}

#[test]
fn a_connection_cut_inside_a_frame_is_not_closed_in_order() {
    run(async {
        let mut listener = SocketNet.listen("127.0.0.1:0").await.unwrap();
        let mut raw = tokio::net::TcpStream::connect(listener.address())
            .await
            .unwrap();
        let (_sender, mut receiver, _) = listener.accept().await.unwrap();
        raw.write_all(b"PFS1\x05").await.unwrap();
        drop(raw);
        assert!(matches!(receiver.receive().await, Err(NetError::Failed(_))));
    });
}

/// Frames of many sizes, the last larger than what a socket takes at once.
fn frames_of_many_sizes() -> Vec<Frame> {
    let sizes = [0, 1, 100, 4096, 70_000, 8 << 20];
    let frame = |size: usize| Frame {
        header: Bytes::from(size.to_string()),
        payload: vec![
            Bytes::from(vec![7; size / 2]),
            Bytes::from(vec![8; size - size / 2]),
        ],
    };
    sizes.into_iter().map(frame).collect()
}

#[test]
fn another_thread_sends_by_itself_and_the_task_goes_on_with_what_was_begun() {
    run(async {
        let mut listener = SocketNet.listen("127.0.0.1:0").await.unwrap();
        let address = listener.address();
        let (mut sender, _keep) = SocketNet.dial(&address).await.unwrap();
        let (_keep_too, mut receiver, _) = listener.accept().await.unwrap();
        let shortcut = sender.shortcut().unwrap();
        let frames = frames_of_many_sizes();
        assert_eq!(
            shortcut.try_send(&frames[0]),
            Tried::Refused,
            "on tokio's thread"
        );
        let sent = frames.clone();
        let elsewhere = std::thread::spawn(move || {
            let tried = sent.iter().map(|frame| shortcut.try_send(frame));
            tried.collect::<Vec<_>>()
        });
        let tried = elsewhere.join().unwrap();
        let (last, others) = tried.split_last().unwrap();
        assert!(
            others.iter().all(|tried| *tried == Tried::Sent),
            "{tried:?}"
        );
        assert_eq!(*last, Tried::Begun, "nobody has read anything yet");
        let oversized = Frame {
            header: vec![0; FRAME_HEADER_BYTES_MAX + 1].into(),
            payload: vec![],
        };
        let refused = sender.send(vec![oversized]).await;
        assert!(refused.is_err(), "and nothing of what was begun is lost");
        let after = Frame {
            header: Bytes::from_static(b"after"),
            payload: vec![],
        };
        let expected = frames.iter().chain([&after]).map(|frame| {
            let payload = frame.payload.concat();
            (frame.header.clone(), payload)
        });
        let send = sender.send(vec![after.clone()]);
        let receive = async {
            for (header, payload) in expected {
                let frame = receiver.receive().await.unwrap();
                assert_eq!((frame.header, frame.payload.concat()), (header, payload));
            }
        };
        let (sent, ()) = tokio::join!(send, receive);
        sent.unwrap();
    });
}

#[test]
fn slow_work_holds_up_no_task_and_no_other_lane() {
    run(async {
        let runtime = TokioRuntime::new();
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let slow = runtime.blocking(Lane::Log, move || wait.recv().unwrap());
        runtime.blocking(Lane::Read, || ()).await;
        runtime.blocking(Lane::Checkpoint, || ()).await;
        go.send(()).unwrap();
        slow.await;
    });
}

/// In a child process this breaks a law on the log's thread; in the parent it does nothing.
#[test]
fn broken_law() {
    if std::env::var_os("POLYFS_TEST_BREAK_A_LAW").is_none() {
        return;
    }
    run(async {
        let runtime = TokioRuntime::new();
        runtime.blocking(Lane::Log, || panic!("a law")).await
    });
}

#[test]
fn work_that_panics_ends_the_process() {
    use std::os::unix::process::ExitStatusExt;
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "broken_law", "--nocapture"])
        .env("POLYFS_TEST_BREAK_A_LAW", "1")
        .output()
        .unwrap();
    assert_eq!(output.status.signal(), Some(libc::SIGABRT), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("a law"));
}
