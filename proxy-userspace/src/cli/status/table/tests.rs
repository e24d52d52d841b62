#![allow(clippy::unwrap_used, reason = "tests")]
use super::*;
use crate::status::{
    ClusterStatus, ConfigStatus, Connections, MapStatus, Mode, OpenFlows, PairCounts, ProgramStatus,
    SelfTest, WorkloadCounts,
};

fn status() -> Status {
    let endpoint = |addr: &str, ready: bool, terminating| EndpointStatus {
        addr: addr.parse().unwrap(),
        workload: ready.then(|| "default/web-0".to_owned()),
        ready,
        serving: true,
        terminating,
        policy: ready.then(|| "demo/get".to_owned()),
        kernel_eligible: if ready { "no, because of x".to_owned() } else { "yes".to_owned() },
    };
    let cluster = |name: &str, endpoints| ClusterStatus {
        name: name.to_owned(),
        lane: "steer".to_owned(),
        frontends: vec!["10.96.0.1:8080".parse().unwrap()],
        endpoints,
    };
    Status {
        version: "0.1.0".to_owned(),
        uptime_seconds: 3723,
        readiness: Readiness::Ready,
        listeners: vec!["10.0.0.1:15001".parse().unwrap(), "[fd00::1]:15001".parse().unwrap()],
        mode: Mode {
            steering: "ebpf".to_owned(),
            acceleration: "auto".to_owned(),
            redirect_to_agent: true,
            redirect_to_applications: true,
            self_test: vec![SelfTest {
                check: "splice(2)".to_owned(),
                passed: false,
                detail: "end of file".to_owned(),
            }],
        },
        lanes: [("plain".to_owned(), 3), ("relay".to_owned(), 120)].into(),
        connections: Connections { downstream: 12, upstream: 4 },
        kernel: Some(KernelStatus {
            programs: vec![ProgramStatus {
                name: "weir_connect4".to_owned(),
                id: 7,
                verified_instructions: Some(900),
                run_time_ns: Some(5000),
                run_count: Some(10),
            }],
            maps: vec![MapStatus { name: "FLOWS".to_owned(), entries: 5, capacity: 10 }],
            counters: [("events_lost".to_owned(), 0)].into(),
            workloads: WorkloadCounts { probation: 1, accelerated: 3, barred: 0 },
            open_flows: OpenFlows::default(),
            pairs: Some(PairCounts { armed: 3, joined: 5, capacity: 4096 }),
        }),
        config: ConfigStatus {
            generation: 4,
            last_reload: Some("2026-01-01T00:00:00Z".to_owned()),
            error: None,
            source: Vec::new(),
        },
        clusters: vec![
            cluster(
                "default/web:8080",
                vec![endpoint("10.0.0.2:80", true, false), endpoint("10.0.0.3:80", false, true)],
            ),
            cluster("default/none:80", vec![]),
        ],
        gateways: Vec::new(),
        degraded: vec![],
    }
}

#[test]
fn a_healthy_agent_prints_exactly_this() {
    let expected = "\
agent          0.1.0 for 1h 2m 3s, ready
listening on   10.0.0.1:15001, [fd00::1]:15001
steering       ebpf
acceleration   auto; redirects into the agent: yes, into applications: yes
requests       plain 3, relay 120
connections    12 from clients, 4 to endpoints
workloads      3 accelerated, 1 on probation, 0 barred
splice pairs   3 armed, 5 of 4096 in use
kernel events  0 lost
configuration  generation 4, last read 2026-01-01T00:00:00Z

PROGRAM        ID  VERIFIED  RUNS  NS/RUN
weir_connect4  7   900       10    500

MAP    ENTRIES  CAPACITY  FILL
FLOWS  5        10        50 %

SELF-TEST  RESULT  DETAIL
splice(2)  failed  end of file

CLUSTER           LANE   ADDRESSES       ENDPOINT     WORKLOAD       STATE                 POLICY    KERNEL-ELIGIBLE
default/web:8080  steer  10.96.0.1:8080  10.0.0.2:80  default/web-0  ready                 demo/get  no, because of x
                                         10.0.0.3:80  -              serving, terminating  -         yes
default/none:80   steer  10.96.0.1:8080  -            -              none                  -         -
";
    assert_eq!(text(&status()), expected);
}

#[test]
fn without_a_kernel_half_its_tables_are_left_out() {
    let text = text(&Status { kernel: None, mode: Mode::default(), clusters: vec![], ..status() });
    assert!(!text.contains("PROGRAM") && !text.contains("MAP") && !text.contains("workloads"), "{text}");
}

#[test]
fn what_is_degraded_comes_last_with_its_cause_and_its_cure() {
    let degraded = Degraded {
        what: "configuration".to_owned(),
        why: "a.yaml:1: bad\nb.yaml:2: worse\u{1b}[2J".to_owned(),
        fix: "correct it".to_owned(),
    };
    let text = text(&Status { degraded: vec![degraded], ..status() });
    let expected = "
DEGRADED configuration: a.yaml:1: bad
         b.yaml:2: worse\\u{1b}[2J
         correct it
";
    assert!(text.ends_with(expected), "{text}");
}
