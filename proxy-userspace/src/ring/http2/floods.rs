//! What a client may not make the agent do (`wire.md` 2.5).

use super::{
    raw::{
        self, Came, DATA, GOAWAY, HEADERS, PING, PRIORITY, RST_STREAM, Raw, SETTINGS, WINDOW_UPDATE, frame,
    },
    *,
};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

const CALM: u32 = 0xb;

/// Sends it all, however the agent takes it, and returns the GOAWAY that came back.
async fn flooded(ring: &Ring, flood: Vec<u8>) -> Option<Came> {
    let raw = Raw::open(ring).await;
    let (mut read, mut write) = raw.0.0.into_split();
    let writing = tokio::spawn(async move {
        let written = write.write_all(&flood).await;
        (write, written)
    });
    let mut all = Vec::new();
    let _ = within(read.read_to_end(&mut all)).await;
    writing.abort();
    let mut bytes = &*all;
    let mut goaway = None;
    while bytes.len() >= 9 {
        let length = usize::try_from(u32::from_be_bytes([0, bytes[0], bytes[1], bytes[2]])).unwrap();
        let Some(payload) = bytes.get(9..9 + length) else { break };
        if bytes[3] == GOAWAY {
            goaway = Some(Came { kind: GOAWAY, flags: 0, stream: 0, payload: payload.to_vec() });
        }
        bytes = &bytes[9 + length..];
    }
    goaway
}

#[tokio::test]
async fn d11_floods_of_control_frames_end_the_connection() {
    let endpoint = Endpoint::new().await;
    let ring = ring_to(endpoint.addr, http1).await;
    let floods = [
        ("PING", frame(PING, 0, 0, &[0; 8])),
        ("SETTINGS", frame(SETTINGS, 0, 0, &[])),
        ("PRIORITY", frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 1])),
        ("WINDOW_UPDATE", frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])),
        ("unknown", frame(77, 0, 0, &[])),
    ];
    for (name, one) in floods {
        let goaway = flooded(&ring, one.repeat(20_000)).await;
        assert_eq!(goaway.map(|came| came.code()), Some(CALM), "{name}");
    }
    within(ring.relay.drain.empty()).await;
    endpoint.stays_alone().await;
}

/// Answers nothing, counts requests.
async fn counting() -> (std::net::SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let started = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&started);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            count.fetch_add(1, Relaxed);
            tokio::spawn(async move { stream.read_to_end(&mut Vec::new()).await });
        }
    });
    (addr, started)
}

#[tokio::test]
async fn d7_rapid_reset_starts_little_work_upstream() {
    let (addr, started) = counting().await;
    let ring = ring_to(addr, http1).await;
    let pair = |n: u32| {
        let open = frame(HEADERS, raw::END_HEADERS | raw::END_STREAM, 2 * n + 1, &raw::get(&[]));
        [open, frame(RST_STREAM, 0, 2 * n + 1, &8_u32.to_be_bytes())].concat()
    };
    let goaway = flooded(&ring, (0..5000).flat_map(pair).collect()).await;
    assert_eq!(goaway.map(|came| came.code()), Some(CALM));
    within(ring.relay.drain.empty()).await;
    assert!(started.load(Relaxed) <= 200, "{} requests", started.load(Relaxed));
}

/// Reads what there is; whether it ends.
fn is_over(raw: &Raw) -> bool {
    let mut room = [0; 4096];
    loop {
        match raw.0.0.try_read(&mut room) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() != std::io::ErrorKind::WouldBlock,
        }
    }
}

#[tokio::test]
async fn d7_rapid_reset_at_leisure_starts_little_work_upstream() {
    let (addr, started) = counting().await;
    let ring = ring_to(addr, http1).await;
    let mut raw = Raw::open(&ring).await;
    for n in 0..2000_u32 {
        let before = started.load(Relaxed);
        let open = frame(HEADERS, raw::END_HEADERS | raw::END_STREAM, 2 * n + 1, &raw::get(&[]));
        if raw.0.0.write_all(&open).await.is_err() {
            break;
        }
        let deadline = std::time::Instant::now() + PATIENCE / 2;
        while started.load(Relaxed) == before && !is_over(&raw) && std::time::Instant::now() < deadline {
            tokio::task::yield_now().await;
        }
        if started.load(Relaxed) == before
            || raw.0.0.write_all(&frame(RST_STREAM, 0, 2 * n + 1, &8_u32.to_be_bytes())).await.is_err()
        {
            break;
        }
    }
    within(ring.relay.drain.empty()).await;
    // A hundred at once, and as many more as the time that it took allows: the flood is over in moments.
    assert!(started.load(Relaxed) < 2000, "{} requests", started.load(Relaxed));
}

