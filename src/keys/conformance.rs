//! The suite that every [`Signer`] passes; each adapter's own tests call it.

use super::Signer;
use crate::x509::{SignatureAlgorithm, SubjectKey};

/// Holds the contract of [`Signer`] against one value that should sign with `expected`.
pub(crate) async fn check(signer: &dyn Signer, expected: SignatureAlgorithm) {
    assert_eq!(signer.algorithm(), expected);
    let spki = signer.spki_der().to_vec();
    let key = SubjectKey::from_spki(spki.clone()).expect("the public half is a SubjectPublicKeyInfo that we issue for");
    assert_eq!(key.algorithm().signature(), expected);

    signs_exactly_what_is_given(signer, &key).await;
    signs_many_at_once(signer, &key).await;
    a_dropped_call_leaves_nothing(signer, &key).await;

    assert_eq!(signer.spki_der(), spki, "the key stays the same");
    let shown = format!("{signer:?}");
    assert!(shown.len() < 100, "Debug shows too much: {shown}");
}

async fn signs_exactly_what_is_given(signer: &dyn Signer, key: &SubjectKey) {
    for message in [&b""[..], b"one", &[0xa5; 70_000]] {
        let signature = signer.sign(message).await.unwrap();
        assert!(signer.algorithm().has_form(&signature));
        key.verify(signer.algorithm(), message, &signature).unwrap();
        let other = [message, b"x"].concat();
        key.verify(signer.algorithm(), &other, &signature).unwrap_err();
    }
}

async fn signs_many_at_once(signer: &dyn Signer, key: &SubjectKey) {
    let messages: Vec<Vec<u8>> = (0_u8..8).map(|number| vec![number; 500]).collect();
    let signatures = futures::future::join_all(messages.iter().map(|message| signer.sign(message))).await;
    for (message, signature) in messages.iter().zip(signatures) {
        key.verify(signer.algorithm(), message, &signature.unwrap()).unwrap();
    }
}

async fn a_dropped_call_leaves_nothing(signer: &dyn Signer, key: &SubjectKey) {
    drop(signer.sign(b"dropped"));
    let signature = signer.sign(b"kept").await.unwrap();
    key.verify(signer.algorithm(), b"kept", &signature).unwrap();
}
