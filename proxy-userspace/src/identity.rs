//! Who a client is: the pod behind a cgroup, or behind an address.
//!
//! The kernel half saw the cgroup that called connect. Kubelet names a pod's cgroup after its UID, so the
//! cgroup names the pod, whatever address it has (invariant I7). Only where no cgroup is known (a client
//! on another node), or the cgroup names no pod (static pods whose manifest has no UID), the address
//! decides, and then never for a pod that is known by its UID to be somebody else.

use crate::{sharded::Sharded, snapshot::Snapshot};
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    fs,
    net::IpAddr,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

/// How soon the cgroup tree is walked again for a cgroup that was not there: a walk takes about 3 us a
/// directory.
const WALK_AGAIN: Duration = Duration::from_millis(20);
/// Directories of one walk; a node has some hundreds.
const MAX_DIRECTORIES: usize = 65_536;

/// One pod, as policies know it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PodIdentity {
    /// `namespace/name`.
    pub key: Arc<str>,
    /// `metadata.uid`, if its manifest has one.
    pub uid: Option<Arc<str>>,
    /// `status.podIPs`.
    pub addresses: Vec<IpAddr>,
    /// `spec.nodeName`.
    pub node: Option<Arc<str>>,
    /// Its addresses are its node's: it counts as that node.
    pub host_network: bool,
}

/// The pods of one snapshot.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PodIndex {
    by_key: Sharded<Arc<str>, Arc<PodIdentity>>,
    by_uid: Sharded<Arc<str>, Arc<PodIdentity>>,
    by_ip: Sharded<IpAddr, Arc<PodIdentity>>,
}

impl PodIndex {
    /// Takes a pod's name and UID in, or in the place of what it was before.
    pub(crate) fn set(&mut self, pod: &Arc<PodIdentity>) {
        self.remove(&pod.key);
        if let Some(uid) = &pod.uid {
            self.by_uid.insert(Arc::clone(uid), Arc::clone(pod));
        }
        self.by_key.insert(Arc::clone(&pod.key), Arc::clone(pod));
    }

    /// Forgets a pod's name and UID.
    pub(crate) fn remove(&mut self, key: &str) {
        let Some(pod) = self.by_key.remove(key) else { return };
        if let Some(uid) = &pod.uid
            && self.by_uid.get(uid).is_some_and(|one| one.key == pod.key)
        {
            self.by_uid.remove(uid);
        }
    }

    /// Says whose an address is.
    pub(crate) fn give(&mut self, ip: IpAddr, holder: Option<&str>) {
        let ip = ip.to_canonical();
        match holder.and_then(|key| self.by_key.get(key)).cloned() {
            Some(pod) => {
                self.by_ip.insert(ip, pod);
            }
            None => {
                self.by_ip.remove(&ip);
            }
        }
    }

    /// The pod `namespace/name`.
    #[must_use]
    pub fn by_key(&self, key: &str) -> Option<&Arc<PodIdentity>> {
        self.by_key.get(key)
    }

    /// The pod with a UID.
    #[must_use]
    pub fn by_uid(&self, uid: &str) -> Option<&Arc<PodIdentity>> {
        self.by_uid.get(uid)
    }

    /// The pod with an address of its own.
    #[must_use]
    pub fn by_ip(&self, ip: IpAddr) -> Option<&Arc<PodIdentity>> {
        self.by_ip.get(&ip.to_canonical())
    }

    /// All of them, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<PodIdentity>> {
        self.by_key.values()
    }
}

/// Finds pods; shared by all connections.
pub(crate) struct Identity {
    snapshot: Arc<ArcSwap<Snapshot>>,
    cgroups: PodCgroups,
}

impl Identity {
    /// `pod_parent` is the cgroup that all pods are below; `None` where clients have no cgroup.
    pub(crate) fn new(snapshot: Arc<ArcSwap<Snapshot>>, pod_parent: Option<PathBuf>) -> Self {
        Self { snapshot, cgroups: PodCgroups::new(pod_parent) }
    }

    /// The pod that made a connection: by the cgroup that the kernel half saw (0: none), else by its
    /// address. `None` for hosts and for addresses outside. Always by the snapshot in force.
    pub(crate) fn pod_of(&self, cgroup_id: u64, client: IpAddr) -> Option<Arc<PodIdentity>> {
        let snapshot = self.snapshot.load();
        let Some(uid) = self.cgroups.uid_of(cgroup_id) else { return snapshot.pods.by_ip(client).cloned() };
        let by_address = || snapshot.pods.by_ip(client).filter(|pod| pod.uid.is_none());
        snapshot.pods.by_uid(&uid).or_else(by_address).cloned()
    }
}

