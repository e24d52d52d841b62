//! The table of flows, fed by the access log: who asked whom for what, how it travelled, how it
//! went, how long it took.

use anyhow::{Context, Result};
use comfy_table::{CellAlignment, presets};
use hdrhistogram::Histogram;
use serde::Deserialize;
use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    fs::File,
    io::{BufRead, BufReader, Write},
    path::PathBuf,
};

/// A request may take up to a minute, in microseconds; longer ones count as that.
const LONGEST: u64 = 60_000_000;

/// What the table uses of a line of the access log.
#[derive(Deserialize)]
struct Line {
    method: String,
    path: String,
    response_code: u16,
    response_flags: String,
    /// Milliseconds.
    duration: f64,
    upstream_host: Option<String>,
    upstream_cluster: Option<String>,
    downstream_remote_address: String,
    lane: String,
}

/// Requests alike; the table's first columns.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    client: String,
    request: String,
    service: String,
    endpoint: String,
    lane: String,
    status: String,
}

/// All requests so far.
pub(super) struct Table {
    log: PathBuf,
    reader: Option<BufReader<File>>,
    /// The beginning of a line whose end is not written yet.
    partial: String,
    names: HashMap<String, String>,
    rows: BTreeMap<Key, Histogram<u64>>,
    answered: u64,
    /// What is printed below.
    footer: String,
    /// Lines that the last [`Self::show`] left on the terminal.
    shown: usize,
}

impl Table {
    /// A table of the requests in `log`; `names` tells which pod has which address.
    pub(super) fn new(log: PathBuf, names: Vec<(String, String)>) -> Self {
        let names = names.into_iter().collect();
        let (partial, rows) = (String::new(), BTreeMap::new());
        Self { log, reader: None, partial, names, rows, answered: 0, footer: String::new(), shown: 0 }
    }

    /// Adds what has been logged since; `footer` goes below the table.
    pub(super) fn read(&mut self, footer: String) -> Result<()> {
        self.footer = footer;
        if self.reader.is_none() {
            self.reader = Some(BufReader::new(File::open(&self.log).context("the access log")?));
        }
        loop {
            let Some(reader) = &mut self.reader else { return Ok(()) };
            reader.read_line(&mut self.partial)?;
            if !self.partial.ends_with('\n') {
                return Ok(());
            }
            let line = std::mem::take(&mut self.partial);
            self.add(&serde_json::from_str(&line).with_context(|| format!("access log: {line}"))?)?;
        }
    }

    fn add(&mut self, line: &Line) -> Result<()> {
        let key = Key {
            client: self.pod(&line.downstream_remote_address),
            request: format!("{} {}", line.method, line.path),
            service: line.upstream_cluster.clone().unwrap_or_else(|| "-".to_owned()),
            endpoint: line.upstream_host.as_deref().map_or_else(|| "-".to_owned(), |host| self.pod(host)),
            lane: line.lane.clone(),
            status: match line.response_flags.as_str() {
                "-" => line.response_code.to_string(),
                flags => format!("{} {flags}", line.response_code),
            },
        };
        if line.upstream_host.is_some() && line.response_flags == "-" {
            self.answered += 1;
        }
        let histogram = match self.rows.entry(key) {
            std::collections::btree_map::Entry::Occupied(row) => row.into_mut(),
            std::collections::btree_map::Entry::Vacant(row) => {
                row.insert(Histogram::new_with_bounds(1, LONGEST, 3)?)
            }
        };
        histogram.saturating_record(microseconds(line.duration));
        Ok(())
    }

    /// The pod with this address, or the address.
    fn pod(&self, address: &str) -> String {
        let (ip, _port) = address.rsplit_once(':').unwrap_or((address, ""));
        self.names.get(ip).cloned().unwrap_or_else(|| ip.to_owned())
    }

    /// Requests that an endpoint answered.
    pub(super) const fn answered(&self) -> u64 {
        self.answered
    }

    /// Writes the table over the one before.
    pub(super) fn show(&mut self) -> Result<()> {
        let text = self.to_string();
        let mut out = std::io::stdout().lock();
        // Only a live table, on a terminal, is shown more than once.
        if self.shown > 0 {
            write!(out, "\u{1b}[{}A\u{1b}[J", self.shown)?;
        }
        writeln!(out, "{text}")?;
        self.shown = text.lines().count();
        Ok(())
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = comfy_table::Table::new();
        table.load_preset(presets::NOTHING);
        table.set_header([
            "CLIENT", "REQUEST", "SERVICE", "ENDPOINT", "LANE", "STATUS", "COUNT", "P50 ms", "P99 ms",
        ]);
        for (key, times) in &self.rows {
            let Key { client, request, service, endpoint, lane, status } = key;
            let words = [client, request, service, endpoint, lane, status].map(Clone::clone);
            let figures = [
                times.len().to_string(),
                milliseconds(times.value_at_quantile(0.5)),
                milliseconds(times.value_at_quantile(0.99)),
            ];
            table.add_row(words.into_iter().chain(figures));
        }
        for column in table.column_iter_mut().skip(6) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        write!(f, "{table}\n\n{}", self.footer)
    }
}

fn microseconds(milliseconds: f64) -> u64 {
    std::time::Duration::try_from_secs_f64(milliseconds / 1e3)
        .ok()
        .and_then(|span| u64::try_from(span.as_micros()).ok())
        .unwrap_or(LONGEST)
}

fn milliseconds(microseconds: u64) -> String {
    format!("{}.{:02}", microseconds / 1000, microseconds % 1000 / 10)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::Table;
    use std::{fs, io::Write};

    const LINE: &str = r#"{"method":"GET","path":"/","response_code":200,"response_flags":"-","duration":1.500,"upstream_host":"10.244.1.11:8080","upstream_cluster":"default/hello:8080","downstream_remote_address":"10.244.1.10:4711","lane":"relay"}"#;

    #[test]
    fn lines_alike_are_one_row_and_half_a_line_waits_for_its_end() {
        let path = std::env::temp_dir().join(format!("weir-demo{}-log", std::process::id()));
        let mut log = fs::File::create(&path).unwrap();
        let names = vec![("10.244.1.10".to_owned(), "client".to_owned())];
        let mut table = Table::new(path.clone(), names);
        let (begin, end) = LINE.split_at(40);
        write!(log, "{LINE}\n{begin}").unwrap();
        table.read(String::new()).unwrap();
        assert_eq!(table.answered(), 1);
        writeln!(log, "{end}").unwrap();
        table.read(String::new()).unwrap();
        assert_eq!(table.answered(), 2);
        let text = table.to_string();
        let row = text.lines().find(|line| line.contains("GET /")).unwrap();
        let words: Vec<_> = row.split_whitespace().collect();
        let expected =
            ["client", "GET", "/", "default/hello:8080", "10.244.1.11", "relay", "200", "2", "1.50", "1.50"];
        assert_eq!(words, expected);
        fs::remove_file(path).unwrap();
    }
}
