//! The way to the API server: where it is, and who we are.

use super::retry::chain;
use anyhow::Context as _;
use hyper_util::{client::legacy::connect::HttpConnector, rt::TokioExecutor};
use kube::{
    Client, Config,
    client::{Body, ClientBuilder, ConfigExt as _},
    config::{KubeConfigOptions, Kubeconfig},
};
use std::{path::PathBuf, time::Duration};
use tower::ServiceExt as _;

/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A watch may be silent for minutes: that the server is still there is asked after this much silence,
const KEEPALIVE: Duration = Duration::from_secs(15);
/// again after each of these,
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// and so often. What is sent has as long.
const KEEPALIVE_RETRIES: u32 = 3;
const UNHEARD: Duration = Duration::from_secs(30);

/// How the API server is found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Access {
    /// As a Pod finds it: `KUBERNETES_SERVICE_HOST` and the service account's files.
    InCluster,
    /// As kubectl finds it, by the files that `KUBECONFIG` names, or `~/.kube/config`.
    Kubectl,
    /// By this file's current context.
    File(PathBuf),
}

/// A client, which connects with its first request, and the server's address.
pub(super) async fn connect(access: Access) -> anyhow::Result<(Client, String)> {
    let config = config(&access).await?;
    let client = client(&config).map_err(|error| anyhow::anyhow!("{}", chain(&error)));
    Ok((client.context("the Kubernetes API's client")?, config.cluster_url.to_string()))
}

/// kube's own client, but it notices when the other end is gone, and leaves it to us to ask again.
fn client(config: &Config) -> kube::Result<Client> {
    if let Some(proxy_url) = &config.proxy_url {
        return Err(kube::Error::ProxyProtocolUnsupported { proxy_url: Box::new(proxy_url.clone()) });
    }
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
    tcp.set_keepalive(Some(KEEPALIVE));
    tcp.set_keepalive_interval(Some(KEEPALIVE_INTERVAL));
    tcp.set_keepalive_retries(Some(KEEPALIVE_RETRIES));
    tcp.set_tcp_user_timeout(Some(UNHEARD));
    let https = config.rustls_https_connector_with_connector(tcp)?;
    let http = hyper_util::client::legacy::Client::builder(TokioExecutor::new())
        .build::<_, Body>(https)
        .map_err(tower::BoxError::from);
    let builder =
        ClientBuilder::new(http, &*config.default_namespace).with_layer(&config.extra_headers_layer()?);
    let base = config.base_uri_layer();
    Ok(match config.auth_layer()? {
        Some(authentication) => builder.with_layer(&authentication).with_layer(&base).build(),
        None => builder.with_layer(&base).build(),
    })
}

async fn config(access: &Access) -> anyhow::Result<Config> {
    let options = KubeConfigOptions::default();
    match access {
        Access::InCluster => Config::incluster()
            .context("this Pod's access to the Kubernetes API (is a service account mounted?)"),
        Access::Kubectl => Config::from_kubeconfig(&options).await.context("KUBECONFIG"),
        Access::File(path) => {
            let file =
                Kubeconfig::read_from(path).with_context(|| format!("--kubeconfig {}", path.display()))?;
            Config::from_custom_kubeconfig(file, &options)
                .await
                .with_context(|| format!("--kubeconfig {}", path.display()))
        }
    }
}
