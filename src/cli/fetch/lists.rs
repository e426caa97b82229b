//! Whether revocation lists belong to the roots that they came with.
//!
//! A set whose lists don't fit would make every handshake of its user fail, so it is refused as a whole. Times are not
//! looked at: an old list that comes with new roots is still the best there is.

use x509_parser::error::X509Error;
use x509_parser::pem::Pem;
use x509_parser::prelude::{
    CertificateRevocationList, FromDer, ParsedExtension, SubjectPublicKeyInfo, X509Certificate, X509Extension,
};

use super::set::SetError;
use crate::x509::crl::Scope;

/// The label of a revocation list.
const LABEL: &str = "X509 CRL";

/// That `lists` are revocation lists, that those of a root in `bundle` carry its signature, and that no root lacks its
/// own: OpenSSL and Envoy refuse everyone below such a root, unless they were told to want the leaf's alone (`scope`). None
/// at all is fine: then nobody looks.
pub(super) fn check_lists(lists: &[u8], bundle: &[u8], scope: Scope) -> Result<(), SetError> {
    if lists.is_empty() {
        return Ok(());
    }
    let lists = pems(lists, "revocation list")?;
    let parsed: Result<Vec<CertificateRevocationList<'_>>, SetError> = lists
        .iter()
        .map(|pem| match CertificateRevocationList::from_der(&pem.contents) {
            Ok(([], list)) if pem.label == LABEL => Ok(list),
            Ok(_) | Err(_) => Err(SetError::NotPem("revocation list")),
        })
        .collect();
    let parsed = parsed?;
    for root in &pems(bundle, "bundle")? {
        let Ok((_, root)) = X509Certificate::from_der(&root.contents) else { continue };
        let mut own = parsed.iter().filter(|list| is_of(list, &root)).peekable();
        if own.peek().is_none() && scope == Scope::WholeChain {
            return Err(SetError::NoList(root.subject().to_string()));
        }
        if !own.all(|list| is_signed(list, root.public_key())) {
            return Err(SetError::ListSignature(root.subject().to_string()));
        }
    }
    Ok(())
}

fn pems(text: &[u8], what: &'static str) -> Result<Vec<Pem>, SetError> {
    Pem::iter_from_buffer(text).collect::<Result<_, _>>().map_err(|_| SetError::NotPem(what))
}

/// By name, and by key where both say one: two roots may bear one name.
fn is_of(list: &CertificateRevocationList<'_>, root: &X509Certificate<'_>) -> bool {
    let keys = (key_id(list.extensions()), key_id(root.extensions()));
    let same_key = if let (Some(list), Some(root)) = keys { list == root } else { true };
    same_key && list.issuer().as_raw() == root.subject().as_raw()
}

/// The authority's key id of a list, the own one of a certificate.
fn key_id<'a>(extensions: &'a [X509Extension<'a>]) -> Option<&'a [u8]> {
    let (mut own, mut authority) = (None, None);
    for extension in extensions {
        if let ParsedExtension::SubjectKeyIdentifier(id) = extension.parsed_extension() {
            own = Some(id.0);
        } else if let ParsedExtension::AuthorityKeyIdentifier(id) = extension.parsed_extension() {
            authority = id.key_identifier.as_ref().map(|id| id.0);
        }
    }
    own.or(authority)
}

fn is_signed(list: &CertificateRevocationList<'_>, key: &SubjectPublicKeyInfo<'_>) -> bool {
    match list.verify_signature(key) {
        Ok(()) => true,
        // A root with a key of a new kind is its users' matter: whether they can check it, they know themselves.
        Err(error) => error == X509Error::SignatureUnsupportedAlgorithm,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::tls::tests::Authority;

    #[test]
    fn lists_must_belong_to_the_roots() {
        let (one, two, other) = (Authority::named("one"), Authority::named("two"), Authority::named("one"));
        let (both, list) = (one.pem() + &two.pem(), |authority: &Authority| authority.list(&[3]));
        let check = |lists: &str, bundle: &str| check_lists(lists.as_bytes(), bundle.as_bytes(), Scope::WholeChain);
        assert_eq!(check("", &both), Ok(()));
        assert_eq!(check(&list(&one), &one.pem()), Ok(()));
        // That of an issuing CA, whose certificate is not in the bundle.
        assert_eq!(check(&(list(&one) + &list(&two)), &one.pem()), Ok(()));
        assert_eq!(check(&(list(&one) + &list(&two)), &both), Ok(()));
        assert_eq!(check(&list(&one), &both), Err(SetError::NoList("CN=two".to_owned())));
        assert_eq!(check_lists(list(&one).as_bytes(), both.as_bytes(), Scope::LeafOnly), Ok(()));
        // The same name, another key.
        assert_eq!(check(&list(&other), &one.pem()), Err(SetError::NoList("CN=one".to_owned())));
        assert_eq!(check(&one.pem(), &one.pem()), Err(SetError::NotPem("revocation list")));

        let mut forged = pems(list(&one).as_bytes(), "").unwrap().remove(0).contents;
        let last = forged.len() - 1;
        forged[last] ^= 1;
        let mut pem = Vec::new();
        crate::x509::pem::encode(&mut pem, LABEL, &forged);
        let said = check_lists(&pem, one.pem().as_bytes(), Scope::LeafOnly);
        assert_eq!(said, Err(SetError::ListSignature("CN=one".to_owned())));
    }
}
