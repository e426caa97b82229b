//! Keys that a simulation makes from its seed and lets fail: only for tests, and only on the thread that asked for it.
//!
//! Ed25519 alone comes from the seed, because its signatures repeat as well. What a process does that has no such keys is
//! not changed in any way.

use std::cell::RefCell;

use futures::future::BoxFuture;

use super::KeyError;
use crate::entropy::Entropy;

/// What becomes of a signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SigningFault {
    /// The holder of the key says no.
    Failed,
    /// It signs, and nobody ever hears of it.
    Unheard,
}

/// What becomes of a key's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FileFault {
    /// It is not written.
    Failed,
    /// It is written, and the error says that it was not.
    Happened,
}

#[derive(Debug)]
struct Script {
    chance: Entropy,
    signing: Option<SigningFault>,
    file: Option<FileFault>,
    met: u64,
}

thread_local! {
    static SCRIPT: RefCell<Option<Script>> = const { RefCell::new(None) };
}

/// The keys of this thread, for as long as it lives.
#[derive(Debug)]
pub(crate) struct Keys(());

impl Keys {
    /// From now on this thread's keys come from `chance`.
    pub(crate) fn from(chance: Entropy) -> Self {
        SCRIPT.with_borrow_mut(|script| *script = Some(Script { chance, signing: None, file: None, met: 0 }));
        Self(())
    }

    /// Every signature meets this, until [`Keys::mend`].
    pub(crate) fn fail_signing(&self, fault: SigningFault) {
        change(|script| script.signing = Some(fault));
    }

    /// The next file of a key meets this.
    pub(crate) fn fail_next_file(&self, fault: FileFault) {
        change(|script| script.file = Some(fault));
    }

    /// Nothing fails any more.
    pub(crate) fn mend(&self) {
        change(|script| (script.signing, script.file) = (None, None));
    }

    /// Signs for somebody whose keys are not those that fail.
    pub(crate) fn undisturbed<T>(sign: impl FnOnce() -> T) -> T {
        let mut before = None;
        change(|script| before = script.signing.take());
        let signed = sign();
        change(|script| script.signing = before);
        signed
    }

    /// Whether signatures fail now.
    pub(crate) fn are_failing(&self) -> bool {
        SCRIPT.with_borrow(|script| script.as_ref().is_some_and(|script| script.signing.is_some()))
    }

    /// Faults that were met.
    pub(crate) fn met(&self) -> u64 {
        SCRIPT.with_borrow(|script| script.as_ref().map_or(0, |script| script.met))
    }

    /// An Ed25519 key, PKCS#8 version 1 (RFC 8410, section 7).
    pub(crate) fn pkcs8(chance: &Entropy) -> Vec<u8> {
        let head = [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];
        [head.as_slice(), &chance.bytes::<32>()].concat()
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        SCRIPT.with_borrow_mut(|script| *script = None);
    }
}

fn change(change: impl FnOnce(&mut Script)) {
    SCRIPT.with_borrow_mut(|script| {
        if let Some(script) = script {
            change(script);
        }
    });
}

/// The next Ed25519 key of this thread, where its keys come from a seed.
pub(super) fn next_pkcs8() -> Option<Vec<u8>> {
    SCRIPT.with_borrow(|script| script.as_ref().map(|script| Keys::pkcs8(&script.chance)))
}

/// The answer to a signature that fails.
pub(super) fn answer() -> Option<BoxFuture<'static, Result<Vec<u8>, KeyError>>> {
    let mut fault = None;
    change(|script| {
        fault = script.signing;
        script.met += u64::from(fault.is_some());
    });
    Some(match fault? {
        SigningFault::Failed => Box::pin(std::future::ready(Err(KeyError::Library { what: "sign, as planned" }))),
        SigningFault::Unheard => Box::pin(std::future::pending()),
    })
}

/// Writes a key's file, if that does not fail.
pub(super) fn written<E>(write: impl FnOnce() -> Result<(), E>, planned: impl FnOnce() -> E) -> Result<(), E> {
    let mut fault = None;
    change(|script| {
        fault = script.file.take();
        script.met += u64::from(fault.is_some());
    });
    match fault {
        None => write(),
        Some(FileFault::Failed) => Err(planned()),
        Some(FileFault::Happened) => write().and_then(|()| Err(planned())),
    }
}
