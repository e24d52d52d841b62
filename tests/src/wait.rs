//! Waiting for a condition: the only place of the harness that sleeps.

use anyhow::{Context, Result, bail};
use std::time::{Duration, Instant};

/// Between two looks at a condition, once it takes its time.
const PAUSE: Duration = Duration::from_millis(10);
/// Before the second look; each later pause is twice as long as the one before.
const FIRST_PAUSE: Duration = Duration::from_micros(200);

/// Asks `probe` until it answers `Some`, or fails when `deadline` has passed. An error of `probe`
/// counts as "not yet"; the last one is named in the failure.
pub fn eventually<T>(
    deadline: Duration,
    what: &str,
    mut probe: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let (begun, mut pause) = (Instant::now(), FIRST_PAUSE);
    loop {
        let last = match probe() {
            Ok(Some(found)) => return Ok(found),
            Ok(None) => None,
            Err(error) => Some(error),
        };
        if begun.elapsed() >= deadline {
            return match last {
                Some(error) => Err(error).with_context(|| format!("not within {deadline:?}: {what}")),
                None => bail!("not within {deadline:?}: {what}"),
            };
        }
        std::thread::sleep(pause);
        pause = PAUSE.min(2 * pause);
    }
}

/// [`eventually`] for a condition without a value.
pub fn until(deadline: Duration, what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    eventually(deadline, what, || Ok(holds()?.then_some(())))
}

/// Watches that a condition keeps holding for `span`; fails as soon as it does not.
pub fn throughout(span: Duration, what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let begun = Instant::now();
    while begun.elapsed() < span {
        if !holds()? {
            bail!("only for {:?} of {span:?}: {what}", begun.elapsed());
        }
        std::thread::sleep(PAUSE);
    }
    Ok(())
}
