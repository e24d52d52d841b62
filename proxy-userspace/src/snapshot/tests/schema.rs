//! Objects of the Gateway API are accepted or refused as the API's own schemas say. Those, and the project's
//! manifests, are beside the repository, where they are there at all.

use super::*;
use crate::source::{finding::Severity, objects_and_findings};
use regex::Regex;
use serde_json::Value;
use std::{collections::HashSet, fs, path::Path};

/// Kinds, and the files of their schemas.
const KINDS: [(&str, &str); 4] = [
    ("HTTPRoute", "httproutes"),
    ("Gateway", "gateways"),
    ("GatewayClass", "gatewayclasses"),
    ("ReferenceGrant", "referencegrants"),
];

fn documents(text: &str) -> Vec<Value> {
    let mut bytes = text.as_bytes();
    let options = serde_saphyr::options! { strict_booleans: true, with_snippet: false };
    let read = serde_saphyr::read_with_options::<_, Option<Value>>(&mut bytes, options);
    read.filter_map(|document| document.unwrap()).collect()
}

/// Whether a value is what a structural schema says; rules in CEL are not looked at.
fn fits(schema: &Value, value: &Value) -> bool {
    let number = |key: &str| schema[key].as_f64();
    let length = |key: &str, length: usize| schema[key].as_u64().map(|most| (length as u64).cmp(&most));
    let allowed = schema["enum"].as_array().is_none_or(|all| all.contains(value));
    allowed
        && match (schema["type"].as_str(), value) {
            (Some("object"), Value::Object(fields)) => {
                let required = schema["required"].as_array().into_iter().flatten();
                let mut required = required.filter_map(Value::as_str);
                required.all(|name| fields.contains_key(name))
                    && fields.iter().all(|(name, value)| {
                        let properties = &schema["properties"][name];
                        properties.is_null() || value.is_null() || fits(properties, value)
                    })
            }
            (Some("array"), Value::Array(items)) => {
                length("minItems", items.len()).is_none_or(std::cmp::Ordering::is_ge)
                    && length("maxItems", items.len()).is_none_or(std::cmp::Ordering::is_le)
                    && items.iter().all(|item| fits(&schema["items"], item))
            }
            (Some("string"), Value::String(text)) => {
                let pattern = schema["pattern"].as_str().map(|pattern| Regex::new(pattern).unwrap());
                length("minLength", text.len()).is_none_or(std::cmp::Ordering::is_ge)
                    && length("maxLength", text.len()).is_none_or(std::cmp::Ordering::is_le)
                    && pattern.is_none_or(|pattern| pattern.is_match(text))
            }
            (Some("integer"), Value::Number(given)) => given.as_i64().is_some_and(|given| {
                let given = given as f64;
                number("minimum").is_none_or(|least| given >= least)
                    && number("maximum").is_none_or(|most| given <= most)
            }),
            (Some("boolean"), Value::Bool(_)) | (None, _) => true,
            _ => false,
        }
}

/// Whether an object is taken as it is.
fn is_accepted(object: &Value) -> bool {
    let (objects, mut findings) = objects_and_findings(&object.to_string());
    findings.extend(build(&objects, &options(), 1).1);
    let refused = ["left out", "refuse"];
    let is_refusal = |one: &Finding| {
        let unread = objects.http_routes.is_empty()
            && objects.gateways.is_empty()
            && objects.gateway_classes.is_empty()
            && objects.reference_grants.is_empty();
        one.severity == Severity::Error && (unread || refused.iter().any(|word| one.fix.contains(word)))
    };
    !findings.iter().any(is_refusal)
}

