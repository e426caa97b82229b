//! How many new certificates each account may have at once and in a while.
//!
//! A bucket for each account: it holds `issue_burst_per_caller` and gains `issue_rate_per_caller` each second. Only a
//! first certificate of a stream takes from it: renewals keep their own time, and a proxy that comes back and names what
//! it holds needs none. So a node that restarts with all its proxies is served at once, and a client that asks again and
//! again, each time throwing away what it got, can't fill the ledger. Time is an argument.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::feed::FeedLimits;

/// How many accounts are told apart; those beyond share one bucket.
const MOST_ACCOUNTS: usize = 10_000;

/// Every account that took something not long ago.
#[derive(Debug, Default)]
pub(super) struct Pace(Mutex<HashMap<String, Bucket>>);

#[derive(Debug, Clone, Copy)]
struct Bucket {
    left: f64,
    at: Duration,
}

impl Bucket {
    fn at(self, now: Duration, limits: &FeedLimits) -> Self {
        let gained = now.saturating_sub(self.at).as_secs_f64() * f64::from(limits.issue_rate_per_caller);
        Self { left: (self.left + gained).min(f64::from(limits.issue_burst_per_caller)), at: now }
    }
}

impl Pace {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Bucket>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes one certificate from what `account` may have; `now` is monotonic.
    pub(super) fn take(&self, account: &str, now: Duration, limits: &FeedLimits) -> bool {
        let full = f64::from(limits.issue_burst_per_caller);
        let mut buckets = self.lock();
        if buckets.len() >= MOST_ACCOUNTS && !buckets.contains_key(account) {
            buckets.retain(|_, bucket| bucket.at(now, limits).left < full);
        }
        let told_apart = buckets.len() < MOST_ACCOUNTS || buckets.contains_key(account);
        let name = if told_apart { account } else { "" };
        let bucket = buckets.entry(name.to_owned()).or_insert(Bucket { left: full, at: now });
        *bucket = bucket.at(now, limits);
        let may = bucket.left >= 1.0;
        if may {
            bucket.left -= 1.0;
        }
        may
    }

    /// Gives one back that came to nothing.
    pub(super) fn give_back(&self, account: &str) {
        if let Some(bucket) = self.lock().get_mut(account) {
            bucket.left += 1.0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn limits() -> FeedLimits {
        FeedLimits { issue_rate_per_caller: 2, issue_burst_per_caller: 3, ..FeedLimits::default() }
    }

    fn taken(pace: &Pace, account: &str, now: Duration) -> usize {
        (0..10).take_while(|_| pace.take(account, now, &limits())).count()
    }

    #[test]
    fn a_burst_and_then_a_rate_for_each_account() {
        let pace = Pace::default();
        assert_eq!((taken(&pace, "a", SECOND), taken(&pace, "b", SECOND)), (3, 3));
        assert_eq!(taken(&pace, "a", SECOND * 2), 2);
        assert_eq!(taken(&pace, "a", SECOND * 60), 3, "never more than the burst");
        pace.give_back("a");
        assert_eq!(taken(&pace, "a", SECOND * 60), 1);
    }

    #[test]
    fn a_flood_of_accounts_is_bounded_and_shares() {
        let pace = Pace::default();
        (0..MOST_ACCOUNTS).for_each(|account| assert!(pace.take(&account.to_string(), SECOND, &limits())));
        assert_eq!((taken(&pace, "x", SECOND), taken(&pace, "y", SECOND)), (3, 0));
        assert_eq!(taken(&pace, "x", SECOND * 60), 3, "full buckets are forgotten");
        assert!(pace.lock().len() < 10);
    }
}
