//! Policy files for tests: one rule is one identity for whoever connects to one socket.

use std::fmt::Write;

/// One rule: who connects to `socket` as anyone gets `identity`.
pub struct Rule {
    /// Its name.
    pub name: &'static str,
    /// The SDS socket that it matches.
    pub socket: &'static str,
    /// The user ids that it matches, as written in the file; all where absent.
    pub uid: Option<String>,
    /// The identity template.
    pub identity: &'static str,
    /// How long its certificates live, such as `6s`.
    pub lifetime: &'static str,
}

impl Rule {
    /// For this account on the socket of `up`.
    pub fn own(identity: &'static str, lifetime: &'static str) -> Self {
        Self { name: "own", socket: "sds", uid: Some(own_uid()), identity, lifetime }
    }

    /// For this account on a socket of that name.
    pub fn on(socket: &'static str, identity: &'static str, lifetime: &'static str) -> Self {
        Self { name: socket, socket, uid: Some(own_uid()), identity, lifetime }
    }
}

fn own_uid() -> String {
    nix::unistd::Uid::effective().to_string()
}

/// A policy file of these rules.
pub fn text(rules: &[Rule]) -> String {
    let mut text = String::new();
    for rule in rules {
        let uid = rule.uid.as_ref().map(|uid| format!(", uid = [{uid}]")).unwrap_or_default();
        let _ = write!(
            text,
            "[[rule]]\nname = \"{}\"\nmatch = {{ socket = \"{}\"{uid} }}\nmesh = \"envoy\"\nidentity = \"{}\"\n\
             lifetime = \"{}\"\n\n",
            rule.name, rule.socket, rule.identity, rule.lifetime
        );
    }
    text
}
