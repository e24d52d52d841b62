//! What the schema of HTTPRoute forbids.

use super::{
    Check, Fault,
    text::{self, duration, header_name, is_duration, subdomain, wildcard_name},
};
use crate::source::{
    finding::quoted,
    gateway::{
        BackendRef, Filter, HeaderFilter, HttpRouteSpec, Match, ParentRef, PathModifier, RouteRule,
        SessionPersistence, ValueMatch,
    },
};
use std::{collections::HashSet, time::Duration};

/// Methods that a match can name.
pub(super) const METHODS: [&str; 9] =
    ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];
/// Matches of one route, all rules together.
const MAX_MATCHES: usize = 128;

/// Faults of an HTTPRoute.
pub(in super::super) fn http_route(spec: &HttpRouteSpec) -> Vec<Fault> {
    let mut check = Check::default();
    check.at_most(&spec.hostnames, 16, "hostnames");
    for (index, host) in spec.hostnames.iter().enumerate() {
        check.text(host, wildcard_name, "a host or *. and a host", &format!("hostnames[{index}]"));
    }
    parent_refs(&mut check, &spec.parent_refs);
    check.at_most(&spec.rules, 16, "rules");
    check.that(!spec.rules.is_empty(), "rules", || "there is no rule".to_owned());
    let matches: usize = spec.rules.iter().map(|rule| rule.matches.len()).sum();
    check.that(matches <= MAX_MATCHES, "rules", || format!("{matches} matches are more than {MAX_MATCHES}"));
    for (index, rule) in spec.rules.iter().enumerate() {
        check_rule(&mut check, rule, &format!("rules[{index}]"));
    }
    check.0
}

fn parent_refs(check: &mut Check, refs: &[ParentRef]) {
    check.at_most(refs, 32, "parentRefs");
    for (index, one) in refs.iter().enumerate() {
        let path = format!("parentRefs[{index}]");
        check.reference((&one.group, &one.kind, &one.name, one.namespace.as_deref()), &path);
        check.port(one.port, &format!("{path}.port"));
        if let Some(section) = &one.section_name {
            check.text(section, subdomain, "a listener's name", &format!("{path}.sectionName"));
        }
        let same = |other: &&ParentRef| {
            (&other.group, &other.kind, &other.name) == (&one.group, &one.kind, &one.name)
                && other.namespace.as_deref().unwrap_or_default()
                    == one.namespace.as_deref().unwrap_or_default()
        };
        let earlier = refs.get(..index).unwrap_or_default();
        if let Some(other) = earlier.iter().find(same) {
            let named =
                |parent: &ParentRef| parent.section_name.as_ref().is_some_and(|name| !name.is_empty());
            check.that(named(other) == named(one), &path, || {
                "sectionName must be there in all references to one parent, or in none".to_owned()
            });
            let twice = earlier.iter().filter(same).any(|other| {
                other.section_name == one.section_name && (named(one) || other.port == one.port)
            });
            check.that(!twice, &path, || "refers to the same parent twice".to_owned());
        }
    }
}

