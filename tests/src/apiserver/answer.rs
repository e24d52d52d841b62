//! One request to the scripted API server, and its answer.

use super::{
    Ask, Asked, Fault, Shared, State, status,
    world::{Resource, merge},
};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Either, Full};
use hyper::{
    Method, Request, Response,
    body::{Body, Incoming},
};
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    convert::Infallible,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};
use tokio::sync::mpsc;

/// What a watch's client gets.
pub(super) enum Frame {
    /// A line.
    Line(String),
    /// Part of a line, and then nothing, not even an end of the answer.
    Cut(String),
    /// The end of the answer.
    End,
    /// The connection drops.
    Drop,
}

/// A watch's answer.
pub(super) struct Stream(pub(super) mpsc::UnboundedReceiver<Frame>);

impl Body for Stream {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<hyper::body::Frame<Bytes>>>> {
        let data = |text: String| Poll::Ready(Some(Ok(hyper::body::Frame::data(text.into()))));
        match ready!(self.0.poll_recv(context)) {
            Some(Frame::Line(line)) => data(line + "\n"),
            Some(Frame::Cut(part)) => {
                let (sender, rest) = mpsc::unbounded_channel();
                // The receiver is here.
                let _ = sender.send(Frame::Drop);
                self.0 = rest;
                data(part)
            }
            Some(Frame::Drop) => Poll::Ready(Some(Err(io::ErrorKind::ConnectionReset.into()))),
            Some(Frame::End) | None => Poll::Ready(None),
        }
    }
}

type Answer = Response<Either<Full<Bytes>, Stream>>;

/// A request, understood.
struct Wish {
    method: Method,
    resource: Resource,
    namespace: Option<String>,
    name: Option<String>,
    /// `status`
    subresource: Option<String>,
    query: HashMap<String, String>,
    body: Value,
}

pub(super) async fn answer(shared: Arc<Shared>, request: Request<Incoming>) -> Result<Answer, Infallible> {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path_and_query().map_or("", |path| path.as_str()).to_owned();
    let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
    let Some(wish) = Wish::of(parts.method, parts.uri.path(), parts.uri.query().unwrap_or(""), body) else {
        return Ok(json_answer(404, &status(404, "NotFound")));
    };
    let fault = {
        let mut state = shared.state();
        let (method, plural) = (wish.method.to_string(), wish.resource.plural.clone());
        state.asked.push(Asked { method, plural, path });
        state.fault(&wish.resource.plural, wish.ask())
    };
    match fault {
        Some(Fault::Status(code, reason)) => return Ok(json_answer(code, &status(code, reason))),
        Some(Fault::Slow(delay)) => tokio::time::sleep(delay).await,
        None => {}
    }
    let mut state = shared.state();
    Ok(match wish.method {
        Method::GET if wish.query.get("watch").is_some_and(|watch| watch == "true") => state.watched(&wish),
        Method::GET if wish.name.is_some() => state.got(&wish),
        Method::GET => state.listed(&wish),
        _ => state.written(wish),
    })
}

impl Wish {
    /// `/api/v1/...` or `/apis/group/version/...`, then `[namespaces/NAMESPACE/]PLURAL[/NAME[/status]]`.
    fn of(method: Method, path: &str, query: &str, body: Value) -> Option<Self> {
        let mut steps = path.trim_matches('/').split('/');
        let api_version = match steps.next()? {
            "api" => steps.next()?.to_owned(),
            "apis" => format!("{}/{}", steps.next()?, steps.next()?),
            _ => return None,
        };
        let steps: Vec<_> = steps.map(String::from).collect();
        let (namespace, rest) = match &*steps {
            [first, namespace, rest @ ..] if first == "namespaces" && !rest.is_empty() => {
                (Some(namespace.clone()), rest)
            }
            all => (None, all),
        };
        let [plural, rest @ ..] = rest else { return None };
        let query = query.split('&').filter_map(|pair| pair.split_once('='));
        Some(Self {
            method,
            resource: Resource { api_version, plural: plural.clone() },
            namespace,
            name: rest.first().cloned(),
            subresource: rest.get(1).cloned(),
            query: query.map(|(key, value)| (key.to_owned(), value.to_owned())).collect(),
            body,
        })
    }

