//! Objects of which there are thousands and which are looked at when they change, as text: that takes a
//! tenth of the room. Reading one again takes some ten microseconds.

use super::{
    Object, Sourced,
    finding::{Finding, Severity},
};
use k8s_openapi::{
    Metadata, Resource,
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};
use serde::{Serialize, de::DeserializeOwned};
use std::{fmt, marker::PhantomData};

/// An object, packed. Two are equal if they say the same.
pub struct Packed<T> {
    created: Option<Time>,
    /// JSON.
    text: Box<str>,
    of: PhantomData<fn() -> T>,
}

impl<T: Serialize + Metadata<Ty = ObjectMeta>> Packed<T> {
    /// Packs an object; `Err` says why it cannot be.
    pub(crate) fn new(object: &T) -> Result<Self, serde_json::Error> {
        let created = object.metadata().creation_timestamp.clone();
        Ok(Self { created, text: serde_json::to_string(object)?.into(), of: PhantomData })
    }
}

impl<T: DeserializeOwned> Packed<T> {
    /// The object.
    pub fn open(&self) -> Result<T, serde_json::Error> {
        serde_json::from_str(&self.text)
    }
}

impl<T: Resource + DeserializeOwned> Sourced<Packed<T>> {
    /// The same with the object itself; where that cannot be read, `None`, and a finding says so.
    pub(crate) fn opened(&self, findings: &mut Vec<Finding>) -> Option<Sourced<T>> {
        match self.object.open() {
            Ok(object) => Some(Sourced {
                object,
                namespace: self.namespace.clone(),
                name: self.name.clone(),
                file: self.file.clone(),
                lines: self.lines.clone(),
            }),
            Err(error) => {
                let text = format!("cannot be read again: {error}");
                findings.push(self.finding(
                    Severity::Error,
                    self.lines.object,
                    text,
                    "the object is left out",
                ));
                None
            }
        }
    }
}

impl<T: Resource> Object for Packed<T> {
    const KIND_NAME: &'static str = T::KIND;

    fn created(&self) -> Option<&Time> {
        self.created.as_ref()
    }
}

impl<T> Clone for Packed<T> {
    fn clone(&self) -> Self {
        Self { created: self.created.clone(), text: self.text.clone(), of: PhantomData }
    }
}

impl<T> PartialEq for Packed<T> {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl<T> fmt::Debug for Packed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;
    use k8s_openapi::api::core::v1::Service;

    #[test]
    fn what_is_packed_comes_out_again() {
        let objects = crate::source::objects(
            "apiVersion: v1\nkind: Service\n\
             metadata: {name: a, labels: {x: y}, creationTimestamp: \"2024-01-01T00:00:00Z\"}\n\
             spec: {clusterIP: 10.96.0.1, ports: [{port: 80, targetPort: web}]}\n",
        );
        let source = &objects.services[0];
        let service = source.opened(&mut Vec::new()).unwrap();
        assert_eq!(service.object.spec.as_ref().unwrap().cluster_ip.as_deref(), Some("10.96.0.1"));
        assert_eq!(source.seniority(), service.seniority());
        assert_eq!((source.key(), source.label()), (service.key(), service.label()));
        assert_eq!(Packed::new(&service.object).unwrap(), source.object);
    }

    #[test]
    fn what_cannot_be_read_again_is_a_finding() {
        let objects = crate::source::objects("apiVersion: v1\nkind: Service\nmetadata: {name: a}\n");
        let mut source = objects.services[0].clone();
        source.object = Packed::<Service> { text: "{".into(), ..source.object };
        let mut findings = Vec::new();
        assert!(source.opened(&mut findings).is_none());
        assert!(findings[0].text.contains("cannot be read again"), "{findings:?}");
    }
}
