//! A client that has shown a certificate: who it says it is, and who vouches for that.

use super::Clients;
use parking_lot::Mutex;
use rustls_pki_types::CertificateDer;
use std::{
    fmt::{self, Write as _},
    sync::Arc,
};
use x509_parser::{
    certificate::X509Certificate,
    extensions::GeneralName,
    oid_registry::Oid,
    prelude::FromDer,
    x509::{AttributeTypeAndValue, X509Name},
};

/// See the module.
pub struct Peer {
    /// Its own certificate first.
    chain: Vec<CertificateDer<'static>>,
    /// The certificate's subject (RFC 4514).
    pub subject: Box<str>,
    /// URIs among the certificate's names, by commas; `None` where there are none.
    pub uris: Option<Box<str>>,
    /// An authority vouched for it in the handshake: without that the rest is nothing but a claim.
    pub verified: bool,
    /// What was found last: each request of a connection asks the same.
    asked: Mutex<(Arc<Clients>, bool)>,
}

/// The rest follows from these.
impl PartialEq for Peer {
    fn eq(&self, other: &Self) -> bool {
        self.chain == other.chain && self.verified == other.verified
    }
}

impl Eq for Peer {}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { subject, verified, .. } = self;
        write!(f, "Peer {{ {subject}, verified: {verified} }}")
    }
}

