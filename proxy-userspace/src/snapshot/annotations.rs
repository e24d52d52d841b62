//! `weir.dev/*` annotations of a Service.

use super::{
    AccelerationChoice, Timeouts,
    admission::{self, ADMISSION},
};
use crate::{route::choices::Choices, source::finding::quoted};
use std::{collections::BTreeMap, time::Duration};

/// What every annotation of ours starts with.
pub(super) const PREFIX: &str = "weir.dev/";
/// `weir.dev/timeouts`.
const TIMEOUTS: &str = "weir.dev/timeouts";
/// `weir.dev/acceleration`.
const ACCELERATION: &str = "weir.dev/acceleration";

/// Named pairs of `request` and `response-head`.
const CLASSES: [(&str, Duration); 3] = [
    ("realtime", Duration::from_secs(5)),
    ("batch", Duration::from_secs(60)),
    ("webhook", Duration::from_secs(15)),
];

/// The longest timeout that is not a typing mistake.
const LONGEST: Duration = Duration::from_secs(24 * 3600);
/// The shortest that the agent's timers tell apart.
const SHORTEST: Duration = Duration::from_millis(1);

type Slot = fn(&mut Timeouts) -> &mut Option<Duration>;

const KEYS: [(&str, Slot); 9] = [
    ("connect", |t| &mut t.connect),
    ("request", |t| &mut t.request),
    ("response-head", |t| &mut t.response_head),
    ("request-head", |t| &mut t.request_head),
    ("request-body-idle", |t| &mut t.request_body_idle),
    ("response-body-idle", |t| &mut t.response_body_idle),
    ("tunnel-idle", |t| &mut t.tunnel_idle),
    ("downstream-idle", |t| &mut t.downstream_idle),
    ("upstream-idle", |t| &mut t.upstream_idle),
];

/// What is wrong with one annotation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Mistake {
    /// The annotation.
    pub(super) key: String,
    /// What is wrong.
    pub(super) text: String,
    /// What is allowed.
    pub(super) fix: String,
}

/// What a Service's annotations ask for; each faulty one counts as absent.
pub(super) struct Wishes {
    pub(super) timeouts: Timeouts,
    pub(super) acceleration: AccelerationChoice,
    pub(super) choices: Choices,
    pub(super) mistakes: Vec<Mistake>,
}

/// Reads the annotations; `defaults` fills what they leave open.
pub(super) fn read(annotations: Option<&BTreeMap<String, String>>, defaults: Timeouts) -> Wishes {
    let mut wishes = Wishes {
        timeouts: defaults,
        acceleration: AccelerationChoice::Default,
        choices: Choices::default(),
        mistakes: Vec::new(),
    };
    for (key, value) in annotations.into_iter().flatten().filter(|(key, _)| key.starts_with(PREFIX)) {
        let outcome = match key.as_str() {
            TIMEOUTS => timeouts(value, defaults).map(|timeouts| wishes.timeouts = timeouts),
            ACCELERATION => acceleration(value).map(|choice| wishes.acceleration = choice),
            ADMISSION => admission::read(value).map(|choices| wishes.choices = choices),
            _ => Err((
                format!("annotation {} is unknown", quoted(key)),
                format!("known: {TIMEOUTS}, {ACCELERATION}, {ADMISSION}"),
            )),
        };
        if let Err((text, fix)) = outcome {
            wishes.mistakes.push(Mistake { key: key.clone(), text, fix });
        }
    }
    wishes
}

fn acceleration(value: &str) -> Result<AccelerationChoice, (String, String)> {
    match value {
        "on" => Ok(AccelerationChoice::On),
        "off" => Ok(AccelerationChoice::Off),
        "default" => Ok(AccelerationChoice::Default),
        _ => Err((
            format!("{ACCELERATION}: {} is unknown", quoted(value)),
            "one of on, off, default".to_owned(),
        )),
    }
}

/// `CLASS`, `KEY=DURATION,...` or `CLASS,KEY=DURATION,...`.
fn timeouts(value: &str, defaults: Timeouts) -> Result<Timeouts, (String, String)> {
    let mut timeouts = defaults;
    let mut seen = Vec::new();
    for (index, part) in value.split(',').map(str::trim).enumerate() {
        match part.split_once('=') {
            Some((key, duration)) => {
                let (name, slot) = slot(key.trim())?;
                if seen.contains(&name) {
                    return Err((format!("{TIMEOUTS}: {name} is given twice"), String::new()));
                }
                seen.push(name);
                *slot(&mut timeouts) = parse_duration(name, duration.trim())?;
            }
            None if index == 0 => {
                let class = class(part)?;
                timeouts.request = Some(class);
                timeouts.response_head = Some(class);
            }
            None => return Err(unknown(part)),
        }
    }
    Ok(timeouts)
}

fn class(name: &str) -> Result<Duration, (String, String)> {
    CLASSES.iter().find(|(class, _)| *class == name).map(|(_, limit)| *limit).ok_or_else(|| unknown(name))
}

fn slot(name: &str) -> Result<(&'static str, Slot), (String, String)> {
    KEYS.iter().find(|(key, _)| *key == name).copied().ok_or_else(|| unknown(name))
}

fn unknown(part: &str) -> (String, String) {
    let names = |all: &mut dyn Iterator<Item = &'static str>| all.collect::<Vec<_>>().join(", ");
    let classes = names(&mut CLASSES.iter().map(|(name, _)| *name));
    let keys = names(&mut KEYS.iter().map(|(name, _)| *name));
    (
        format!("{TIMEOUTS}: {} is unknown", quoted(part)),
        format!("a class ({classes}), then or instead KEY=DURATION with the keys {keys}, by commas"),
    )
}