fn check_rule(check: &mut Check, rule: &RouteRule, path: &str) {
    if let Some(name) = &rule.name {
        check.text(name, subdomain, "a rule's name", &format!("{path}.name"));
    }
    check.at_most(&rule.matches, 64, &format!("{path}.matches"));
    check.at_most(&rule.backend_refs, 16, &format!("{path}.backendRefs"));
    for (index, one) in rule.matches.iter().enumerate() {
        check_match(check, one, &format!("{path}.matches[{index}]"));
    }
    filters(check, &rule.filters, &format!("{path}.filters"));
    let redirects = rule.filters.iter().any(|filter| filter.request_redirect.is_some());
    check.that(rule.backend_refs.is_empty() || !redirects, path, || {
        "a rule with a RequestRedirect has no backendRefs".to_owned()
    });
    for (index, backend) in rule.backend_refs.iter().enumerate() {
        let path = format!("{path}.backendRefs[{index}]");
        check_backend(check, &backend.backend(), &path);
        check.in_range(backend.weight, 0..=1_000_000, &format!("{path}.weight"));
        filters(check, &backend.filters, &format!("{path}.filters"));
    }
    let all = rule.filters.iter().chain(rule.backend_refs.iter().flat_map(|backend| &backend.filters));
    let replaces = |modifier: &Option<PathModifier>| {
        modifier.as_ref().is_some_and(|modifier| modifier.kind == "ReplacePrefixMatch")
    };
    let mut needs_prefix = all.filter(|filter| {
        filter.request_redirect.as_ref().is_some_and(|redirect| replaces(&redirect.path))
            || filter.url_rewrite.as_ref().is_some_and(|rewrite| replaces(&rewrite.path))
    });
    let one_prefix = matches!(rule.matches.as_slice(), [only] if only.path.kind == "PathPrefix");
    check.that(needs_prefix.next().is_none() || one_prefix, path, || {
        "ReplacePrefixMatch needs one match, of a PathPrefix".to_owned()
    });
    limits(check, rule, path);
}

fn limits(check: &mut Check, rule: &RouteRule, path: &str) {
    let mut durations = Vec::new();
    if let Some(timeouts) = &rule.timeouts {
        durations.push(("timeouts.request", &timeouts.request));
        durations.push(("timeouts.backendRequest", &timeouts.backend_request));
    }
    if let Some(retry) = &rule.retry {
        durations.push(("retry.backoff", &retry.backoff));
        for (index, code) in retry.codes.iter().enumerate() {
            check.in_range(*code, 400..=599, &format!("{path}.retry.codes[{index}]"));
        }
    }
    if let Some(session) = &rule.session_persistence {
        durations.push(("sessionPersistence.absoluteTimeout", &session.absolute_timeout));
        durations.push(("sessionPersistence.idleTimeout", &session.idle_timeout));
        check_session(check, session, &format!("{path}.sessionPersistence"));
    }
    for (field, value) in durations {
        if let Some(value) = value {
            check.text(value, is_duration, "a duration like 1h30m or 500ms", &format!("{path}.{field}"));
        }
    }
    let of = |value: &Option<String>| value.as_deref().and_then(duration);
    let both = rule.timeouts.as_ref().and_then(|both| of(&both.request).zip(of(&both.backend_request)));
    let fits = both.is_none_or(|(request, backend)| request == Duration::ZERO || backend <= request);
    check.that(fits, &format!("{path}.timeouts.backendRequest"), || "is longer than request".to_owned());
}

/// Durations are [`limits`]' to check.
fn check_session(check: &mut Check, session: &SessionPersistence, path: &str) {
    let kind = session.kind.as_deref().unwrap_or("Cookie");
    check.one_of(kind, &["Cookie", "Header"], &format!("{path}.type"));
    if let Some(name) = &session.session_name {
        check.that(name.chars().count() <= 128, &format!("{path}.sessionName"), || {
            "is longer than 128".to_owned()
        });
    }
    let lifetime = session.cookie_config.as_ref().and_then(|cookie| cookie.lifetime_type.as_deref());
    let Some(lifetime) = lifetime else { return };
    check.one_of(lifetime, &["Permanent", "Session"], &format!("{path}.cookieConfig.lifetimeType"));
    check.that(lifetime != "Permanent" || session.absolute_timeout.is_some(), path, || {
        "absoluteTimeout must be there where lifetimeType is Permanent".to_owned()
    });
}