/// The cgroups below the pods' parent, by id, with the UID of the pod that each belongs to.
struct PodCgroups {
    parent: Option<PathBuf>,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    uids: HashMap<u64, Arc<str>>,
    walked: Option<Instant>,
}

impl PodCgroups {
    fn new(parent: Option<PathBuf>) -> Self {
        Self { parent, known: Mutex::default() }
    }

    /// The UID of the pod that a cgroup is part of. Cgroup ids are never used again, so what is known
    /// stays true; an unknown one means another walk, at most every [`WALK_AGAIN`].
    fn uid_of(&self, cgroup_id: u64) -> Option<Arc<str>> {
        let parent = self.parent.as_deref().filter(|_| cgroup_id != 0)?;
        let mut known = self.known.lock();
        if let Some(uid) = known.uids.get(&cgroup_id) {
            return Some(Arc::clone(uid));
        }
        if known.walked.is_none_or(|walked| walked.elapsed() >= WALK_AGAIN) {
            known.uids = walk(parent).into_iter().map(|cgroup| (cgroup.id, cgroup.uid)).collect();
            known.walked = Some(Instant::now());
        }
        known.uids.get(&cgroup_id).cloned()
    }
}

/// A pod's cgroup, or one inside it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct PodCgroup {
    /// Its id as BPF programs see it: the directory's inode number.
    pub(crate) id: u64,
    /// The pod's UID.
    pub(crate) uid: Arc<str>,
    /// This is the pod's own cgroup, not a container's below it.
    pub(crate) is_pod: bool,
}

/// Every pod cgroup below `parent`, and every cgroup inside those.
fn walk(parent: &Path) -> Vec<PodCgroup> {
    let mut found = Vec::new();
    walk_into(parent, &mut |_, cgroup| {
        found.extend(cgroup);
        true
    });
    found
}

/// The pods' own cgroups below `parent`, by id.
pub(crate) fn pods(parent: &Path) -> Vec<PodCgroup> {
    let mut found = Vec::new();
    walk_into(parent, &mut |_, cgroup| {
        let outside = cgroup.is_none();
        found.extend(cgroup);
        outside
    });
    found.sort_by_key(|cgroup| cgroup.id);
    found
}

/// The cgroups in which pods' cgroups are made: `parent`, and those below it that are no pod's.
pub(crate) fn parents_of_pods(parent: &Path) -> Vec<PathBuf> {
    let mut found = vec![parent.to_owned()];
    walk_into(parent, &mut |path, cgroup| {
        let outside = cgroup.is_none();
        if outside {
            found.push(path.to_owned());
        }
        outside
    });
    found
}

/// Tells of every directory below `parent` whose pod it is part of; goes deeper where the answer is true.
fn walk_into(parent: &Path, tell: &mut dyn FnMut(&Path, Option<PodCgroup>) -> bool) {
    let mut pending: Vec<(PathBuf, Option<Arc<str>>)> = vec![(parent.to_owned(), None)];
    let mut seen = 0_usize;
    while let Some((directory, inside)) = pending.pop() {
        // A cgroup may go away while we walk: its children are gone with it.
        let Ok(entries) = fs::read_dir(&directory) else { continue };
        for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
            seen += 1;
            if seen > MAX_DIRECTORIES {
                tracing::warn!(parent = %parent.display(), MAX_DIRECTORIES, "too many cgroups; the rest is not seen");
                return;
            }
            let Ok(metadata) = entry.metadata() else { continue };
            let uid = inside.clone().or_else(|| pod_uid(&entry.file_name().to_string_lossy()).map(Arc::from));
            let is_pod = inside.is_none();
            let cgroup = uid.clone().map(|uid| PodCgroup { id: metadata.ino(), uid, is_pod });
            if tell(&entry.path(), cgroup) {
                pending.push((entry.path(), uid));
            }
        }
    }
}