/// `0s` disables a timeout.
fn parse_duration(key: &str, text: &str) -> Result<Option<Duration>, (String, String)> {
    let allowed = || "like 500ms, 10s or 1m30s; 1ms to 24h, 0s disables".to_owned();
    let duration = humantime::parse_duration(text).map_err(|error| {
        let text = format!("{TIMEOUTS}: {key}: {} is not a duration: {error}", quoted(text));
        (text, allowed())
    })?;
    if duration.is_zero() {
        return Ok(None);
    }
    if !(SHORTEST..=LONGEST).contains(&duration) {
        return Err((format!("{TIMEOUTS}: {key}: {} is out of range", quoted(text)), allowed()));
    }
    Ok(Some(duration))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]
    use super::*;

    fn wishes(pairs: &[(&str, &str)]) -> Wishes {
        let annotations = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        read(Some(&annotations), Timeouts::default())
    }

    fn timeouts_of(value: &str) -> Timeouts {
        let wishes = wishes(&[(TIMEOUTS, value)]);
        assert_eq!(wishes.mistakes, [], "{value}");
        wishes.timeouts
    }

    fn mistake(key: &str, value: &str) -> Mistake {
        let wishes = wishes(&[(key, value)]);
        assert_eq!(wishes.timeouts, Timeouts::default(), "{value} leaves the defaults");
        assert_eq!(wishes.choices, Choices::default(), "{value} leaves the defaults");
        assert_eq!(wishes.mistakes.len(), 1, "{value}");
        wishes.mistakes[0].clone()
    }

    const fn secs(seconds: u64) -> Option<Duration> {
        Some(Duration::from_secs(seconds))
    }

    #[test]
    fn a_class_sets_request_and_response_head_alone() {
        for (class, limit) in [("realtime", 5), ("batch", 60), ("webhook", 15)] {
            let expected =
                Timeouts { request: secs(limit), response_head: secs(limit), ..Timeouts::default() };
            assert_eq!(timeouts_of(class), expected, "{class}");
        }
    }

    #[test]
    fn overrides_follow_a_class() {
        let timeouts = timeouts_of("batch, response-head=30s,connect=500ms");
        assert_eq!(timeouts.request, secs(60));
        assert_eq!(timeouts.response_head, secs(30));
        assert_eq!(timeouts.connect, Some(Duration::from_millis(500)));
    }

    #[test]
    fn every_key_sets_its_own_timeout() {
        let timeouts = timeouts_of(
            "connect=1s,request=2s,response-head=3s,request-head=4s,request-body-idle=5s,\
             response-body-idle=6s,tunnel-idle=8s,downstream-idle=7s,upstream-idle=1m30s",
        );
        let expected = Timeouts {
            connect: secs(1),
            request: secs(2),
            response_head: secs(3),
            request_head: secs(4),
            request_body_idle: secs(5),
            response_body_idle: secs(6),
            tunnel_idle: secs(8),
            downstream_idle: secs(7),
            upstream_idle: secs(90),
        };
        assert_eq!(timeouts, expected);
    }

    #[test]
    fn zero_disables_a_timeout() {
        assert_eq!(timeouts_of("request=0s").request, None);
    }

    #[test]
    fn an_unknown_class_or_key_names_the_allowed_ones() {
        for value in ["fast", "requests=3s", "realtime,batch", ""] {
            let mistake = mistake(TIMEOUTS, value);
            assert_eq!(mistake.key, TIMEOUTS);
            assert!(mistake.fix.contains("realtime, batch, webhook"), "{mistake:?}");
            assert!(mistake.fix.contains("response-head"), "{mistake:?}");
        }
    }

    #[test]
    fn a_faulty_duration_names_its_key() {
        for value in ["request=soon", "request=10", "request=-1s", "request=25h", "request=10ns", "request="]
        {
            assert!(mistake(TIMEOUTS, value).text.contains("request: "), "{value}");
        }
        assert!(mistake(TIMEOUTS, "request=1s,request=2s").text.contains("twice"));
    }

    #[test]
    fn acceleration_is_on_off_or_default() {
        assert_eq!(wishes(&[(ACCELERATION, "on")]).acceleration, AccelerationChoice::On);
        assert_eq!(wishes(&[(ACCELERATION, "off")]).acceleration, AccelerationChoice::Off);
        assert_eq!(wishes(&[(ACCELERATION, "default")]).acceleration, AccelerationChoice::Default);
        assert!(mistake(ACCELERATION, "true").fix.contains("on, off, default"));
    }

    #[test]
    fn admission_is_for_requests_to_the_services_own_addresses() {
        assert!(wishes(&[(ADMISSION, "underscores=keep")]).choices.keeps_underscores);
        assert_eq!(mistake(ADMISSION, "underscores=keep,head=2GiB").key, ADMISSION);
    }

    #[test]
    fn a_misspelt_annotation_of_ours_is_found_and_others_are_left_alone() {
        assert_eq!(mistake("weir.dev/timeout", "batch").key, "weir.dev/timeout");
        assert!(wishes(&[("example.com/timeouts", "x"), ("weir", "y")]).mistakes.is_empty());
    }

    #[test]
    fn hostile_text_is_quoted_and_cut() {
        let value = format!("$(rm -rf)\r\nerror: {}", "x".repeat(256 * 1024));
        let mistake = mistake(TIMEOUTS, &value);
        assert!(mistake.text.len() < 200 && !mistake.text.contains('\n'), "{}", mistake.text);
    }
}
