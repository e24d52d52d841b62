//! Work on this thread that signals do not disturb: the verifier gives up with EAGAIN where one is pending (kernel
//! commit c3494801cd17), and a program that takes half a second to verify may never be loaded while they come.

use anyhow::{Context, ensure};
use std::{io, mem::MaybeUninit, ptr};

/// Runs `work` with every signal held back from this thread; other threads of the process get them meanwhile, or
/// this one later. `work` must start no thread: it would hear no signal for ever.
pub(super) fn undisturbed<T>(work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let before = swap(libc::SIG_BLOCK, &every()).context("hold signals back")?;
    let done = work();
    swap(libc::SIG_SETMASK, &before).context("let signals in again")?;
    done
}

#[allow(unsafe_code)]
fn every() -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigfillset(3) initialises the set, and cannot fail for a valid pointer.
    unsafe {
        libc::sigfillset(set.as_mut_ptr());
        set.assume_init()
    }
}

/// Changes the thread's mask; the one before.
#[allow(unsafe_code)]
fn swap(how: libc::c_int, set: &libc::sigset_t) -> anyhow::Result<libc::sigset_t> {
    let mut before = MaybeUninit::uninit();
    // SAFETY: both point to sets; the second is written where the call succeeds.
    let code = unsafe { libc::pthread_sigmask(how, ptr::from_ref(set), before.as_mut_ptr()) };
    ensure!(code == 0, io::Error::from_raw_os_error(code));
    // SAFETY: the call has succeeded.
    Ok(unsafe { before.assume_init() })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, unsafe_code, reason = "tests")]
    use super::*;

    fn blocked(signal: libc::c_int) -> bool {
        let now = swap(libc::SIG_BLOCK, &{
            let mut none = MaybeUninit::uninit();
            // SAFETY: as above.
            unsafe {
                libc::sigemptyset(none.as_mut_ptr());
                none.assume_init()
            }
        });
        // SAFETY: a set that the kernel wrote.
        unsafe { libc::sigismember(&now.unwrap(), signal) == 1 }
    }

    #[test]
    fn signals_wait_until_the_work_is_done_also_where_it_fails() {
        for fails in [false, true] {
            assert!(!blocked(libc::SIGHUP));
            let done = undisturbed(|| {
                assert!(blocked(libc::SIGHUP) && blocked(libc::SIGTERM));
                ensure!(!fails, "as asked for");
                Ok(7)
            });
            assert_eq!(done.ok(), (!fails).then_some(7));
            assert!(!blocked(libc::SIGHUP) && !blocked(libc::SIGTERM));
        }
    }
}
