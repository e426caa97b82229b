//! What each account has open, across its connections: so that no caller can take all.
//!
//! An account's entry lives as long as one of its connections does. Streams are refused beyond their limit; the bytes of
//! requests that are not whole yet wait for room, because a node that restarts sends thousands of them at once and each
//! is read in no time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::api::sds::SdsLimits;

/// Every account with a connection.
#[derive(Debug)]
pub(super) struct Accounts {
    limits: Arc<SdsLimits>,
    open: Mutex<HashMap<String, Open>>,
}

#[derive(Debug)]
struct Open {
    connections: usize,
    shared: Arc<Account>,
}

/// What the connections of one account share.
#[derive(Debug)]
pub(super) struct Account {
    streams: Arc<Semaphore>,
    request_bytes: Arc<Semaphore>,
}

impl Accounts {
    pub(super) fn new(limits: Arc<SdsLimits>) -> Self {
        Self { limits, open: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts one more connection of `account`; `None` when it has `max_connections_per_caller` already.
    pub(super) fn enter(self: &Arc<Self>, account: &str) -> Option<Counted> {
        let mut open = self.lock();
        let entry = open
            .entry(account.to_owned())
            .or_insert_with(|| Open { connections: 0, shared: Arc::new(Account::new(&self.limits)) });
        if entry.connections >= self.limits.max_connections_per_caller {
            return None;
        }
        entry.connections += 1;
        let shared = Arc::clone(&entry.shared);
        Some(Counted { accounts: Arc::clone(self), name: account.to_owned(), shared })
    }
}

impl Account {
    pub(super) fn new(limits: &SdsLimits) -> Self {
        let room = |most: usize| Arc::new(Semaphore::new(most.min(Semaphore::MAX_PERMITS)));
        Self { streams: room(limits.max_streams_per_caller), request_bytes: room(limits.max_request_bytes_per_caller) }
    }

    /// A place for one more stream; `None` when `max_streams_per_caller` live.
    pub(super) fn stream(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.streams).try_acquire_owned().ok()
    }

    /// Where the bytes of unfinished requests are counted.
    pub(super) fn request_bytes(&self) -> Arc<Semaphore> {
        Arc::clone(&self.request_bytes)
    }
}

/// One connection of an account, while it lives.
#[derive(Debug)]
pub(super) struct Counted {
    accounts: Arc<Accounts>,
    name: String,
    shared: Arc<Account>,
}

impl Counted {
    /// What it shares with the account's other connections.
    pub(super) fn account(&self) -> Arc<Account> {
        Arc::clone(&self.shared)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut open = self.accounts.lock();
        if let Some(entry) = open.get_mut(&self.name) {
            entry.connections -= 1;
            if entry.connections == 0 {
                open.remove(&self.name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_share_one_account_until_the_last_one_ends() {
        let limits = SdsLimits { max_connections_per_caller: 2, max_streams_per_caller: 1, ..SdsLimits::default() };
        let accounts = Arc::new(Accounts::new(Arc::new(limits)));
        let (first, second) = (accounts.enter("a").unwrap(), accounts.enter("a").unwrap());
        assert!(accounts.enter("a").is_none() && accounts.enter("b").is_some());
        let stream = first.account().stream().unwrap();
        assert!(second.account().stream().is_none());
        drop(stream);
        assert!(second.account().stream().is_some());
        drop((first, second));
        assert!(accounts.lock().is_empty());
    }
}
