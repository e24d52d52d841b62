//! The one source that a running agent has: a directory, or the Kubernetes API.

use super::{
    directory::{Watch, Watching},
    kubernetes::{Cluster, Following, Node},
    publisher::Publisher,
};
use crate::{
    config::{Config, Origin},
    status::Board,
};
use anyhow::Context as _;

/// Where objects come from; the first of them are in force.
pub(crate) enum Source {
    Directory(Box<Watch>),
    Kubernetes(Box<Cluster>),
}

/// A source that is watched; not any more when dropped.
pub(crate) enum Watched {
    Directory(Watching),
    Kubernetes(Following),
}

impl Source {
    /// Reads, or waits for, the first state; the board says what is waited for.
    pub(crate) async fn open(config: &Config, publisher: Publisher, board: &Board) -> anyhow::Result<Self> {
        match config.origin(|name| std::env::var_os(name))? {
            Origin::Directory(dir) => Ok(Self::Directory(Box::new(Watch::open(&dir, publisher)?))),
            Origin::Kubernetes(access) => {
                let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
                let node =
                    Node { name: config.node_name.as_ref().unwrap_or(&host), run_dir: &config.run_dir };
                let mut cluster = Cluster::open(&access, publisher, node).await?;
                cluster.synced(|missing| board.starting(format!("no list yet of {missing}"))).await?;
                Ok(Self::Kubernetes(Box::new(cluster)))
            }
        }
    }

    /// Where its snapshots come into force.
    pub(crate) fn publisher(&mut self) -> &mut Publisher {
        match self {
            Self::Directory(watch) => watch.publisher(),
            Self::Kubernetes(cluster) => cluster.publisher(),
        }
    }

    /// Takes in what changes.
    pub(crate) fn watch(self) -> anyhow::Result<Watched> {
        Ok(match self {
            Self::Directory(watch) => {
                Watched::Directory(watch.spawn().context("watch the configuration directory")?)
            }
            Self::Kubernetes(cluster) => Watched::Kubernetes(cluster.spawn()),
        })
    }
}

impl Watched {
    /// Reads everything again, without waiting for a change.
    pub(crate) fn reload(&self) {
        match self {
            Self::Directory(watching) => watching.reload(),
            Self::Kubernetes(following) => following.reload(),
        }
    }
}
