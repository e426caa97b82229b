//! Every bundle that the server knows, as one value that changes whole.

use std::collections::BTreeMap;
use std::sync::Arc;

use aws_lc_rs::digest;

use crate::feed::names::SecretRef;
use crate::feed::payload::Payload;
use crate::identity::TrustDomain;
use crate::x509::crl::Scope;

/// The roots of one trust domain and the CRLs that go with them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustBundle {
    /// Whose.
    pub trust_domain: TrustDomain,
    /// PEM: the roots in a stable order.
    pub pem: Vec<u8>,
    /// PEM: the CRL of every authority, or nothing. Only some with [`Scope::LeafOnly`] alone: a verifier that has CRLs
    /// wants one of each CA of a chain.
    pub crl_pem: Vec<u8>,
    /// Of which CAs of a chain a CRL is wanted. With [`Scope::LeafOnly`] `crl_pem` may have only some.
    pub crl_scope: Scope,
    /// Derived from the content, so that it is equal after a restart.
    pub version: String,
    /// Key identifiers, hex, of the authorities that whoever holds it can verify a chain through: roots that are in it, and
    /// CAs below them, each with its CRL.
    pub covers: Arc<[String]>,
}

impl TrustBundle {
    /// Roots and CRLs as one text, for a validator that cannot be told to want the leaf's alone.
    fn with_crls(&self) -> Vec<u8> {
        match self.crl_scope {
            Scope::WholeChain => [self.pem.as_slice(), &self.crl_pem].concat(),
            Scope::LeafOnly => self.pem.clone(),
        }
    }
}

/// Every known bundle, encoded once for all streams.
#[derive(Debug, Default)]
pub struct Bundles {
    by_domain: BTreeMap<TrustDomain, (TrustBundle, Payload)>,
    all: Option<Payload>,
}

impl Bundles {
    /// These bundles with `bundle` added or replaced.
    #[must_use]
    pub(crate) fn with(&self, bundle: TrustBundle) -> Self {
        let mut by_domain = self.by_domain.clone();
        let payload = Payload::bundle(&bundle.version, &bundle.pem, &bundle.crl_pem, bundle.crl_scope);
        by_domain.insert(bundle.trust_domain.clone(), (bundle, payload));
        // The map is sorted, so equal content gives equal bytes and an equal version.
        let mut content = digest::Context::new(&digest::SHA256);
        for (bundle, _) in by_domain.values() {
            content.update(format!("{}\n{}\n", bundle.trust_domain, bundle.version).as_bytes());
        }
        let version = hex::encode(content.finish());
        let domains = by_domain.values().map(|(bundle, _)| (&bundle.trust_domain, bundle.with_crls()));
        let all = Some(Payload::spiffe_validator(&version, domains));
        Self { by_domain, all }
    }

    /// What to send for `wanted`; `None` while it is not known, and for what is no bundle.
    #[must_use]
    pub fn payload(&self, wanted: &SecretRef) -> Option<&Payload> {
        match wanted {
            SecretRef::Bundle(domain) => self.by_domain.get(domain).map(|(_, payload)| payload),
            SecretRef::AllBundles => self.all.as_ref(),
            SecretRef::Certificate(_) | SecretRef::Unknown => None,
        }
    }

    /// The versions that are sent for this domain now, alone and with all others.
    pub(crate) fn versions(&self, domain: &TrustDomain) -> Vec<String> {
        let own = self.by_domain.get(domain).map(|(_, payload)| payload);
        own.into_iter().chain(&self.all).map(|payload| payload.version.to_string()).collect()
    }

    /// The bundle of one domain.
    #[must_use]
    pub fn get(&self, domain: &TrustDomain) -> Option<&TrustBundle> {
        self.by_domain.get(domain).map(|(bundle, _)| bundle)
    }
}
