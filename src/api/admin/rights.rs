//! Which role each call of the admin API takes: one table, from which docs/admin.md is written.
//!
//! Each call has a request message of its own, and [`Ask`] is implemented for all of them by the table below: a call
//! without a line in it does not compile. `acts` asks it before anything else is done.

use super::roles::Role;
use crate::proto::chancery::admin::v1 as pb;

/// One call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Right {
    /// Its name in the service.
    pub rpc: &'static str,
    /// What a record says was tried.
    pub what: &'static str,
    /// The least role that may.
    pub least: Role,
    /// For people: the commands that use it, and what takes more.
    pub note: &'static str,
}

/// A request, and whom it takes.
pub(super) trait Ask {
    /// Its line in the table.
    const RIGHT: Right;

    /// The least role that may ask this very thing.
    fn least(&self) -> Role;
}

macro_rules! rights {
    ($($request:ident, $rpc:literal, $what:literal, $least:ident $(or $more:path)?, $note:literal;)*) => {
        /// Every call with its least role, in the order of the service.
        pub const RIGHTS: &[Right] =
            &[$(Right { rpc: $rpc, what: $what, least: Role::$least, note: $note }),*];

        $(impl Ask for pb::$request {
            const RIGHT: Right = Right { rpc: $rpc, what: $what, least: Role::$least, note: $note };

            fn least(&self) -> Role {
                let least = Role::$least;
                $(let least = least.max($more(self));)?
                least
            }
        })*
    };
}

rights! {
    GetStatusRequest, "GetStatus", "status", Reader, "`status`, `doctor`";
    ListCertificatesRequest, "ListCertificates", "cert.list", Reader, "`cert list`";
    GetCertificateRequest, "GetCertificate", "cert.show", Reader, "`cert show`; operators' names from operator on";
    IssueCertificateRequest, "IssueCertificate", "cert.issue", Operator,
        "`cert issue`; the policy decides which identity";
    ListAuthoritiesRequest, "ListAuthorities", "ca.show", Reader, "`ca show`";
    GetBundleRequest, "GetBundle", "bundle.show", Reader, "`bundle show`";
    GetPolicyRequest, "GetPolicy", "policy.show", Reader, "`policy show`";
    ExplainPolicyRequest, "ExplainPolicy", "policy.explain", Reader, "`policy explain`";
    ReadAuditRequest, "ReadAudit", "audit.read", Reader,
        "`audit tail`, `show`, `export`; operators' names from operator on";
    ProveRecordRequest, "ProveRecord", "audit.prove", Reader, "`audit prove`; operators' names from operator on";
    RotateCertificatesRequest, "RotateCertificates", "cert.rotate", Operator, "`cert rotate`";
    RevokeCertificatesRequest, "RevokeCertificates", "cert.revoke", Operator or of_revocation,
        "`cert revoke --serial`, `--identity`; admin for `--prefix`, `--issuer`, `--all`";
    ReleaseIdentityRequest, "ReleaseIdentity", "cert.release", Operator or of_release,
        "`cert release`; admin for a prefix";
    ListDeniesRequest, "ListDenies", "cert.denied", Reader, "`cert list --denied`";
    ListCrlsRequest, "ListCrls", "ca.crls", Reader, "`ca show`";
    DiffPolicyRequest, "DiffPolicy", "policy.diff", Reader, "`policy diff`";
    ApplyPolicyRequest, "ApplyPolicy", "policy.apply", Admin, "`policy apply`";
    ReloadRequest, "Reload", "reload", Admin, "reads policy and configuration again, as SIGHUP does";
    RecordVerificationRequest, "RecordVerification", "audit.verify", Admin,
        "puts the result of `audit verify` on record";
    RotateAuthorityRequest, "RotateAuthority", "ca.rotate", Admin, "`ca rotate`";
    TaintAuthorityRequest, "TaintAuthority", "ca.taint", Admin, "`ca taint`";
    RetireAuthorityRequest, "RetireAuthority", "ca.retire", Admin, "`ca retire`";
    ActivateAuthorityRequest, "ActivateAuthority", "ca.activate", Admin, "`ca activate`";
}

/// What revokes more than one identity takes an admin.
fn of_revocation(ask: &pb::RevokeCertificatesRequest) -> Role {
    let many = |chosen: &pb::Selection| chosen.all || !chosen.prefix.is_empty() || !chosen.issuer.is_empty();
    if ask.selection.as_ref().is_some_and(many) { Role::Admin } else { Role::Operator }
}

/// What it takes an admin to deny takes an admin to release.
fn of_release(ask: &pb::ReleaseIdentityRequest) -> Role {
    if ask.pattern.ends_with('*') { Role::Admin } else { Role::Operator }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::ADMIN_DESCRIPTORS;

    /// The calls of the service as `proto/` has them.
    fn calls() -> Vec<String> {
        let set = <prost_types::FileDescriptorSet as prost::Message>::decode(ADMIN_DESCRIPTORS).unwrap();
        let services = set.file.into_iter().flat_map(|file| file.service);
        services.flat_map(|service| service.method).map(|method| method.name().to_owned()).collect()
    }

    #[test]
    fn every_call_has_its_role() {
        assert_eq!(RIGHTS.iter().map(|right| right.rpc).collect::<Vec<_>>(), calls());
    }

    #[test]
    fn the_table_is_documented() {
        let row = |right: &Right| format!("| `{}` | {} | {} |\n", right.rpc, right.least, right.note);
        let table: String = RIGHTS.iter().map(row).collect();
        let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/admin.md")).unwrap();
        assert!(page.contains(&table), "docs/admin.md must hold these lines:\n{table}");
    }

    #[test]
    fn what_reaches_many_takes_an_admin() {
        let revoke = |selection| pb::RevokeCertificatesRequest { selection: Some(selection), ..Default::default() };
        let one = || pb::Selection { identity: "spiffe://example.org/a".into(), ..Default::default() };
        let serial = pb::Selection { serial: "5e".into(), ..Default::default() };
        for (selection, expected) in [
            (one(), Role::Operator),
            (serial, Role::Operator),
            (pb::Selection::default(), Role::Operator),
            (pb::Selection { all: true, ..one() }, Role::Admin),
            (pb::Selection { prefix: "spiffe://example.org/".into(), ..Default::default() }, Role::Admin),
            (pb::Selection { issuer: "issuing 3".into(), ..Default::default() }, Role::Admin),
        ] {
            assert_eq!(revoke(selection.clone()).least(), expected, "{selection:?}");
        }
        let release = |pattern: &str| pb::ReleaseIdentityRequest { pattern: pattern.into(), ..Default::default() };
        assert_eq!(release("spiffe://example.org/a").least(), Role::Operator);
        assert_eq!(release("spiffe://example.org/a/*").least(), Role::Admin);
    }
}
