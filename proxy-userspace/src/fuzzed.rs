//! The root of the crate that fuzz targets ask (`fuzz/Cargo.toml`): the parts of the agent that read what clients
//! send, and nothing else, so that it is built in a minute.
#![allow(dead_code, unreachable_pub, unused_imports, reason = "the rest of the agent is not here")]

mod admission;
mod fields;

mod route {
    pub(crate) mod choices;
    pub(crate) mod host;
    pub(crate) mod path;
    pub(crate) mod target;
}

mod server {
    pub(crate) mod http2 {
        pub(crate) mod agreement;
        mod frames;
        mod message;
    }
}

pub use admission::agreement::agrees as admission_agrees;
pub use route::path::agreement::agrees as path_agrees;
pub use server::http2::agreement::agrees as frames_agree;
