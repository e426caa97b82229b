//! What the machine does by itself: the cryptography, the disk and the hash that chancery's figures are held against.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey,
};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

use super::report::MachineOutput;
use super::{Failure, middle_and_tail};
use crate::clock::Clock;

/// Bytes that are hashed at a time.
const HASHED: usize = 1 << 20;

/// What one synced write holds, and the file that it goes round in.
const WRITE: usize = 4_096;
const FILE: usize = 4 << 20;

/// The machine's own limits.
#[derive(Debug)]
pub(super) struct Machine {
    pub(super) clock: Clock,
    pub(super) key_and_sign: Duration,
    pub(super) verify_and_sign: Duration,
    pub(super) fdatasync_us: f64,
    pub(super) sha256_mb_s: f64,
}

/// CPU time that this process has used.
pub(super) fn cpu() -> Result<Duration, Failure> {
    let usage = getrusage(UsageWho::RUSAGE_SELF).map_err(|error| Failure::failed(error.to_string()))?;
    let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Ok(Duration::from_micros(u64::try_from(micros).unwrap_or(0)))
}

/// CPU time of one turn of `work`, which is done again and again for `span`.
fn each(clock: &Clock, span: Duration, mut work: impl FnMut() -> Result<(), Failure>) -> Result<Duration, Failure> {
    let (begin, used) = (clock.monotonic(), cpu()?);
    let mut turns = 0;
    while turns == 0 || clock.monotonic() - begin < span {
        for _ in 0..16 {
            work()?;
        }
        turns += 16;
    }
    Ok((cpu()? - used) / turns)
}

impl Machine {
    pub(super) fn measure(below: &Path, clock: &Clock, span: Duration) -> Result<Self, Failure> {
        let span = span / 4;
        let broken = |_| Failure::failed("the cryptographic library failed");
        let random = SystemRandom::new();
        let algorithm = &ECDSA_P256_SHA256_ASN1_SIGNING;
        let message = [7; 600];
        let key = EcdsaKeyPair::generate(algorithm).map_err(broken)?;
        let key_and_sign = each(clock, span, || {
            EcdsaKeyPair::generate(algorithm).map_err(broken)?;
            key.sign(&random, &message).map_err(broken).map(drop)
        })?;
        let signature = key.sign(&random, &message).map_err(broken)?;
        let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key.public_key().as_ref().to_vec());
        let verify_and_sign = each(clock, span, || {
            public.verify(&message, signature.as_ref()).map_err(broken)?;
            key.sign(&random, &message).map_err(broken).map(drop)
        })?;
        let bytes = vec![7; HASHED];
        let hash = each(clock, span, || {
            std::hint::black_box(digest(&SHA256, &bytes));
            Ok(())
        })?;
        let fdatasync_us = synced_write(below, clock, span)?;
        let sha256_mb_s = 1.0 / hash.as_secs_f64() * (HASHED as f64 / 1e6);
        Ok(Self { clock: clock.clone(), key_and_sign, verify_and_sign, fdatasync_us, sha256_mb_s })
    }

    pub(super) fn output(&self) -> MachineOutput {
        MachineOutput {
            cores: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            key_and_sign_us: self.key_and_sign.as_secs_f64() * 1e6,
            verify_and_sign_us: self.verify_and_sign.as_secs_f64() * 1e6,
            fdatasync_us: self.fdatasync_us,
            sha256_mb_s: self.sha256_mb_s,
        }
    }
}

/// The middle time of a small write into a preallocated file and its `fdatasync`: what the ledger's commit is at least.
fn synced_write(below: &Path, clock: &Clock, span: Duration) -> Result<f64, Failure> {
    let path = below.join("fdatasync");
    let file = OpenOptions::new().create_new(true).write(true).open(path)?;
    file.write_all_at(&vec![0; FILE], 0)?;
    file.sync_all()?;
    let mut times = Vec::new();
    let begin = clock.monotonic();
    while times.len() < 16 || clock.monotonic() - begin < span {
        let offset = times.len() * WRITE % FILE;
        let start = clock.monotonic();
        file.write_all_at(&[1; WRITE], offset as u64)?;
        file.sync_data()?;
        times.push(clock.monotonic() - start);
    }
    Ok(middle_and_tail(&mut times).0)
}
