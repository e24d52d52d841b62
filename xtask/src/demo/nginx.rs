//! A real nginx in a pod, where one is installed.

use crate::exec;
use anyhow::Result;
use std::{fs, net::TcpStream, path::Path, time::Duration};
use weir_tests::{pod::Pod, process::Process, wait};

/// Answers what the scripted server answers to the demonstration's requests. The clients check that
/// their nonce comes back.
const CONFIG: &str = "
user root;
worker_processes 1;
pid DIR/nginx.pid;
error_log stderr;
events {}
http {
    access_log off;
    sendfile on;
    client_body_temp_path DIR/body;
    proxy_temp_path DIR/proxy;
    fastcgi_temp_path DIR/fastcgi;
    uwsgi_temp_path DIR/uwsgi;
    scgi_temp_path DIR/scgi;
    add_header X-Nonce $http_x_nonce always;
    server {
        listen ADDR;
        root DIR;
        location / { return 200 \"hello from nginx in pod NAME\\n\"; }
        location /bytes/ { }
        location /status/404 { return 404; }
    }
}
";

/// Starts it below `scratch`; `None` where it is not installed.
pub(super) fn start(pod: &Pod, port: u16, scratch: &Path) -> Result<Option<Process>> {
    let Some(program) = exec::which("nginx") else { return Ok(None) };
    let dir = scratch.join(format!("{}-nginx", pod.name()));
    fs::create_dir_all(dir.join("bytes"))?;
    fs::write(dir.join("bytes/300000"), vec![b'.'; 300_000])?;
    let addr = pod.at(port);
    let config = CONFIG
        .replace("DIR", &dir.display().to_string())
        .replace("ADDR", &addr.to_string())
        .replace("NAME", pod.name());
    fs::write(dir.join("nginx.conf"), config)?;
    let mut command = pod.command(program);
    command.arg("-p").arg(&dir).arg("-c").arg(dir.join("nginx.conf")).args(["-g", "daemon off;"]);
    let process = pod.spawn("nginx", command)?;
    wait::until(Duration::from_secs(10), "nginx listens", || {
        pod.netns().run(|| TcpStream::connect(addr).map(|_| true))?.map_err(Into::into)
    })?;
    Ok(Some(process))
}