fn check_match(check: &mut Check, one: &Match, path: &str) {
    let (kind, value) = (one.path.kind.as_str(), one.path.value.as_str());
    let at = format!("{path}.path.value");
    check.one_of(kind, &["Exact", "PathPrefix", "RegularExpression"], &format!("{path}.path.type"));
    check.that(value.len() <= 1024, &at, || "is longer than 1024".to_owned());
    if matches!(kind, "Exact" | "PathPrefix")
        && let Err(why) = text::path(value)
    {
        check.fault(at, format!("{} {why}", quoted(value)));
    }
    if let Some(method) = &one.method {
        check.one_of(method, &METHODS, &format!("{path}.method"));
    }
    values(check, &one.headers, 4096, &format!("{path}.headers"));
    values(check, &one.query_params, 1024, &format!("{path}.queryParams"));
}

fn values(check: &mut Check, values: &[ValueMatch], longest: usize, path: &str) {
    check.at_most(values, 16, path);
    let mut names = HashSet::new();
    for (index, one) in values.iter().enumerate() {
        let path = format!("{path}[{index}]");
        check.text(&one.name, header_name, "a name", &format!("{path}.name"));
        check.one_of(&one.kind, &["Exact", "RegularExpression"], &format!("{path}.type"));
        check.that((1..=longest).contains(&one.value.len()), &format!("{path}.value"), || {
            format!("has {} characters, not 1 to {longest}", one.value.len())
        });
        check.that(names.insert(&one.name), &path, || format!("{} is named twice", quoted(&one.name)));
    }
}

fn check_backend(check: &mut Check, backend: &BackendRef, path: &str) {
    let BackendRef { group, kind, name, namespace, port } = backend;
    check.reference((group, kind, name, namespace.as_deref()), path);
    check.port(*port, &format!("{path}.port"));
    let service = group.is_empty() && kind == "Service";
    check.that(port.is_some() || !service, path, || "a Service needs a port".to_owned());
}

/// The filters of a rule or of a backend.
fn filters(check: &mut Check, filters: &[Filter], path: &str) {
    check.at_most(filters, 16, path);
    let count = |kind: &str| filters.iter().filter(|filter| filter.kind == kind).count();
    check.that(count("RequestRedirect") == 0 || count("URLRewrite") == 0, path, || {
        "RequestRedirect and URLRewrite exclude each other".to_owned()
    });
    for kind in ["CORS", "RequestHeaderModifier", "ResponseHeaderModifier", "RequestRedirect", "URLRewrite"] {
        check.that(count(kind) <= 1, path, || format!("{kind} is there {} times", count(kind)));
    }
    for (index, filter) in filters.iter().enumerate() {
        check_filter(check, filter, &format!("{path}[{index}]"));
    }
}

