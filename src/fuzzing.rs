//! Every parser of foreign bytes, each as one function from bytes to nothing: what the fuzz targets of `fuzz/` call, and what
//! the tests replay over the corpora.
//!
//! A target never panics, whatever the bytes are, and asserts what is always true of what the parser accepted: mostly that it
//! can be written again and means the same. Nothing else calls this module.

use std::path::Path;

use prost::Message;

use crate::api::sds;
use crate::attest::unix_peer;
use crate::audit::event::Event;
use crate::audit::ledger::{Position, TileName, VerifierKey, frame, tiles};
use crate::cli::doctor;
use crate::config::Settings;
use crate::config::files::policy_of_text;
use crate::identity::{SpiffeId, TrustDomain};
use crate::proto::chancery::admin::v1 as admin;
use crate::x509::chain::Issuer;
use crate::x509::crl::Crl;
use crate::x509::svid::Svid;
use crate::x509::{Serial, csr, pem};

/// A target's name, which is that of its folder below `fuzz/corpus`, and what it does with bytes.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: &[Target] = &[
    ("admin", admin_requests),
    ("certificate", certificate),
    ("checkpoint", checkpoint),
    ("configuration", configuration),
    ("crl", crl),
    ("csr", certificate_request),
    ("discovery", discovery),
    ("envoy", envoy),
    ("event", event),
    ("identity", identity),
    ("journal", journal),
    ("pem", pem_blocks),
    ("policy", policy),
    ("proc", proc_files),
    ("tiles", tile),
];

/// Runs the target of that name.
///
/// # Panics
/// When there is none, and when what it found is a defect.
pub fn run(name: &str, bytes: &[u8]) {
    let target = TARGETS.iter().find(|(known, _)| *known == name);
    target.map(|(_, target)| target(bytes)).unwrap_or_else(|| panic!("no target is named {name}"));
}

fn domain() -> TrustDomain {
    TrustDomain::parse("example.org").expect("it is one")
}

/// What operators' clients send.
fn admin_requests(bytes: &[u8]) {
    if let Ok(request) = admin::RevokeCertificatesRequest::decode(bytes) {
        let again = admin::RevokeCertificatesRequest::decode(request.encode_to_vec().as_slice());
        assert_eq!(again.as_ref(), Ok(&request));
    }
    if let Ok(request) = admin::IssueCertificateRequest::decode(bytes) {
        certificate_request(&request.csr);
    }
    if let Ok(text) = str::from_utf8(bytes) {
        if let Ok(serial) = Serial::from_hex(text) {
            assert_eq!(Serial::from_hex(&serial.hex()).map(|again| again.hex()), Ok(serial.hex()));
        }
        if let Ok(position) = text.parse::<Position>() {
            assert_eq!(position.to_string(), text);
        }
    }
}

/// Certificates that clients show, and those of existing authorities.
fn certificate(bytes: &[u8]) {
    if let Ok(issuer) = Issuer::from_der(bytes.to_vec(), Vec::new()) {
        assert_eq!(issuer.der(), bytes);
        assert!(!issuer.key_id().is_empty());
    }
    if let Ok(svid) = Svid::read(bytes, &domain()) {
        assert!(svid.identity.member_of(&domain()));
    }
}

/// Signed tree heads and verifier keys of elsewhere.
fn checkpoint(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    let (key, note) = text.split_once('\n').unwrap_or((text, ""));
    if let Ok(key) = VerifierKey::parse(key)
        && let Ok(checkpoint) = key.verify(note)
    {
        assert!(note.starts_with(&checkpoint.note_text()));
    }
}

/// Configuration files.
fn configuration(bytes: &[u8]) {
    if let Ok(text) = str::from_utf8(bytes)
        && let Err(mistakes) = Settings::parse(text, "chancery.toml", Path::new("/"))
    {
        assert!(!mistakes.list().is_empty() && !mistakes.to_string().is_empty());
    }
}

