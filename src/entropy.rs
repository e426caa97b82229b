//! The one place that takes random bytes.
//!
//! Everything unpredictable (serials, salts, jitter, nonces) comes from here, so that a simulation can seed it. Key
//! generation does not: private keys always come from the cryptographic library's own generator.

use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::digest;

/// A handle on randomness; cheap to clone.
#[derive(Clone)]
pub struct Entropy(Arc<Source>);

enum Source {
    System,
    Seeded(Mutex<(u64, u64)>),
}

impl std::fmt::Debug for Entropy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Entropy")
    }
}

impl Entropy {
    /// The system's cryptographic generator.
    #[must_use]
    pub fn system() -> Self {
        Self(Arc::new(Source::System))
    }

    /// The same bytes for the same seed: for simulations and golden files, never for a server.
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        Self(Arc::new(Source::Seeded(Mutex::new((seed, 0)))))
    }

    /// `N` random bytes.
    #[must_use]
    pub fn bytes<const N: usize>(&self) -> [u8; N] {
        let mut out = [0; N];
        self.fill(&mut out);
        out
    }

    /// Fills `out`.
    pub fn fill(&self, out: &mut [u8]) {
        match &*self.0 {
            Source::System => {
                // The library's generator is seeded once from the kernel; it fails only when the process can't go on.
                aws_lc_rs::rand::fill(out).expect("the system's random generator answers");
            }
            Source::Seeded(state) => {
                let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
                for chunk in out.chunks_mut(digest::SHA256_OUTPUT_LEN) {
                    let mut input = state.0.to_be_bytes().to_vec();
                    input.extend(state.1.to_be_bytes());
                    state.1 += 1;
                    let block = digest::digest(&digest::SHA256, &input);
                    chunk.iter_mut().zip(block.as_ref()).for_each(|(to, from)| *to = *from);
                }
            }
        }
    }

    /// A number in `0.0..1.0`, for jitter.
    #[must_use]
    pub fn unit(&self) -> f64 {
        let bits = u64::from_be_bytes(self.bytes::<8>()) >> 11;
        #[expect(clippy::cast_precision_loss, reason = "53 bits are what a double holds")]
        let unit = bits as f64 / (1_u64 << 53) as f64;
        unit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_and_the_system_does_not() {
        assert_eq!(Entropy::seeded(7).bytes::<40>(), Entropy::seeded(7).bytes::<40>());
        assert_ne!(Entropy::seeded(7).bytes::<40>(), Entropy::seeded(8).bytes::<40>());
        assert_ne!(Entropy::system().bytes::<16>(), Entropy::system().bytes::<16>());
        let unit = Entropy::system().unit();
        assert!((0.0..1.0).contains(&unit), "{unit}");
    }
}
