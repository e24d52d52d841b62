//! That a change leads where a new start does, that decisions are what policies say one by one, and that the
//! kernel half's rows say the same.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use super::*;
use crate::policy::{Register, Rule};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const PORTS: [u16; 4] = [80, 81, 8080, 65535];

#[derive(Clone, Debug)]
enum Change {
    Pod(PodFacts),
    NoPod(usize),
    Namespace(usize, Option<u8>),
    Policy(usize, Vec<AccessPolicy>),
    Service(usize, Vec<u8>),
    Nodes(Vec<u8>),
}

fn address(last: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, last])
}

fn name_of(n: usize) -> String {
    format!("n{}/p{n}", n % 3)
}

fn pod() -> impl Strategy<Value = Change> {
    let label = (0..3_u8, 0..3_u8);
    let facts = (0..8_usize, label.clone(), label, 0..6_u8, 0..3_u8, any::<(bool, bool)>());
    facts.prop_map(|(n, one, two, last, port, (leaving, on_host))| {
        let own = [one, two].map(|(key, value)| (format!("k{key}"), format!("v{value}")));
        let number = PORTS[usize::from(port)];
        Change::Pod(PodFacts {
            name: name_of(n).into(),
            uid: Some(format!("uid-{n}-{last}").into()),
            labels: Labels {
                namespace: format!("n{}", n % 3).into(),
                own: own.into(),
                service_account: "default".into(),
            },
            addresses: if last == 5 { Vec::new() } else { vec![address(last)] },
            ports: vec![NamedPort { name: "web".into(), transport: Transport::Tcp, number }],
            node: None,
            on_host: on_host && last == 4,
            leaving,
            created: i64::from(last),
        })
    })
}

