//! `weir policy explain`: the decision, what it was made by, and what would have to be otherwise.

use super::World;
use crate::{
    cli::{agent, route::escaped},
    config::{
        Output,
        policy::{PolicyExplainArgs, PolicyQuestionArgs},
    },
    policy::{explain::explain as explained, question::Question},
};
use std::process::ExitCode;

/// Prints it; by the manifests of a directory, or by the running agent.
pub(super) fn explain(args: &PolicyExplainArgs) -> anyhow::Result<ExitCode> {
    let pairs = pairs(&args.question);
    let text = match &args.config {
        Some(directory) => {
            let question = Question::of_pairs(&pairs).map_err(anyhow::Error::msg)?;
            let world = World::read(directory)?;
            let explanations = explained(&question, &world.snapshot, &world.ports)?;
            match args.output {
                Output::Json => serde_json::to_string_pretty(&explanations)? + "\n",
                Output::Text => explanations.iter().map(ToString::to_string).collect(),
            }
        }
        None => {
            let output = if args.output == Output::Json { "json" } else { "text" };
            let query: Vec<String> =
                pairs.iter().map(|(name, value)| format!("{name}={}", escaped(value))).collect();
            let target = format!("/policy/explain?{}&output={output}", query.join("&"));
            String::from_utf8_lossy(&agent::ask(args.admin_addr, &target)?).into_owned()
        }
    };
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn print(text: &str) -> std::io::Result<()> {
    use std::io::Write;
    std::io::stdout().lock().write_all(text.as_bytes())
}

/// The words that the agent has for it too.
fn pairs(args: &PolicyQuestionArgs) -> Vec<(String, String)> {
    let mut pairs = vec![("from", args.from.clone()), ("to", args.to.clone())];
    pairs.push(("port", args.port.to_string()));
    pairs.push(("protocol", args.protocol.clone()));
    for (name, value) in [("method", &args.method), ("path", &args.path), ("host", &args.host)] {
        pairs.extend(value.clone().map(|value| (name, value)));
    }
    pairs.extend(args.headers.iter().map(|field| ("header", field.clone())));
    pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}
