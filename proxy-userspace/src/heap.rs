//! Memory that was needed only to read something large goes back to the kernel.
//!
//! glibc keeps what was freed between what is still in use, and more of it the more threads there are:
//! the documents that objects are read from are freed among the objects.

/// Changes at once from which on it is worth the time.
pub(crate) const MANY: usize = 1000;

/// Gives it back; takes some ten milliseconds for some hundred megabytes.
pub(crate) fn give_back() {
    #[cfg(target_env = "gnu")]
    #[allow(unsafe_code)]
    // SAFETY: the argument is a number of bytes to keep, and glibc locks what it walks.
    unsafe {
        libc::malloc_trim(0);
    }
}