fn selector() -> impl Strategy<Value = Selector> {
    let yaml = prop_oneof![
        Just(String::from("{}")),
        (0..3_u8, 0..3_u8).prop_map(|(k, v)| format!(r#"{{"matchLabels": {{"k{k}": "v{v}"}}}}"#)),
        (0..3_u8, "In|NotIn").prop_map(|(k, op)| format!(
            r#"{{"matchExpressions": [{{"key": "k{k}", "operator": "{op}", "values": ["v0", "v1"]}}]}}"#
        )),
        (0..3_u8)
            .prop_map(|v| format!(r#"{{"matchLabels": {{"io.cilium.k8s.namespace.labels.team": "t{v}"}}}}"#)),
    ];
    let namespace = prop_oneof![Just(None), (0..3_u8).prop_map(Some)];
    (yaml, namespace).prop_map(|(json, namespace)| {
        let selector = Selector::cilium(&serde_json::from_str(&json).unwrap()).unwrap();
        namespace.map_or(selector.clone(), |n| selector.within(&format!("n{n}")))
    })
}

fn peer() -> impl Strategy<Value = Peer> {
    let net = (0..2_usize, 0..6_u8).prop_map(|(wide, last)| {
        let text = ["10.0.0.0/8".to_owned(), format!("10.0.0.{last}/31")];
        Net::parse(&text[wide]).unwrap()
    });
    let entity = prop_oneof![
        Just(Entity::World),
        Just(Entity::Cluster),
        Just(Entity::Host),
        Just(Entity::RemoteNode),
        Just(Entity::ApiServer),
    ];
    prop_oneof![
        4 => selector().prop_map(Peer::Pods),
        1 => Just(Peer::Anyone),
        2 => (net.clone(), proptest::option::of(net), any::<bool>()).prop_map(|(net, except, anybodys)| Peer::Block {
            net,
            except: except.into_iter().collect(),
            whose: if anybodys { Whose::Anybodys } else { Whose::Outsiders },
        }),
        1 => entity.prop_map(Peer::Entity),
        1 => (0..2_u8).prop_map(|n| Peer::Service { namespace: "default".into(), name: format!("s{n}").into() }),
    ]
}

fn rules() -> impl Strategy<Value = DirectionRules> {
    let span = prop_oneof![
        Just(Span::ALL),
        (0..4_usize).prop_map(|n| Span::Numbers(PORTS[n], PORTS[n])),
        Just(Span::Numbers(80, 8080)),
        Just(Span::Named("web".into())),
    ];
    let ports = (span, any::<bool>()).prop_map(|(span, all)| Ports {
        transports: if all { Transports::ALL } else { Transports::only(Transport::Tcp) },
        span,
    });
    let rule = (proptest::collection::vec(peer(), 0..3), proptest::collection::vec(ports, 1..3), 0..5_u8);
    let rule = rule.prop_map(|(peers, ports, kind)| {
        let action = match kind {
            0 => Action::Deny,
            1 => Action::AllowHttp(vec![Arc::new(Rule::new(
                format!("r{peers:?}").into(),
                crate::policy::Allows::Port,
                &Register::default(),
            ))]),
            _ => Action::Allow,
        };
        Arc::new(AccessRule { name: "r".into(), peers, ports, action, line: 0 })
    });
    (any::<bool>(), proptest::option::of(selector()), proptest::collection::vec(rule, 0..3)).prop_map(
        |(default_deny, requires, rules)| DirectionRules {
            default_deny,
            requires: requires.into_iter().collect(),
            requires_deny: Vec::new(),
            rules,
        },
    )
}

fn change() -> impl Strategy<Value = Change> {
    let policy = (selector(), proptest::option::of(rules()), proptest::option::of(rules())).prop_map(
        |(subject, ingress, egress)| AccessPolicy {
            name: "p".into(),
            subject,
            ingress,
            egress,
            audit: false,
        },
    );
    prop_oneof![
        8 => pod(),
        1 => (0..8_usize).prop_map(Change::NoPod),
        1 => (0..3_usize, proptest::option::of(0..3_u8)).prop_map(|(n, team)| Change::Namespace(n, team)),
        6 => (0..5_usize, proptest::collection::vec(policy, 0..3)).prop_map(|(n, parts)| Change::Policy(n, parts)),
        1 => (0..3_usize, proptest::collection::vec(0..8_u8, 0..3)).prop_map(|(n, of)| Change::Service(n, of)),
        1 => proptest::collection::vec(0..8_u8, 0..2).prop_map(Change::Nodes),
    ]
}

/// What is there after some changes, and nothing else.
#[derive(Clone, Default, Debug)]
struct Cluster {
    pods: BTreeMap<String, PodFacts>,
    namespaces: BTreeMap<String, NamespaceLabels>,
    policies: BTreeMap<String, Vec<AccessPolicy>>,
    services: BTreeMap<String, BTreeSet<IpAddr>>,
    nodes: Vec<IpAddr>,
}

impl Cluster {
    fn apply(&mut self, change: Change) {
        match change {
            Change::Pod(facts) => drop(self.pods.insert(facts.name.to_string(), facts)),
            Change::NoPod(n) => drop(self.pods.remove(&name_of(n))),
            Change::Namespace(n, Some(team)) => {
                let labels = [("team".to_owned(), format!("t{team}"))].into();
                self.namespaces.insert(format!("n{n}"), labels);
            }
            Change::Namespace(n, None) => drop(self.namespaces.remove(&format!("n{n}"))),
            Change::Policy(n, parts) => drop(self.policies.insert(format!("policy{n}"), parts)),
            Change::Service(n, of) => {
                let name = ["s0", "s1", "kubernetes"][n].to_owned();
                self.services.insert(name, of.into_iter().map(address).collect());
            }
            Change::Nodes(of) => self.nodes = of.into_iter().map(address).collect(),
        }
    }

    /// Tells a builder what it does not know yet, and that some is gone.
    fn tell(&self, builder: &mut AccessBuilder) {
        let gone: Vec<_> =
            builder.pod_names().filter(|name| !self.pods.contains_key(&***name)).cloned().collect();
        gone.iter().for_each(|name| builder.remove_pod(name));
        self.pods.values().for_each(|facts| builder.set_pod(facts.clone()));
        for n in 0..3 {
            let name = format!("n{n}");
            builder.set_namespace(&name, self.namespaces.get(&name).cloned());
        }
        self.policies
            .iter()
            .for_each(|(key, parts)| builder.set_policy(key, parts.iter().cloned().map(Arc::new).collect()));
        for (name, addresses) in &self.services {
            builder.set_service("default", name, Some((Labels::default(), addresses.clone())));
        }
        builder.set_nodes(
            None,
            &self.nodes[..self.nodes.len().min(1)],
            &self.nodes.iter().copied().collect(),
        );
    }

    fn fresh(&self) -> Access {
        let mut builder = AccessBuilder::default();
        self.tell(&mut builder);
        builder.build(&Arc::default())
    }

    /// By the words of the policies, one by one: may `own` have a connection with `peer`?
    fn allows(
        &self,
        direction: Direction,
        own: &Party,
        peer: &Party,
        at: IpAddr,
        to: (&Party, Transport, u16),
    ) -> char {
        let Some(own) = &own.pod else { return 'a' };
        let around = peer::Surroundings {
            services: self
                .services
                .iter()
                .map(|(name, all)| {
                    (("default".into(), name.as_str().into()), (Labels::default(), all.clone()))
                })
                .collect(),
        };
        let team = |namespace: &str| self.namespaces.get(namespace).cloned().unwrap_or_default();
        let labels_of = |facts: &PodFacts| (facts.labels.clone(), team(&facts.labels.namespace));
        let own_labels = labels_of(&own.facts);
        let peer_labels = peer.pod.as_ref().map(|pod| labels_of(&pod.facts));
        let subject = peer::Subject {
            place: peer.place,
            labels: peer_labels.as_ref().map(|(own, namespace)| (own, namespace)),
            net: Some(Net::host(at)),
        };
        let said: Vec<_> = self
            .policies
            .values()
            .flatten()
            .filter(|policy| policy.subject.selects(&own_labels.0, &own_labels.1))
            .filter_map(|policy| policy.of(direction))
            .collect();
        let requires = said.iter().flat_map(|rules| &rules.requires);
        let required = requires.fold(Selector::default(), |all, one| all.and(one));
        let (reached, transport, port) = to;
        let mut letters = BTreeSet::new();
        for rule in said.iter().flat_map(|rules| &rules.rules) {
            let at_port = rule.ports.iter().any(|ports| names_port(ports, reached, transport, port));
            let means = |peer: &Peer| match peer {
                Peer::Pods(selector) if rule.action != Action::Deny => {
                    Peer::Pods(selector.clone().and(&required)).means(&subject, &around)
                }
                other => other.means(&subject, &around),
            };
            if at_port && rule.peers.iter().any(means) {
                letters.insert(match rule.action {
                    Action::Deny => 'd',
                    Action::Allow => 'a',
                    Action::AllowHttp(_) => 'h',
                });
            }
        }
        match () {
            () if letters.contains(&'d') => 'd',
            () if letters.contains(&'a') || !said.iter().any(|rules| rules.default_deny) => 'a',
            () if letters.contains(&'h') => 'h',
            () => 'd',
        }
    }
}

fn names_port(ports: &Ports, reached: &Party, transport: Transport, port: u16) -> bool {
    ports.transports.contains(transport)
        && match &ports.span {
            Span::Numbers(first, last) => (*first..=*last).contains(&port),
            Span::Named(name) => reached.pod.as_ref().is_some_and(|pod| {
                let named = NamedPort { name: Arc::clone(name), transport, number: port };
                pod.facts.ports.contains(&named)
            }),
        }
}

fn letter(side: &Side) -> char {
    match side {
        Side::Allow { .. } => 'a',
        Side::Http(_) => 'h',
        Side::Deny { .. } => 'd',
    }
}

/// The kernel half's way: the class by the longest prefix, the rows of set and class, and what is said where
/// there is no row.
fn by_rows(access: &Access, set: &PolicySet, at: IpAddr, transport: Transport, port: u16) -> char {
    let prefixes = access.prefixes().filter(|(net, _)| net.contains(at));
    let (_, class) = prefixes.max_by_key(|(net, _)| net.bits()).unwrap();
    let rows = set.rows(class);
    assert!(set.names(class) || rows.is_empty());
    let row = rows.iter().find(|row| row.transport == transport && (row.first..=row.last).contains(&port));
    match row.map_or(set.fallback(), |row| row.verdict) {
        PortVerdict::Deny => 'd',
        PortVerdict::Allow => 'a',
        PortVerdict::AllowHttp => 'h',
    }
}

fn check(cluster: &Cluster, access: &Access) {
    for pod in access.pods() {
        assert_eq!(&*pod.facts, &cluster.pods[&*pod.facts.name]);
        for last in 0..9 {
            let at = address(last);
            let (own, peer) = (access.party_of(pod, None), access.party_at(at));
            for (direction, reached) in [(Direction::Ingress, &own), (Direction::Egress, &peer)] {
                for (transport, port) in
                    PORTS.map(|port| (Transport::Tcp, port)).into_iter().chain([(Transport::Udp, 80)])
                {
                    let expected = cluster.allows(direction, &own, &peer, at, (reached, transport, port));
                    let set = own.pod.as_ref().and_then(|pod| pod.set(direction));
                    let decided = set.map_or('a', |set| letter(&set.side(&peer.class, transport, port)));
                    assert_eq!(decided, expected, "{direction} {own:?} {peer:?} {transport:?} {port}");
                    if let Some(set) = set {
                        assert_eq!(by_rows(access, set, at, transport, port), expected);
                    }
                }
            }
        }
    }
}

/// What one builder made of a cluster as it changed, and pods' addresses and ports to ask about: for those
/// who make something else of it.
pub(crate) fn histories() -> impl Strategy<Value = Vec<Access>> {
    proptest::collection::vec(change(), 1..40).prop_map(|changes| {
        let (mut cluster, mut builder, register) =
            (Cluster::default(), AccessBuilder::default(), Arc::<Register>::default());
        let mut after = |change| {
            cluster.apply(change);
            cluster.tell(&mut builder);
            builder.build(&register)
        };
        changes.into_iter().map(&mut after).collect()
    })
}

/// Addresses that [`histories`] are about, and one that is nobody's.
pub(crate) fn addresses() -> impl Iterator<Item = IpAddr> {
    (0..9).map(address)
}

/// A pod at the address 0, whose ingress is for these peers alone.
fn guarded(peer: Peer) -> Cluster {
    let ports = Ports { transports: Transports::ALL, span: Span::Numbers(0, 65535) };
    let rule = AccessRule {
        name: "r".into(),
        peers: vec![peer],
        ports: vec![ports],
        action: Action::Allow,
        line: 0,
    };
    let rules =
        DirectionRules { default_deny: true, rules: vec![Arc::new(rule)], ..DirectionRules::default() };
    let policy = AccessPolicy {
        name: "p".into(),
        subject: Selector::default(),
        ingress: Some(rules),
        egress: None,
        audit: false,
    };
    let pod = PodFacts {
        name: name_of(0).into(),
        uid: None,
        labels: Labels {
            namespace: "n0".into(),
            own: [("k0".to_owned(), "v0".to_owned())].into(),
            service_account: "default".into(),
        },
        addresses: vec![address(0)],
        ports: Vec::new(),
        node: None,
        on_host: false,
        leaving: false,
        created: 0,
    };
    let mut cluster = Cluster::default();
    cluster.apply(Change::Pod(pod));
    cluster.apply(Change::Policy(0, vec![policy]));
    cluster
}

#[test]
fn an_address_that_leaves_a_service_is_no_endpoint_of_it_any_more() {
    let mut cluster = guarded(Peer::Service { namespace: "default".into(), name: "s1".into() });
    let (mut builder, register) = (AccessBuilder::default(), Arc::<Register>::default());
    for endpoints in [vec![2, 6], vec![0], vec![6], vec![]] {
        cluster.apply(Change::Service(1, endpoints));
        cluster.tell(&mut builder);
        check(&cluster, &builder.build(&register));
    }
}

#[test]
fn a_prefix_of_a_policy_that_went_is_held_against_nobody() {
    let mut cluster = guarded(Peer::Anyone);
    let block = Peer::Block { net: Net::host(address(6)), except: Vec::new(), whose: Whose::Anybodys };
    let of_block = guarded(block).policies.remove("policy0").unwrap();
    let (mut builder, register) = (AccessBuilder::default(), Arc::<Register>::default());
    for parts in [of_block.clone(), Vec::new(), of_block, cluster.policies["policy0"].clone()] {
        cluster.apply(Change::Policy(1, parts.clone()));
        cluster.apply(Change::Policy(0, Vec::new()));
        cluster.tell(&mut builder);
        let access = builder.build(&register);
        check(&cluster, &access);
        let own = access.prefixes().any(|(net, _)| net == Net::host(address(6)));
        let blocks = parts.iter().flat_map(|part| part.ingress.iter().flat_map(|rules| &rules.rules));
        let named = blocks.flat_map(|rule| &rule.peers).any(|peer| matches!(peer, Peer::Block { .. }));
        assert_eq!(own, named);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn changes_one_by_one_lead_where_a_new_start_does(changes in proptest::collection::vec(change(), 1..40)) {
        let (mut cluster, mut builder, register) = (Cluster::default(), AccessBuilder::default(), Arc::<Register>::default());
        for (n, change) in changes.into_iter().enumerate() {
            cluster.apply(change);
            if n % 3 != 2 {
                cluster.tell(&mut builder);
                let access = builder.build(&register);
                prop_assert_eq!(&access, &cluster.fresh());
                check(&cluster, &access);
            }
        }
        let fresh = cluster.fresh();
        check(&cluster, &fresh);
    }
}
