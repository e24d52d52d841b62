//! Filters, from their manifests.

use super::{
    Fault,
    backend::{Referrer, Unresolved, World},
};
use crate::{
    route::{
        cors::Cors,
        fields::{self, Changes},
        redirect::Redirect,
        rewrite::{PathChange, Rewrite},
        rule::{Destination, Filters, Mirror},
        table::Scheme,
    },
    source::gateway,
};
use http::{HeaderName, HeaderValue, StatusCode};

/// The filters of a rule or a backend, which the schema allows. What of them leads nowhere is left out and
/// reported; a filter that is not known is `Err`: requests must not pass without it.
pub(super) fn read(
    filters: &[gateway::Filter],
    path: &str,
    (world, from): (&World<'_>, Referrer<'_>),
    unresolved: &mut Vec<Unresolved>,
) -> Result<Filters, Fault> {
    let mut all = Filters::default();
    for (index, filter) in filters.iter().enumerate() {
        let at = |what: &str| format!("{path}[{index}]{what}");
        if let Some(changes) = &filter.request_header_modifier {
            all.request = read_changes(changes, &at(".requestHeaderModifier"))?;
        }
        if let Some(changes) = &filter.response_header_modifier {
            all.answer = read_changes(changes, &at(".responseHeaderModifier"))?;
        }
        if let Some(rewrite) = &filter.url_rewrite {
            let host = rewrite.hostname.as_deref().map(|host| value(host, &at(".urlRewrite.hostname")));
            all.rewrite =
                Some(Rewrite { host: host.transpose()?, path: rewrite.path.as_ref().map(path_change) });
        }
        if let Some(redirect) = &filter.request_redirect {
            all.redirect = Some(read_redirect(redirect));
        }
        if let Some(mirror) = &filter.request_mirror {
            match world.backend(from, &mirror.backend_ref) {
                Ok(Destination::Cluster(cluster)) => all.mirrors.push(read_mirror(mirror, cluster)),
                Ok(_) => {}
                Err(why) => unresolved.push(why),
            }
        }
        if let Some(cors) = &filter.cors {
            all.cors = Some(read_cors(cors).into());
        }
        if let Some(extension) = &filter.extension_ref {
            let text = format!("Weir knows no filter {} of {:?}", extension.kind, extension.group);
            return Err(Fault { path: at(".extensionRef"), text });
        }
    }
    Ok(all)
}

fn read_changes(filter: &gateway::HeaderFilter, path: &str) -> Result<Changes, Fault> {
    let field = |header: &gateway::HttpHeader| Ok((name(&header.name, path)?, value(&header.value, path)?));
    // Of two that set the same, the first counts.
    let mut set: Vec<(HeaderName, HeaderValue)> = Vec::new();
    for header in &filter.set {
        let (name, value) = field(header)?;
        if !set.iter().any(|(other, _)| *other == name) {
            set.push((name, value));
        }
    }
    Ok(Changes {
        set,
        add: filter.add.iter().map(field).collect::<Result<_, Fault>>()?,
        remove: filter.remove.iter().map(|one| name(one, path)).collect::<Result<_, Fault>>()?,
    })
}

fn name(text: &str, path: &str) -> Result<HeaderName, Fault> {
    let fault = |text: String| Fault { path: path.to_owned(), text };
    let name = HeaderName::from_bytes(text.as_bytes());
    let name = name.map_err(|_| fault(format!("{text:?} is not a field's name")))?;
    if fields::is_ours(&name) {
        return Err(fault(format!("field {name} says how a message is framed: no route can change it")));
    }
    Ok(name)
}

fn value(text: &str, path: &str) -> Result<HeaderValue, Fault> {
    let value = HeaderValue::from_str(text);
    value.map_err(|_| Fault { path: path.to_owned(), text: format!("{text:?} is not a field's value") })
}

fn path_change(modifier: &gateway::PathModifier) -> PathChange {
    match (&modifier.replace_full_path, &modifier.replace_prefix_match) {
        (Some(full), _) => PathChange::Full(full.as_str().into()),
        (None, prefix) => PathChange::Prefix(prefix.as_deref().unwrap_or_default().into()),
    }
}

fn read_redirect(redirect: &gateway::Redirect) -> Redirect {
    let status = redirect.status_code.and_then(|code| u16::try_from(code).ok());
    Redirect {
        scheme: redirect.scheme.as_deref().map(|scheme| match scheme {
            "https" => Scheme::Https,
            _ => Scheme::Http,
        }),
        host: redirect.hostname.as_deref().map(Into::into),
        port: redirect.port.and_then(|port| u16::try_from(port).ok()),
        path: redirect.path.as_ref().map(path_change),
        status: status.and_then(|code| StatusCode::from_u16(code).ok()).unwrap_or(StatusCode::FOUND),
    }
}

fn read_mirror(mirror: &gateway::Mirror, cluster: std::sync::Arc<str>) -> Mirror {
    let (numerator, denominator) = match (mirror.fraction, mirror.percent) {
        (Some(fraction), _) => (fraction.numerator, fraction.denominator),
        (None, Some(percent)) => (percent, 100),
        (None, None) => (1, 1),
    };
    let number = |number: i32| u32::try_from(number).unwrap_or_default();
    Mirror { cluster, numerator: number(numerator), denominator: number(denominator).max(1) }
}

fn read_cors(cors: &gateway::Cors) -> Cors {
    let all = |names: &[String]| names.iter().map(|name| name.as_str().into()).collect();
    Cors {
        origins: all(&cors.allow_origins),
        credentials: cors.allow_credentials.unwrap_or(false),
        methods: all(&cors.allow_methods),
        headers: all(&cors.allow_headers),
        exposed: all(&cors.expose_headers),
        max_age: cors.max_age.and_then(|age| u32::try_from(age).ok()).unwrap_or(5),
    }
}
