#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
use super::*;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

fn ping() -> Vec<u8> {
    frame(PING, 0, 0, &[0; 8])
}

fn opened(now: Instant) -> Frames {
    let mut frames = Frames::new(now);
    frames.read(PREFACE, now);
    frames.read(&frame(SETTINGS, 0, 0, &[]), now);
    // That was one of the budget.
    frames.control.grant(1000);
    frames
}

#[test]
fn frames_are_found_however_the_bytes_are_cut() {
    let all = [frame(HEADERS, 5, 1, b"abc"), ping(), frame(DATA, 1, 1, &[]), frame(77, 0, 9, &[1; 300])];
    let bytes = all.concat();
    let whole = {
        let mut found = Vec::new();
        Splitter::default().split(&bytes, |head| found.push(head));
        found
    };
    assert_eq!(
        whole.iter().map(|head| (head.kind, head.length)).collect::<Vec<_>>(),
        [(1, 3), (6, 8), (0, 0), (77, 300)]
    );
    for cut in 0..bytes.len() {
        let (mut splitter, mut found) = (Splitter::default(), Vec::new());
        splitter.split(&bytes[..cut], |head| found.push(head));
        splitter.split(&bytes[cut..], |head| found.push(head));
        assert_eq!(found, whole, "{cut}");
        assert!(splitter.is_between());
    }
}

#[tokio::test(start_paused = true)]
async fn d11_control_frames_have_a_budget_that_time_refills() {
    for flood in [ping(), frame(SETTINGS, 0, 0, &[]), frame(PRIORITY, 0, 1, &[0; 5]), frame(99, 0, 0, &[])] {
        let mut frames = opened(Instant::now());
        for _ in 0..CONTROL.1 {
            frames.read(&flood, Instant::now());
        }
        assert_eq!(frames.excess(), None);
        tokio::time::advance(Duration::from_secs(1)).await;
        for _ in 0..CONTROL.0 {
            frames.read(&flood, Instant::now());
        }
        assert_eq!(frames.excess(), None);
        frames.read(&flood, Instant::now());
        assert_eq!(frames.excess(), Some(Excess::Control));
    }
}

#[tokio::test(start_paused = true)]
async fn window_updates_for_data_that_was_sent_are_free() {
    let mut frames = opened(Instant::now());
    for _ in 0..100_000 {
        frames.written(&frame(DATA, 0, 1, &[0; 100]));
        frames.read(&frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 100]), Instant::now());
        frames.read(&frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 100]), Instant::now());
    }
    assert_eq!(frames.excess(), None);
}

#[tokio::test(start_paused = true)]
async fn d7_resets_have_a_budget_of_their_own() {
    let mut frames = opened(Instant::now());
    for n in 0..RESETS.1 {
        frames.read(&frame(RST_STREAM, 0, 2 * n + 1, &[0; 4]), Instant::now());
    }
    assert_eq!(frames.excess(), None);
    frames.read(&frame(RST_STREAM, 0, 999, &[0; 4]), Instant::now());
    assert_eq!(frames.excess(), Some(Excess::Resets));
}

#[tokio::test(start_paused = true)]
async fn d6_half_frames_are_known_by_what_came_when_and_not_by_how_it_was_cut() {
    let second = Duration::from_secs(1);
    for kind in [SETTINGS, DATA] {
        let (two, begun) = (frame(kind, 0, 0, &[0; 60]).repeat(2), Instant::now());
        let (mut whole, mut single) = (opened(begun), opened(begun));
        // The end of one frame, and a piece of the next one's header.
        for piece in [&two[..40], &two[40..72], &two[72..75]] {
            tokio::time::advance(second).await;
            whole.read(piece, Instant::now());
            piece.chunks(1).for_each(|byte| single.read(byte, Instant::now()));
            assert_eq!(whole.half_until(second), single.half_until(second), "{kind}");
        }
        assert_eq!(whole.half_until(second), Some(begun + 3 * second), "{kind}: since the second has begun");
    }
}

#[tokio::test(start_paused = true)]
async fn d6_a_half_frame_is_known_since_when() {
    let second = Duration::from_secs(1);
    let mut frames = opened(Instant::now());
    assert_eq!(frames.half_until(second), None);
    let begun = Instant::now();
    frames.read(&ping()[..3], begun);
    tokio::time::advance(second).await;
    frames.read(&ping()[3..12], Instant::now());
    assert!(frames.half_until(second).is_some());
    frames.read(&ping()[12..], Instant::now());
    assert_eq!(frames.half_until(second), None);
}

#[test]
fn a_goaway_names_the_last_stream_and_stands_between_frames() {
    let mut frames = opened(Instant::now());
    frames.read(&frame(HEADERS, 5, 7, b"x"), Instant::now());
    assert_eq!(frames.goaway(11).unwrap().to_vec(), frame(7, 0, 0, &[0, 0, 0, 7, 0, 0, 0, 11]));
    frames.written(&[0, 0, 1]);
    assert_eq!(frames.goaway(11), None);
}

#[test]
fn a_preface_ends_with_settings() {
    let mut frames = Frames::new(Instant::now());
    frames.read(&[PREFACE, &ping()].concat(), Instant::now());
    assert_eq!(frames.excess(), Some(Excess::Preface));
}

#[test]
fn the_first_acknowledgement_of_settings_costs_nothing() {
    let mut frames = opened(Instant::now());
    assert!(!frames.is_acknowledged());
    frames.read(&frame(SETTINGS, ACK, 0, &[]), Instant::now());
    assert!(frames.is_acknowledged());
}

#[tokio::test]
async fn a_frame_that_is_not_of_its_kinds_size_is_known_by_its_header() {
    let sizes: [(u8, u8, &[usize], &[usize]); 7] = [
        (PRIORITY, 0, &[5], &[0, 4, 6]),
        (RST_STREAM, 0, &[4], &[0, 3, 5]),
        (SETTINGS, 0, &[0, 6, 600], &[1, 5, 7]),
        (SETTINGS, ACK, &[0], &[1, 6]),
        (PING, 0, &[8], &[0, 7, 9]),
        (GOAWAY, 0, &[8, 80], &[0, 7]),
        (WINDOW_UPDATE, 0, &[4], &[0, 3, 5, 8]),
    ];
    let excess = |kind, flags, size: usize| {
        let mut frames = opened(Instant::now());
        let bytes = frame(kind, flags, 1, &vec![0; size]);
        frames.read(&bytes[..HEADER], Instant::now());
        frames.excess()
    };
    for (kind, flags, right, wrong) in sizes {
        for size in right {
            assert_eq!(excess(kind, flags, *size), None, "{kind} of {size}");
        }
        for size in wrong {
            assert_eq!(excess(kind, flags, *size), Some(Excess::Size), "{kind} of {size}");
        }
    }
    assert_eq!((excess(DATA, 0, 1), excess(HEADERS, 0, 1), excess(99, 0, 1)), (None, None, None));
}
