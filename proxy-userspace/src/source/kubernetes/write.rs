//! Single requests to the API server that change something, or ask for one object.

use super::{kind::Kind, retry::Refusal};
use http::{Method, Request, header::CONTENT_TYPE};
use kube::Client;
use serde_json::Value;
use std::time::Duration;
use tokio::time::timeout;

/// How long one may take.
const TIMEOUT: Duration = Duration::from_secs(15);
const JSON: &str = "application/json";
const MERGE: &str = "application/merge-patch+json";

/// Where the requests go.
#[derive(Clone)]
pub(super) struct Writer(pub(super) Client);

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Failure {
    /// 404: there is no such object.
    Missing,
    /// 409: it was there already, or is another one by now.
    Conflict,
    /// Anything else.
    Other(Refusal),
}

impl Writer {
    /// One object as it is now, in the version that the cluster serves.
    pub(super) async fn get(&self, kind: &Kind, namespace: &str, name: &str) -> Result<Value, Failure> {
        match (self.get_at(&format!("{}/{name}", kind.path_in(namespace))).await, kind.as_older()) {
            (Err(Failure::Missing), Some(older)) => {
                self.get_at(&format!("{}/{name}", older.path_in(namespace))).await
            }
            (answer, _) => answer,
        }
    }

    pub(super) async fn get_at(&self, path: &str) -> Result<Value, Failure> {
        self.send(Method::GET, path, JSON, None).await
    }

    /// Merges into an object's status (RFC 7386).
    pub(super) async fn patch_status(
        &self,
        kind: &Kind,
        namespace: &str,
        name: &str,
        patch: &Value,
    ) -> Result<Value, Failure> {
        let path = format!("{}/{name}/status", kind.path_in(namespace));
        match (self.send(Method::PATCH, &path, MERGE, Some(patch)).await, kind.as_older()) {
            (Err(Failure::Missing), Some(older)) => {
                let path = format!("{}/{name}/status", older.path_in(namespace));
                self.send(Method::PATCH, &path, MERGE, Some(patch)).await
            }
            (answer, _) => answer,
        }
    }

    /// Makes an object in a collection.
    pub(super) async fn create(&self, collection: &str, object: &Value) -> Result<Value, Failure> {
        self.send(Method::POST, collection, JSON, Some(object)).await
    }

    /// Puts an object in the place of another version of itself.
    pub(super) async fn replace(&self, path: &str, object: &Value) -> Result<Value, Failure> {
        self.send(Method::PUT, path, JSON, Some(object)).await
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        content_type: &'static str,
        body: Option<&Value>,
    ) -> Result<Value, Failure> {
        let broken = |text: String| Failure::Other(Refusal::Broken(text));
        let body = body.map(|body| body.to_string().into_bytes()).unwrap_or_default();
        let request =
            Request::builder().method(method).uri(path).header(CONTENT_TYPE, content_type).body(body);
        let request = request.map_err(|error| broken(error.to_string()))?;
        match timeout(TIMEOUT, self.0.request::<Value>(request)).await {
            Err(_) => Err(broken(format!("no answer within {TIMEOUT:?}"))),
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(kube::Error::Api(status))) if status.code == 404 => Err(Failure::Missing),
            Ok(Err(kube::Error::Api(status))) if status.code == 409 => Err(Failure::Conflict),
            Ok(Err(error)) => Err(Failure::Other(error.into())),
        }
    }
}