/// CRLs of elsewhere, and those that a run left behind.
fn crl(bytes: &[u8]) {
    for crl in Crl::parse(bytes.to_vec()).into_iter().chain(Crl::parse_pem(bytes).unwrap_or_default()) {
        let again = Crl::parse_pem(&crl.pem()).expect("what was read can be read again");
        assert_eq!(again.first().map(Crl::der), Some(crl.der()));
        assert_eq!(crl.facts().entries, crl.entries().len() as u64);
    }
}

/// Certificate signing requests.
fn certificate_request(bytes: &[u8]) {
    if let Ok(csr) = csr::parse(bytes) {
        let key = csr.spki_der().to_vec();
        assert_eq!(csr.into_key().spki_der(), key);
    }
}

/// What proxies say: the first byte chooses between state of the world and delta.
fn discovery(bytes: &[u8]) {
    if let [dialect, message @ ..] = bytes {
        sds::read(message, dialect % 2 == 1);
    }
}

/// Envoy configurations that the doctor looks at.
fn envoy(bytes: &[u8]) {
    if let Ok(text) = str::from_utf8(bytes) {
        doctor::look_at_envoy(text);
    }
}

/// Records of the ledger.
fn event(bytes: &[u8]) {
    // Not the same bytes: a later version may have written fields that this one passes over.
    if let Ok(event) = Event::from_leaf(bytes)
        && let Ok(leaf) = event.to_leaf()
    {
        assert_eq!(Event::from_leaf(&leaf).ok(), Some(event));
    }
}

/// SPIFFE IDs and trust domains.
fn identity(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    if let Ok(domain) = TrustDomain::parse(text) {
        assert_eq!(TrustDomain::parse(domain.as_str()), Ok(domain));
    }
    if let Ok(id) = SpiffeId::parse(text) {
        assert_eq!(id.as_str(), text);
        assert!(text.len() <= 2_048 && id.member_of(&id.trust_domain()));
        if !id.path().is_empty() {
            assert_eq!(id.trust_domain().with_path(id.path()), Ok(id));
        }
    }
}

/// Segments of the journal.
fn journal(bytes: &[u8]) {
    if let Ok(found) = frame::decode(bytes) {
        // The padding behind the last frame may be cut off.
        assert!(found.length > 0 && found.length < bytes.len() + frame::BLOCK);
    }
    let _ = frame::find_later(bytes, 0, 1, 0);
}

/// PEM files.
fn pem_blocks(bytes: &[u8]) {
    let Ok(blocks) = pem::decode(bytes) else { return };
    let mut text = Vec::new();
    for block in &blocks {
        pem::encode(&mut text, &block.label, &block.der);
    }
    if !blocks.is_empty() {
        let again = pem::decode(&text).expect("what was written can be read");
        assert_eq!(again.len(), blocks.len());
        assert!(again.iter().zip(&blocks).all(|(a, b)| a.label == b.label && a.der == b.der));
    }
}

/// Policy files.
fn policy(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    match policy_of_text(Path::new("policy.toml"), text, &domain(), None) {
        Ok(policy) => assert_eq!(&**policy.text(), text),
        Err(mistakes) => assert!(!mistakes.list().is_empty() && !mistakes.to_string().is_empty()),
    }
}

/// What the kernel says of a process; its name is the process's own choice.
fn proc_files(bytes: &[u8]) {
    unix_peer::read_proc(bytes);
}

/// Entry bundles and the names of tiles.
fn tile(bytes: &[u8]) {
    if let Some(entries) = tiles::split_entries(bytes) {
        let length: usize = entries.iter().map(|entry| entry.len() + 2).sum();
        assert_eq!(length, bytes.len());
    }
    if let Ok(path) = str::from_utf8(bytes)
        && let Some(name) = TileName::parse(path)
    {
        assert_eq!(name.path(), path);
    }
}

#[cfg(test)]
mod tests;