/// Every way to spoil one value below `spec`, once for each field of a kind.
fn spoiled(object: &Value, seen: &mut HashSet<String>) -> Vec<Value> {
    let mut all = Vec::new();
    let mut pointers = vec!["/spec".to_owned()];
    while let Some(pointer) = pointers.pop() {
        let place = object.pointer(&pointer).unwrap();
        let field: Vec<&str> = pointer.split('/').filter(|step| step.parse::<usize>().is_err()).collect();
        let fresh = seen.insert(format!("{} {}", object["kind"], field.join(".")));
        let bad: &[Value] = match place {
            Value::String(_) => {
                &[Value::String("!!".into()), Value::Bool(true), Value::String("x".repeat(5000))]
            }
            Value::Number(_) => {
                &[Value::Number((-1).into()), Value::Number(9_000_000.into()), Value::String("1".into())]
            }
            Value::Array(_) | Value::Object(_) => &[Value::Bool(true)],
            _ => &[],
        };
        for value in bad.iter().filter(|_| fresh) {
            let mut copy = object.clone();
            *copy.pointer_mut(&pointer).unwrap() = value.clone();
            all.push(copy);
        }
        match place {
            Value::Object(fields) => {
                for name in fields.keys() {
                    if fresh {
                        let mut copy = object.clone();
                        copy.pointer_mut(&pointer).unwrap().as_object_mut().unwrap().remove(name);
                        all.push(copy);
                    }
                    pointers.push(format!("{pointer}/{}", name.replace('~', "~0").replace('/', "~1")));
                }
            }
            Value::Array(items) => {
                pointers.extend((0..items.len()).map(|index| format!("{pointer}/{index}")))
            }
            _ => {}
        }
    }
    all
}

#[test]
fn what_the_projects_own_schemas_refuse_is_refused_and_its_manifests_are_accepted() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/conformance/gateway-api");
    if !dir.is_dir() {
        eprintln!("SKIP: {} is not there", dir.display());
        return;
    }
    let schemas: Vec<(&str, Value)> = KINDS
        .iter()
        .map(|(kind, file)| {
            let text =
                fs::read_to_string(dir.join(format!("crds/gateway.networking.k8s.io_{file}.yaml"))).unwrap();
            let definition = documents(&text).remove(0);
            (*kind, definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone())
        })
        .collect();
    let mut files = vec![dir.join("base-manifests.yaml")];
    files.extend(fs::read_dir(dir.join("conformance-yaml")).unwrap().map(|entry| entry.unwrap().path()));
    let (mut wrong, mut accepted, mut refused, mut seen) = (Vec::new(), 0, 0, HashSet::new());
    for file in files {
        let text = fs::read_to_string(&file).unwrap().replace("{GATEWAY_CLASS_NAME}", "weir");
        for object in documents(&text.replace("{GATEWAY_CONTROLLER_NAME}", "weir.dev/gateway")) {
            let Some((kind, schema)) = schemas.iter().find(|(kind, _)| object["kind"] == *kind) else {
                continue;
            };
            let name = format!("{} {kind} {}", file.display(), object["metadata"]["name"]);
            assert!(fits(schema, &object), "{name}");
            accepted += 1;
            if !is_accepted(&object) {
                wrong.push(format!("{name} is refused"));
            }
            // Whose class is not ours is not ours to refuse.
            let ours = |one: &Value| *kind != "Gateway" || one["spec"]["gatewayClassName"] == "weir";
            let bad = spoiled(&object, &mut seen).into_iter();
            for spoiled in bad.filter(|spoiled| ours(spoiled) && !fits(schema, spoiled)) {
                refused += 1;
                if is_accepted(&spoiled) {
                    wrong.push(format!("{name} is accepted as {}", spoiled["spec"]));
                }
            }
        }
    }
    wrong.sort();
    wrong.dedup();
    let shown: Vec<String> = wrong.iter().take(20).map(|one| one.chars().take(400).collect()).collect();
    assert!(wrong.is_empty(), "{} of {accepted} and {refused}\n{}", wrong.len(), shown.join("\n"));
    assert!(accepted > 100 && refused > 150, "{accepted} accepted, {refused} refused");
}