#[tokio::test]
async fn d8_resets_that_the_client_provokes_start_little_work_upstream() {
    let (addr, started) = counting().await;
    let ring = ring_to(addr, http1).await;
    let pair = |n: u32| {
        let open = frame(HEADERS, raw::END_HEADERS, 2 * n + 1, &raw::asked("POST", &[]));
        [open, frame(WINDOW_UPDATE, 0, 2 * n + 1, &[0; 4])].concat()
    };
    assert!(flooded(&ring, (0..5000).flat_map(pair).collect()).await.is_some());
    within(ring.relay.drain.empty()).await;
    assert!(started.load(Relaxed) <= 200, "{} requests", started.load(Relaxed));
}

#[tokio::test]
async fn d9_endless_continuations_end_the_connection() {
    let endpoint = Endpoint::new().await;
    let ring = ring_to(endpoint.addr, http1).await;
    let begin = frame(HEADERS, raw::END_STREAM, 1, &raw::get(&[]));
    for piece in [&[][..], &raw::block(&[("a", b"b")])] {
        let flood = [begin.clone(), frame(raw::CONTINUATION, 0, 1, piece).repeat(5000)].concat();
        assert_eq!(flooded(&ring, flood).await.map(|came| came.code()), Some(CALM), "{}", piece.len());
    }
    endpoint.stays_alone().await;
}

#[tokio::test]
async fn d10_a_small_block_that_stands_for_a_large_list_is_refused() {
    let endpoint = Endpoint::new().await;
    let ring = ring_to(endpoint.addr, http1).await;
    // One entry of 4000 bytes into the dynamic table, then thousands of references to it.
    let mut block = raw::get(&[]);
    block.push(0x40);
    raw::string(&mut block, b"x");
    raw::string(&mut block, &[b'a'; 4000]);
    block.extend([0x80 | 62; 10_000]);
    let flood = frame(HEADERS, raw::END_HEADERS | raw::END_STREAM, 1, &block);
    let mut raw = Raw::open(&ring).await;
    raw.0.send(flood).await;
    let came = raw.until(|came| matches!(came.kind, HEADERS | RST_STREAM | GOAWAY)).await.unwrap();
    // 431 is no entry of the static table: a literal, or Huffman's code of it.
    assert!(came.kind != HEADERS || came.payload[0] != 0x88, "{came:?}");
    endpoint.stays_alone().await;
}

#[tokio::test]
async fn d12_floods_of_empty_data_end_the_connection() {
    let (addr, started) = counting().await;
    let ring = ring_to(addr, http1).await;
    let open = frame(HEADERS, raw::END_HEADERS, 1, &raw::asked("POST", &[]));
    let flood = [open, frame(DATA, 0, 1, &[]).repeat(30_000)].concat();
    assert!(flooded(&ring, flood).await.is_some());
    assert!(started.load(Relaxed) <= 1);
}

#[tokio::test]
async fn d13_a_hundred_streams_are_open_at_once_and_no_more() {
    let (addr, started) = counting().await;
    let ring = ring_to(addr, http1).await;
    let mut raw = Raw::open(&ring).await;
    let open = |n: u32| frame(HEADERS, raw::END_HEADERS | raw::END_STREAM, 2 * n + 1, &raw::get(&[]));
    raw.0.send((0..150).flat_map(open).collect::<Vec<u8>>()).await;
    for n in 100..150 {
        let refused = raw.until(|came| came.kind == RST_STREAM).await.unwrap();
        assert_eq!((refused.stream, refused.code()), (2 * n + 1, 7));
    }
    eventually(|| async { started.load(Relaxed) == 100 }).await;
}
