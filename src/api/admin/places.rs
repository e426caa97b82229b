//! Places for connections to the admin API, shared by its listeners.
//!
//! Those who have a role and those who have none are counted apart, so that strangers, who are only told no, keep no
//! operator out; and no operator has more than its share, so that a reader keeps no admin out.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Connections of operators at once.
pub const MOST_CONNECTIONS: usize = 256;

/// Connections of one operator at once: of a uid, or of an identity on TCP.
pub const MOST_PER_OPERATOR: usize = 64;

/// Connections at once of peers that have no role and are only told so.
pub const MOST_STRANGERS: usize = 16;

/// All places; cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Places {
    operators: Arc<Semaphore>,
    strangers: Arc<Semaphore>,
    /// Connections of each operator, by account.
    each: Arc<Mutex<HashMap<String, usize>>>,
}

impl Places {
    pub(super) fn new() -> Self {
        Self {
            operators: Arc::new(Semaphore::new(MOST_CONNECTIONS)),
            strangers: Arc::new(Semaphore::new(MOST_STRANGERS)),
            each: Arc::default(),
        }
    }

    /// A place for one more connection of the operator `account`; `None` when all, or all of its own, are taken.
    pub(super) fn operator(&self, account: String) -> Option<Place> {
        let permit = Arc::clone(&self.operators).try_acquire_owned().ok()?;
        let mut each = self.lock();
        let count = each.entry(account.clone()).or_default();
        if *count >= MOST_PER_OPERATOR {
            return None;
        }
        *count += 1;
        drop(each);
        Some(Place { places: self.clone(), account: Some(account), _permit: permit })
    }

    /// A place for one more stranger; `None` when all are taken.
    pub(super) fn stranger(&self) -> Option<Place> {
        let permit = Arc::clone(&self.strangers).try_acquire_owned().ok()?;
        Some(Place { places: self.clone(), account: None, _permit: permit })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, usize>> {
        self.each.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One place, while it is taken.
pub(super) struct Place {
    places: Places,
    account: Option<String>,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(account) = &self.account else { return };
        let mut each = self.places.lock();
        if let Some(count) = each.get_mut(account) {
            *count -= 1;
            if *count == 0 {
                each.remove(account);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_operator_keeps_no_other_out() {
        let places = Places::new();
        let take = |account: &str| places.operator(account.to_owned());
        let held: Vec<_> = (0..MOST_PER_OPERATOR).map(|_| take("reader").expect("a place of its own")).collect();
        assert!(take("reader").is_none(), "it has its share");
        assert!(take("admin").is_some());
        let strangers: Vec<_> = (0..MOST_STRANGERS).map(|_| places.stranger().expect("a place")).collect();
        assert!(places.stranger().is_none() && take("admin").is_some());
        drop((held, strangers));
        assert!(take("reader").is_some() && places.stranger().is_some());
        assert!(places.lock().is_empty(), "nothing is left of who is gone");
    }
}
