//! The way to the API server: where it is, and who we are.

use super::retry::chain;
use anyhow::Context as _;
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use std::{path::PathBuf, time::Duration};

/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

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
    let mut config = config(&access).await?;
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    // Followers have pauses of their own, and say how they fare.
    config.default_retry = false;
    let address = config.cluster_url.to_string();
    let client = Client::try_from(config).map_err(|error| anyhow::anyhow!("{}", chain(&error)));
    Ok((client.context("the Kubernetes API's client")?, address))
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
