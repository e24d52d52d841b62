//! Which ports an entry of one of Cilium's policies names, and what it says about them.

use super::{super::network_policy::is_port_name, Reader};
use crate::{
    policy::access::{Action, Ports, Span, Transport, Transports},
    source::{
        cilium::{PortProtocol, PortRule},
        finding::quoted,
    },
};

/// Ports of one item of `toPorts`: as many as Cilium takes.
const MAX_PORTS: usize = 40;

/// Every port of every protocol.
pub(super) fn all() -> Ports {
    Ports { transports: Transports::ALL, span: Span::ALL }
}

impl Reader<'_> {
    /// One item of `toPorts`: its ports, and what is done about them.
    pub(super) fn port_rule(
        &mut self,
        path: &str,
        name: &str,
        entry: &PortRule,
        deny: bool,
    ) -> (Vec<Ports>, Action) {
        if entry.ports.is_empty() {
            self.fault(&format!("{path}.ports"), "is missing or empty", "name the ports");
        }
        if entry.ports.len() > MAX_PORTS {
            let text = format!("{} ports are more than {MAX_PORTS}", entry.ports.len());
            self.fault(&format!("{path}.ports"), text, "make it two entries");
        }
        let with_http = entry.rules.is_some();
        let ports = entry.ports.iter().enumerate();
        let ports = ports
            .filter_map(|(index, one)| self.ports(&format!("{path}.ports[{index}]"), one, with_http))
            .collect();
        let action = match &entry.rules {
            None if deny => Action::Deny,
            None => Action::Allow,
            Some(_) if deny => {
                self.fault(&format!("{path}.rules"), "cannot be denied by", "deny the port");
                Action::Deny
            }
            Some(rules) => Action::AllowHttp(self.http_rules(path, name, rules)),
        };
        (ports, action)
    }

    fn ports(&mut self, path: &str, one: &PortProtocol, with_http: bool) -> Option<Ports> {
        let transports = match (one.protocol.as_deref().unwrap_or("ANY"), with_http) {
            ("TCP", _) | ("ANY", true) => Transports::only(Transport::Tcp),
            ("ANY", false) => Transports::ALL,
            ("UDP", false) => Transports::only(Transport::Udp),
            ("SCTP", false) => Transports::only(Transport::Sctp),
            (other, _) => {
                let text = match other {
                    "UDP" | "SCTP" => format!("{} carries no HTTP that Weir decides about", quoted(other)),
                    _ => format!("{} is unknown", quoted(other)),
                };
                self.fault(&format!("{path}.protocol"), text, "TCP or ANY; UDP or SCTP without rules");
                return None;
            }
        };
        let span = self.span(path, one)?;
        if with_http && span == Span::ALL {
            self.fault(&format!("{path}.port"), "every port is too many for HTTP rules", "name the ports");
        }
        Some(Ports { transports, span })
    }

    fn span(&mut self, path: &str, one: &PortProtocol) -> Option<Span> {
        let last = one.end_port.filter(|last| *last != 0);
        let name = one.port.to_ascii_lowercase();
        let number = Some(&one.port).filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
        match (number.and_then(|text| text.parse::<u16>().ok()), last) {
            (Some(0), None) => Some(Span::ALL),
            (Some(first), None) => Some(Span::Numbers(first, first)),
            (Some(first), Some(last)) => match u16::try_from(last).ok().filter(|last| *last >= first) {
                Some(last) => Some(Span::Numbers(first, last)),
                None => {
                    let text = format!("{last} does not follow {first}");
                    self.fault(&format!("{path}.endPort"), text, "1 to 65535, and not below port");
                    None
                }
            },
            (None, Some(_)) => {
                self.fault(&format!("{path}.endPort"), "needs a port that is a number", "");
                None
            }
            (None, None) if is_port_name(&name) => Some(Span::Named(name.into())),
            (None, None) => {
                let text = format!("{} is not a port number, nor a port's name", quoted(&one.port));
                self.fault(
                    &format!("{path}.port"),
                    text,
                    "1 to 65535, by number, or a container port's name",
                );
                None
            }
        }
    }
}