fn check_filter(check: &mut Check, filter: &Filter, path: &str) {
    let known = [
        ("RequestHeaderModifier", "requestHeaderModifier", filter.request_header_modifier.is_some()),
        ("ResponseHeaderModifier", "responseHeaderModifier", filter.response_header_modifier.is_some()),
        ("RequestMirror", "requestMirror", filter.request_mirror.is_some()),
        ("RequestRedirect", "requestRedirect", filter.request_redirect.is_some()),
        ("URLRewrite", "urlRewrite", filter.url_rewrite.is_some()),
        ("CORS", "cors", filter.cors.is_some()),
        ("ExtensionRef", "extensionRef", filter.extension_ref.is_some()),
    ];
    check.one_of(&filter.kind, &known.map(|(kind, ..)| kind), &format!("{path}.type"));
    for (kind, field, there) in known {
        check.that(there == (filter.kind == kind), path, || match there {
            true => format!("{field} is for type {kind} alone"),
            false => format!("type {kind} needs {field}"),
        });
    }
    if let Some(changes) = &filter.request_header_modifier {
        header_filter(check, changes, &format!("{path}.requestHeaderModifier"));
    }
    if let Some(changes) = &filter.response_header_modifier {
        header_filter(check, changes, &format!("{path}.responseHeaderModifier"));
    }
    if let Some(rewrite) = &filter.url_rewrite {
        let path = format!("{path}.urlRewrite");
        if let Some(host) = &rewrite.hostname {
            check.text(host, subdomain, "a host", &format!("{path}.hostname"));
        }
        path_modifier(check, rewrite.path.as_ref(), &path);
    }
    if let Some(redirect) = &filter.request_redirect {
        let path = format!("{path}.requestRedirect");
        if let Some(host) = &redirect.hostname {
            check.text(host, subdomain, "a host", &format!("{path}.hostname"));
        }
        if let Some(scheme) = &redirect.scheme {
            check.one_of(scheme, &["http", "https"], &format!("{path}.scheme"));
        }
        check.port(redirect.port, &format!("{path}.port"));
        let code = redirect.status_code.unwrap_or(302);
        check.that([301, 302, 303, 307, 308].contains(&code), &format!("{path}.statusCode"), || {
            format!("{code} is none of 301, 302, 303, 307, 308")
        });
        path_modifier(check, redirect.path.as_ref(), &path);
    }
    if let Some(mirror) = &filter.request_mirror {
        let path = format!("{path}.requestMirror");
        check_backend(check, &mirror.backend_ref, &format!("{path}.backendRef"));
        check.in_range(mirror.percent.unwrap_or(0), 0..=100, &format!("{path}.percent"));
        check.that(mirror.percent.is_none() || mirror.fraction.is_none(), &path, || {
            "percent and fraction exclude each other".to_owned()
        });
        if let Some(part) = mirror.fraction {
            let fits = 0 <= part.numerator && part.numerator <= part.denominator && part.denominator >= 1;
            check.that(fits, &format!("{path}.fraction"), || "is not a part".to_owned());
        }
    }
    if let Some(cors) = &filter.cors {
        text::cors(cors)
            .into_iter()
            .for_each(|(field, why)| check.fault(format!("{path}.cors.{field}"), why));
    }
}

fn header_filter(check: &mut Check, filter: &HeaderFilter, path: &str) {
    for (fields, what) in [(&filter.set, "set"), (&filter.add, "add")] {
        let path = format!("{path}.{what}");
        check.at_most(fields, 16, &path);
        let mut names = HashSet::new();
        for (index, field) in fields.iter().enumerate() {
            let path = format!("{path}[{index}]");
            check.text(&field.name, header_name, "a field's name", &format!("{path}.name"));
            check.that((1..=4096).contains(&field.value.len()), &format!("{path}.value"), || {
                format!("has {} characters, not 1 to 4096", field.value.len())
            });
            check
                .that(names.insert(&field.name), &path, || format!("{} is named twice", quoted(&field.name)));
        }
    }
    check.at_most(&filter.remove, 16, &format!("{path}.remove"));
    let mut names = HashSet::new();
    let twice = filter.remove.iter().find(|name| !names.insert(*name));
    check.that(twice.is_none(), &format!("{path}.remove"), || "a name is there twice".to_owned());
}

fn path_modifier(check: &mut Check, modifier: Option<&PathModifier>, path: &str) {
    let Some(modifier) = modifier else { return };
    let path = format!("{path}.path");
    check.one_of(&modifier.kind, &["ReplaceFullPath", "ReplacePrefixMatch"], &format!("{path}.type"));
    for (kind, field, value) in [
        ("ReplaceFullPath", "replaceFullPath", &modifier.replace_full_path),
        ("ReplacePrefixMatch", "replacePrefixMatch", &modifier.replace_prefix_match),
    ] {
        check.that(value.is_some() == (modifier.kind == kind), &path, || {
            format!("{field} is for type {kind}, and {kind} needs it")
        });
        let Some(value) = value else { continue };
        check.that(value.len() <= 1024, &path, || format!("{field} is longer than 1024"));
        // What is put into a request line must be a path.
        let bad = !value.is_empty() && (!value.starts_with('/') || text::path(value).is_err());
        check.that(!bad, &format!("{path}.{field}"), || format!("{} is not a path", quoted(value)));
    }
}
