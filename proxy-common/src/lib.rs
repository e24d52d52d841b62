//! What both halves of Weir agree on.
//!
//! The kernel half compiles this crate for `bpfel-unknown-none`, the user half for the host: one
//! source, so that both read the same bytes the same way. No I/O, no clock, no allocation, no panic
//! paths (invariant I4).
#![cfg_attr(not(any(test, feature = "user")), no_std)]

pub mod abi;
pub mod access;
pub mod addr;
pub mod flow;
pub mod head;
pub mod http;
pub mod pair;
pub mod policy;
pub mod redirect;
pub mod tally;