    fn ask(&self) -> Ask {
        match self.method {
            Method::GET if self.query.contains_key("watch") => Ask::Watch,
            Method::GET if self.query.contains_key("continue") => Ask::Page,
            Method::GET => Ask::List,
            _ => Ask::Write,
        }
    }

    fn home(&self) -> &str {
        self.namespace.as_deref().unwrap_or("")
    }
}

impl State {
    fn watched(&mut self, wish: &Wish) -> Answer {
        let version = wish.query.get("resourceVersion").and_then(|version| version.parse().ok()).unwrap_or(0);
        if !self.world.knows(&wish.resource) {
            return json_answer(404, &status(404, "NotFound"));
        }
        match self.watch(wish.resource.clone(), version) {
            Some(stream) => Response::new(Either::Right(stream)),
            None => json_answer(410, &status(410, "Expired")),
        }
    }

    fn got(&self, wish: &Wish) -> Answer {
        let name = wish.name.as_deref().unwrap_or("");
        match self.world.get(&wish.resource, wish.home(), name) {
            Some(object) => json_answer(200, object),
            None => json_answer(404, &status(404, "NotFound")),
        }
    }

    fn listed(&mut self, wish: &Wish) -> Answer {
        if !self.world.knows(&wish.resource) {
            return json_answer(404, &json!("404 page not found"));
        }
        let (version, mut items) = match wish.query.get("continue") {
            None => (self.world.version(), self.world.list(&wish.resource, wish.namespace.as_deref()).into()),
            Some(token) => {
                let Some(place) = self.pages.iter().position(|(known, _)| known == token) else {
                    return json_answer(410, &status(410, "Expired"));
                };
                let (token, rest) = self.pages.swap_remove(place);
                (token.split('-').next().and_then(|version| version.parse().ok()).unwrap_or(0), rest)
            }
        };
        let limit = wish.query.get("limit").and_then(|limit| limit.parse().ok()).unwrap_or(usize::MAX);
        let rest = items.split_off(limit.min(items.len()));
        let mut token = String::new();
        if !rest.is_empty() {
            token = format!("{version}-{}", self.asked.len());
            self.pages.push((token.clone(), rest));
        }
        let metadata = json!({"resourceVersion": version.to_string(), "continue": token});
        let items: Vec<_> = items.into_iter().map(untyped).collect();
        json_answer(
            200,
            &json!({"apiVersion": wish.resource.api_version, "kind": "List", "metadata": metadata,
                                 "items": items}),
        )
    }

    /// POST, PUT and PATCH. A patch merges; one of server-side apply does, too, and may create.
    fn written(&mut self, wish: Wish) -> Answer {
        let before = self.world.version();
        let known = wish.name.as_deref().and_then(|name| self.world.get(&wish.resource, wish.home(), name));
        let object = match (&wish.method, known.cloned()) {
            (&Method::POST, _) => {
                let name = wish.body.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
                if self.world.get(&wish.resource, wish.home(), name).is_some() {
                    return json_answer(409, &status(409, "AlreadyExists"));
                }
                wish.body
            }
            (&Method::PUT, Some(known)) => {
                let version = |of: &Value| of.pointer("/metadata/resourceVersion").cloned();
                if version(&wish.body).is_some_and(|wanted| Some(wanted) != version(&known)) {
                    return json_answer(409, &status(409, "Conflict"));
                }
                wish.body
            }
            (&Method::PATCH, Some(mut known)) => {
                let part = wish.subresource.as_deref().map(|part| json!({part: wish.body.get(part)}));
                merge(&mut known, &part.unwrap_or(wish.body));
                known
            }
            _ => return json_answer(404, &status(404, "NotFound")),
        };
        match self.world.put(object) {
            Ok(object) => {
                self.announce(before, &wish.resource);
                json_answer(200, &object)
            }
            Err(error) => json_answer(422, &status(422, &error.to_string())),
        }
    }
}

/// As items of a list are: without what the list says already.
fn untyped(mut object: Value) -> Value {
    if let Some(fields) = object.as_object_mut() {
        fields.remove("apiVersion");
        fields.remove("kind");
    }
    object
}

fn json_answer(code: u16, body: &Value) -> Answer {
    let mut answer = Response::new(Either::Left(Full::from(body.to_string())));
    *answer.status_mut() = hyper::StatusCode::from_u16(code).unwrap_or_default();
    answer.headers_mut().insert("content-type", hyper::header::HeaderValue::from_static("application/json"));
    answer
}
