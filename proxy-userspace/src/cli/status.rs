//! `weir status`: asks the running agent.

mod table;

use super::agent;
use crate::{
    config::{Output, StatusArgs},
    status::{Readiness, Status},
};
use anyhow::Context;
use std::{
    io::{Write, stdout},
    process::ExitCode,
};

/// Something does not work as it should.
const DEGRADED: u8 = 2;

/// Prints what the agent at `admin_addr` answers. Exit 0: ready and well; 2: not ready, or
/// degraded; an error (exit 1): it could not be asked.
pub fn status(args: &StatusArgs) -> anyhow::Result<ExitCode> {
    let answer = agent::ask(args.admin_addr, "/status")?;
    let status: Status =
        serde_json::from_slice(&answer).context("the answer is not a status that this version reads")?;
    let printed = match args.output {
        Output::Text => table::text(&status),
        Output::Json => serde_json::to_string_pretty(&status)? + "\n",
    };
    stdout().write_all(printed.as_bytes())?;
    let well = status.readiness == Readiness::Ready && status.degraded.is_empty();
    Ok(if well { ExitCode::SUCCESS } else { ExitCode::from(DEGRADED) })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::{admin::Admin, metrics::Metrics, status::Board};
    use std::{
        net::{SocketAddr, TcpListener},
        sync::Arc,
    };

    fn args(admin_addr: SocketAddr) -> StatusArgs {
        StatusArgs { admin_addr, output: Output::Json }
    }

    #[test]
    fn the_exit_code_is_0_when_ready_and_well_and_2_when_not() {
        let board = Arc::new(Board::new(Arc::new(Metrics::default())));
        let admin = Admin::start("127.0.0.1:0".parse().unwrap(), Arc::clone(&board)).unwrap();
        let asked = || status(&args(admin.addr())).unwrap();
        assert_eq!(asked(), ExitCode::from(2), "starting");
        board.ready();
        assert_eq!(asked(), ExitCode::SUCCESS);
        board.config_rejected("web.yaml:3: port 0".to_owned());
        assert_eq!(asked(), ExitCode::from(2), "degraded");
        assert!(admin.stop());
    }

    #[test]
    fn an_agent_that_cannot_be_reached_is_an_error_that_says_what_to_set() {
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let error = format!("{:#}", status(&args(closed)).unwrap_err());
        assert!(error.contains(&closed.to_string()) && error.contains("--admin-addr"), "{error}");
        assert!(error.contains("Connection refused"), "{error}");
    }

    #[test]
    fn something_else_that_answers_is_not_taken_for_an_agent() {
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = other.local_addr().unwrap();
        let answering = std::thread::spawn(move || {
            let (mut stream, _) = other.accept().unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi").unwrap();
            stream
        });
        assert!(status(&args(addr)).is_err());
        drop(answering.join().unwrap());
    }
}