impl Peer {
    /// The client of a handshake that asked for this.
    pub(super) fn of(chain: &[CertificateDer<'_>], clients: &Arc<Clients>) -> Self {
        let chain: Vec<_> = chain.iter().map(|one| one.clone().into_owned()).collect();
        let read = chain.first().and_then(|own| X509Certificate::from_der(own).ok());
        let certificate = read.as_ref().map(|(_, certificate)| certificate);
        let subject = certificate.map(|one| subject(one.subject())).unwrap_or_default();
        let uris = certificate.and_then(uris);
        let verified = clients.vouch_for(&chain);
        Self {
            subject: subject.into(),
            uris,
            verified,
            asked: Mutex::new((Arc::clone(clients), verified)),
            chain,
        }
    }

    /// Whether these demands are met, whatever was demanded in the handshake.
    pub(super) fn is_vouched_for_by(&self, clients: &Arc<Clients>) -> bool {
        let mut asked = self.asked.lock();
        let (of, verdict) = &*asked;
        if !Arc::ptr_eq(of, clients) {
            let same = **of == **clients;
            let verdict = if same { *verdict } else { clients.vouch_for(&self.chain) };
            *asked = (Arc::clone(clients), verdict);
        }
        asked.1
    }
}

fn uris(certificate: &X509Certificate<'_>) -> Option<Box<str>> {
    let alternatives = certificate.subject_alternative_name().ok().flatten();
    let all = alternatives.iter().flat_map(|extension| &extension.value.general_names);
    let uris: Vec<_> =
        all.filter_map(|one| if let GeneralName::URI(uri) = one { Some(*uri) } else { None }).collect();
    (!uris.is_empty()).then(|| uris.join(",").into())
}

/// Types with a name of their own in strings (RFC 4514 section 3, and `emailAddress` as OpenSSL has it).
fn known(kind: &Oid<'_>) -> Option<&'static str> {
    use x509_parser::oid_registry as oid;
    let all = [
        (oid::OID_X509_COMMON_NAME, "CN"),
        (oid::OID_X509_LOCALITY_NAME, "L"),
        (oid::OID_X509_STATE_OR_PROVINCE_NAME, "ST"),
        (oid::OID_X509_ORGANIZATION_NAME, "O"),
        (oid::OID_X509_ORGANIZATIONAL_UNIT, "OU"),
        (oid::OID_X509_COUNTRY_NAME, "C"),
        (oid::OID_X509_STREET_ADDRESS, "STREET"),
        (oid::OID_DOMAIN_COMPONENT, "DC"),
        (oid::OID_PKCS9_EMAIL_ADDRESS, "emailAddress"),
    ];
    all.into_iter().find_map(|(one, name)| (one == *kind).then_some(name))
}

/// A name as text (RFC 4514): the last part first, and no value can be taken for two parts.
fn subject(name: &X509Name<'_>) -> String {
    let mut parts: Vec<_> = name.iter_rdn().collect();
    parts.reverse();
    let part = |attributes: Vec<String>| attributes.join("+");
    let texts = parts.into_iter().map(|one| part(one.iter().map(attribute).collect()));
    texts.collect::<Vec<_>>().join(",")
}

fn attribute(one: &AttributeTypeAndValue<'_>) -> String {
    let kind = known(one.attr_type());
    let name = kind.map_or_else(|| one.attr_type().to_id_string(), str::to_owned);
    match one.as_str() {
        Ok(value) => format!("{name}={}", escaped(value)),
        // Of another kind than text, or of an odd one: in hexadecimal (section 2.4).
        Err(_) => one.as_slice().iter().fold(format!("{name}=#"), |mut text, byte| {
            // Writing into a string does not fail.
            let _ = write!(text, "{byte:02x}");
            text
        }),
    }
}

/// Section 2.4: what has a meaning in a name is escaped.
fn escaped(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    let last = value.char_indices().next_back().map_or(0, |(at, _)| at);
    for (at, character) in value.char_indices() {
        let special = matches!(character, '"' | '+' | ',' | ';' | '<' | '>' | '\\')
            || (at == 0 && matches!(character, ' ' | '#'))
            || (at == last && character == ' ');
        match character {
            '\0' => text.push_str("\\00"),
            _ if special => text.extend(['\\', character]),
            _ => text.push(character),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::{testing::certificates::Authority, tls::clients::Mode};
    use rcgen::{DistinguishedName, DnType, SanType};

    fn demands(authorities: &[&Authority]) -> Arc<Clients> {
        let all = authorities.iter().map(|one| one.der().clone()).collect();
        Arc::new(Clients::new(all, Mode::Required).unwrap())
    }

    #[test]
    fn a_subject_is_written_so_that_no_value_looks_like_two_parts() {
        let authority = Authority::new();
        let pair = authority.pair_with(&[], |params| {
            let mut name = DistinguishedName::new();
            name.push(DnType::CountryName, "DE");
            name.push(DnType::OrganizationName, " Root, Inc. ");
            name.push(DnType::CommonName, "#a,O=Admin+B\\\"\u{e9}");
            name.push(DnType::CustomDnType(vec![1, 2, 3, 4]), "x");
            params.distinguished_name = name;
            let uri = |text: &str| SanType::URI(text.try_into().unwrap());
            params.subject_alt_names = vec![uri("spiffe://a/b"), uri("spiffe://a/c")];
        });
        let peer = Peer::of(&[pair.der()], &demands(&[&authority]));
        let expected = "1.2.3.4=x,CN=\\#a\\,O=Admin\\+B\\\\\\\"\u{e9},O=\\ Root\\, Inc.\\ ,C=DE";
        assert_eq!((&*peer.subject, peer.verified), (expected, true));
        assert_eq!(peer.uris.as_deref(), Some("spiffe://a/b,spiffe://a/c"));
    }

    #[test]
    fn what_was_proved_once_is_asked_anew_where_something_else_is_demanded() {
        let (own, other) = (Authority::new(), Authority::new());
        let peer = Peer::of(&[own.pair(&["client.test"]).der()], &demands(&[&own]));
        for (demands, admitted) in
            [(demands(&[&own]), true), (demands(&[&other]), false), (demands(&[&other, &own]), true)]
        {
            assert_eq!(peer.is_vouched_for_by(&demands), admitted);
            assert_eq!(peer.is_vouched_for_by(&demands), admitted, "and the same again");
        }
        assert_eq!(demands(&[&own, &other]), demands(&[&other, &own, &own]));
    }

    #[test]
    fn who_is_none_of_an_authoritys_or_out_of_time_is_not_verified() {
        let (own, other) = (Authority::new(), Authority::new());
        let verified =
            |pair: &crate::testing::certificates::Pair| Peer::of(&[pair.der()], &demands(&[&own])).verified;
        assert!(verified(&own.pair(&["client.test"])));
        assert!(!verified(&other.pair(&["client.test"])));
        assert!(!verified(&own.expired(&["client.test"])));
        let server_alone = own.pair_with(&["client.test"], |params| {
            params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
        });
        assert!(!verified(&server_alone), "it is for servers");
    }
}