/// The UID in the name of a pod's cgroup: `podUID`, or with the systemd driver, which knows `-` as a
/// separator, `kubepods-burstable-podUID.slice` with `_` for `-`.
fn pod_uid(name: &str) -> Option<String> {
    let uid = match name.strip_suffix(".slice") {
        Some(slice) => slice.rsplit_once("-pod").map(|(_, uid)| uid.replace('_', "-")),
        None => name.strip_prefix("pod").map(str::to_owned),
    };
    uid.filter(|uid| !uid.is_empty())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    const UID: &str = "6f1a3f0e-2b1d-4c4e-9a51-000000000001";

    fn pod(name: &str, uid: Option<&str>, ip: &str) -> PodIdentity {
        PodIdentity {
            key: format!("demo/{name}").into(),
            uid: uid.map(Arc::from),
            addresses: vec![ip.parse().unwrap()],
            node: None,
            host_network: false,
        }
    }

    fn identity(parent: &Path, pods: Vec<PodIdentity>) -> Identity {
        let mut index = PodIndex::default();
        for pod in pods.into_iter().map(Arc::new) {
            index.set(&pod);
            for ip in pod.addresses.iter().filter(|_| !pod.host_network) {
                index.give(*ip, Some(&pod.key));
            }
        }
        let snapshot = Snapshot { pods: index, ..Snapshot::default() };
        Identity::new(Arc::new(ArcSwap::from_pointee(snapshot)), Some(parent.to_owned()))
    }

    /// A tree of directories as kubelet would make it; a directory's inode is its id.
    fn cgroup(parent: &Path, path: &str) -> u64 {
        let path = parent.join(path);
        fs::create_dir_all(&path).unwrap();
        fs::metadata(path).unwrap().ino()
    }

    fn found(identity: &Identity, cgroup_id: u64, ip: &str) -> Option<String> {
        identity.pod_of(cgroup_id, ip.parse().unwrap()).map(|pod| pod.key.to_string())
    }

    #[test]
    fn the_uid_is_read_from_the_names_of_both_cgroup_drivers() {
        let underlined = UID.replace('-', "_");
        for name in [
            format!("pod{UID}"),
            format!("kubepods-pod{underlined}.slice"),
            format!("kubepods-besteffort-pod{underlined}.slice"),
        ] {
            assert_eq!(pod_uid(&name).as_deref(), Some(UID), "{name}");
        }
        for name in
            ["burstable", "kubepods-burstable.slice", "kubepods.slice", "kubepods", "pod", "-pod.slice"]
        {
            assert_eq!(pod_uid(name), None, "{name}");
        }
    }

    #[test]
    fn c12_a_containers_cgroup_is_its_pods_whatever_its_address() {
        let parent = tempfile::tempdir().unwrap();
        let container = cgroup(parent.path(), &format!("burstable/pod{UID}/cri-1/inner"));
        let pods = vec![pod("a", Some(UID), "10.1.0.1"), pod("b", Some("other"), "10.1.0.2")];
        let identity = identity(parent.path(), pods);
        assert_eq!(found(&identity, container, "10.1.0.1").as_deref(), Some("demo/a"));
        assert_eq!(found(&identity, container, "10.1.0.2").as_deref(), Some("demo/a"));
    }

    #[test]
    fn c12_a_cgroup_whose_pod_is_not_known_is_nobody_elses_pod() {
        let parent = tempfile::tempdir().unwrap();
        let new = cgroup(parent.path(), "podnew");
        let identity = identity(parent.path(), vec![pod("old", Some("old"), "10.1.0.1")]);
        assert_eq!(found(&identity, new, "10.1.0.1"), None);
    }

    #[test]
    fn without_a_cgroup_or_a_uid_the_address_decides() {
        let parent = tempfile::tempdir().unwrap();
        let known = cgroup(parent.path(), "podstatic");
        let pods = vec![pod("a", Some(UID), "10.1.0.1"), pod("s", None, "10.1.0.3")];
        let identity = identity(parent.path(), pods);
        assert_eq!(found(&identity, 0, "10.1.0.1").as_deref(), Some("demo/a"));
        assert_eq!(found(&identity, 0, "::ffff:10.1.0.1").as_deref(), Some("demo/a"));
        assert_eq!(found(&identity, 0, "192.0.2.1"), None);
        assert_eq!(found(&identity, known, "10.1.0.3").as_deref(), Some("demo/s"));
    }

    #[test]
    fn a_cgroup_made_later_is_found_and_a_host_networks_address_is_no_pods() {
        let parent = tempfile::tempdir().unwrap();
        let host = PodIdentity { host_network: true, ..pod("h", Some("h"), "10.0.0.1") };
        let identity = identity(parent.path(), vec![host, pod("a", Some(UID), "10.1.0.1")]);
        assert_eq!(found(&identity, 0, "10.0.0.1"), None);
        assert_eq!(found(&identity, u64::MAX, "10.0.0.1"), None);
        let late = cgroup(parent.path(), &format!("pod{UID}"));
        let until = Instant::now() + Duration::from_secs(10);
        while found(&identity, late, "10.9.9.9").as_deref() != Some("demo/a") {
            assert!(Instant::now() < until, "the late cgroup is not found");
        }
    }

    #[test]
    fn only_the_pods_own_cgroup_is_marked() {
        let parent = tempfile::tempdir().unwrap();
        let container = cgroup(parent.path(), "besteffort/podx/c");
        let own = fs::metadata(parent.path().join("besteffort/podx")).unwrap().ino();
        let mut all: Vec<_> = walk(parent.path()).into_iter().map(|found| (found.id, found.is_pod)).collect();
        all.sort_by_key(|(_, is_pod)| !is_pod);
        assert_eq!(all, [(own, true), (container, false)]);
    }
}
