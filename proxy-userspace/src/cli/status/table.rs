//! A status for people.

use crate::status::{Degraded, EndpointStatus, GatewayStatus, KernelStatus, PairCounts, Readiness, Status};
use comfy_table::{Table, presets};
use std::time::Duration;

/// Facts first, then a table for each kind of thing, then what is wrong.
pub(super) fn text(status: &Status) -> String {
    let mut sections = vec![facts(status)];
    if let Some(kernel) = &status.kernel {
        sections.extend([programs(kernel), maps(kernel)]);
    }
    sections.extend([self_test(status), clusters(status), gateways(status), degraded(&status.degraded)]);
    sections.retain(|section| !section.is_empty());
    sections.join("\n")
}

fn facts(status: &Status) -> String {
    let readiness = match &status.readiness {
        Readiness::Ready => "ready".to_owned(),
        Readiness::Starting { reason } => format!("not ready: {}", printable(reason)),
        Readiness::Draining => "draining".to_owned(),
    };
    let uptime = humantime::format_duration(Duration::from_secs(status.uptime_seconds));
    let mode = &status.mode;
    let yes_no = |yes| if yes { "yes" } else { "no" };
    let mut facts = vec![
        ("agent", format!("{} for {uptime}, {readiness}", status.version)),
        ("listening on", list(&status.listeners)),
        ("steering", mode.steering.clone()),
        (
            "acceleration",
            format!(
                "{}; redirects into the agent: {}, into applications: {}",
                mode.acceleration,
                yes_no(mode.redirect_to_agent),
                yes_no(mode.redirect_to_applications)
            ),
        ),
        ("requests", list(status.lanes.iter().map(|(lane, count)| format!("{lane} {count}")))),
        ("connections", {
            let open = status.connections;
            format!("{} from clients, {} to endpoints", open.downstream, open.upstream)
        }),
    ];
    if let Some(kernel) = &status.kernel {
        let counts = kernel.workloads;
        facts.push((
            "workloads",
            format!(
                "{} accelerated, {} on probation, {} barred",
                counts.accelerated, counts.probation, counts.barred
            ),
        ));
        if let Some(pairs) = kernel.pairs {
            let PairCounts { armed, joined, capacity } = pairs;
            facts.push(("splice pairs", format!("{armed} armed, {joined} of {capacity} in use")));
        }
        let lost = kernel.counters.get("events_lost").copied().unwrap_or(0);
        facts.push(("kernel events", format!("{lost} lost")));
    }
    let read = status.config.last_reload.as_deref().unwrap_or("never");
    facts.push(("configuration", format!("generation {}, last read {read}", status.config.generation)));
    facts.into_iter().map(|(name, value)| format!("{name:<14} {value}\n")).collect()
}

fn programs(kernel: &KernelStatus) -> String {
    let mut programs: Vec<_> = kernel.programs.iter().collect();
    programs.sort_by_key(|program| &program.name);
    let rows = programs.into_iter().map(|program| {
        let per_run = program.run_time_ns.zip(program.run_count);
        let per_run = per_run.and_then(|(time, runs)| time.checked_div(runs));
        [
            program.name.clone(),
            program.id.to_string(),
            or_dash(program.verified_instructions),
            or_dash(program.run_count),
            or_dash(per_run),
        ]
    });
    table(["PROGRAM", "ID", "VERIFIED", "RUNS", "NS/RUN"], rows)
}

fn maps(kernel: &KernelStatus) -> String {
    let rows = kernel.maps.iter().map(|map| {
        let fill = format!("{} %", map.fill_percent());
        [map.name.clone(), map.entries.to_string(), map.capacity.to_string(), fill]
    });
    table(["MAP", "ENTRIES", "CAPACITY", "FILL"], rows)
}

fn self_test(status: &Status) -> String {
    let rows = status.mode.self_test.iter().map(|test| {
        let result = if test.passed { "passed" } else { "failed" };
        [printable(&test.check), result.to_owned(), printable(&test.detail)]
    });
    table(["SELF-TEST", "RESULT", "DETAIL"], rows)
}

fn clusters(status: &Status) -> String {
    let rows = status.clusters.iter().flat_map(|cluster| {
        let whose = [cluster.name.clone(), cluster.lane.clone(), list(&cluster.frontends)];
        let none = ["-", "-", "none", "-", "-"].map(String::from);
        let none = cluster.endpoints.is_empty().then_some(none);
        let endpoints = cluster.endpoints.iter().map(|endpoint| {
            let workload = endpoint.workload.clone().unwrap_or_else(|| "-".to_owned());
            let policy = endpoint.policy.clone().unwrap_or_else(|| "-".to_owned());
            let eligible = printable(&endpoint.kernel_eligible);
            [endpoint.addr.to_string(), workload, condition(endpoint).to_owned(), policy, eligible]
        });
        let endpoints: Vec<_> = endpoints.chain(none).collect();
        endpoints.into_iter().enumerate().map(move |(index, [addr, workload, state, policy, eligible])| {
            // A cluster is named once, before its first endpoint.
            let [name, lane, frontends] = if index == 0 { whose.clone() } else { Default::default() };
            [name, lane, frontends, addr, workload, state, policy, eligible]
        })
    });
    let header =
        ["CLUSTER", "LANE", "ADDRESSES", "ENDPOINT", "WORKLOAD", "STATE", "POLICY", "KERNEL-ELIGIBLE"];
    table(header, rows)
}

fn condition(endpoint: &EndpointStatus) -> &'static str {
    match (endpoint.ready, endpoint.serving, endpoint.terminating) {
        (true, _, false) => "ready",
        (true, _, true) => "ready, terminating",
        (false, true, true) => "serving, terminating",
        (false, true, false) => "serving",
        (false, false, true) => "terminating",
        (false, false, false) => "not ready",
    }
}

fn gateways(status: &Status) -> String {
    let line = |one: &GatewayStatus| {
        let GatewayStatus { address, of, matches, kernel_eligible } = one;
        format!(
            "gateway {address}: {}, {matches} matches, kernel-eligible: {kernel_eligible}\n",
            printable(&of.join(", "))
        )
    };
    status.gateways.iter().map(line).collect()
}

fn degraded(all: &[Degraded]) -> String {
    let mut text = String::new();
    for one in all {
        let [what, why, fix] = [&one.what, &one.why, &one.fix].map(|part| printable(part));
        text.extend(["DEGRADED ", &what, ": ", &why, "\n         ", &fix, "\n"]);
    }
    text
}

fn table<const N: usize>(header: [&str; N], rows: impl Iterator<Item = [String; N]>) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(header).add_rows(rows);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    if table.is_empty() {
        return String::new();
    }
    table.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

fn list<T: ToString>(all: impl IntoIterator<Item = T>) -> String {
    let all: Vec<_> = all.into_iter().map(|one| one.to_string()).collect();
    if all.is_empty() { "-".to_owned() } else { all.join(", ") }
}

fn or_dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// Without what could move the cursor: error texts quote manifests.
fn printable(text: &str) -> String {
    let mut printable = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\n' => printable.push_str("\n         "),
            control if control.is_control() => printable.extend(control.escape_default()),
            character => printable.push(character),
        }
    }
    printable
}

#[cfg(test)]
mod tests;
