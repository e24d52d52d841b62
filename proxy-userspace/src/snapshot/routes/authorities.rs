//! Certificates of authorities that objects refer to.

use crate::{
    snapshot::BuildOptions,
    source::{Objects, config_map::AUTHORITIES, finding::quoted, store::Key},
    tls::store,
};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};

/// Bytes of one ConfigMap's certificates.
const MAX_BYTES: usize = 1 << 20;

/// Why a reference leads to no certificate.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Useless {
    /// It is to an object of another kind.
    Kind(String),
    /// There is no such object, or it has no certificates.
    Object(String),
}

impl Useless {
    pub(super) fn text(&self) -> &str {
        let (Self::Kind(text) | Self::Object(text)) = self;
        text
    }
}

/// Where a reference to an object of `namespace` leads.
pub(super) fn named((group, kind, name): (&str, &str, &str), namespace: &str) -> Result<Key, Useless> {
    if !(group.is_empty() && kind == "ConfigMap") {
        let text = format!("{} is no kind of certificates: a ConfigMap is", quoted(kind));
        return Err(Useless::Kind(text));
    }
    Ok(Key::new(namespace, name))
}

/// The certificates of a ConfigMap, which is followed from now on.
pub(super) fn of_config_map(
    key: &Key,
    (objects, options): (&Objects, &BuildOptions),
) -> Result<Vec<CertificateDer<'static>>, Useless> {
    options.keyring.want_authorities(key);
    let Some(map) = objects.config_maps.get(key) else {
        return Err(Useless::Object(format!("there is no ConfigMap {key}")));
    };
    let Some(text) = map.object.authorities() else {
        return Err(Useless::Object(format!("ConfigMap {key} has no {AUTHORITIES}")));
    };
    let bad =
        |why: String| Useless::Object(format!("{AUTHORITIES} of ConfigMap {key} cannot be read: {why}"));
    if text.len() > MAX_BYTES {
        return Err(bad(format!("{} bytes are more than {MAX_BYTES}", text.len())));
    }
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    let read = read.map_err(|error| bad(error.to_string()))?;
    if read.is_empty() {
        return Err(bad("there is no certificate in it".to_owned()));
    }
    store(&read).map_err(|error| bad(error.to_string()))?;
    Ok(read)
}
