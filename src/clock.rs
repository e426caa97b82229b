//! The one place that asks what time it is.
//!
//! Core functions take `now` as an argument; tasks hold a [`Clock`] and hand them the answer. A manual clock makes days
//! pass in milliseconds in tests: its sleepers wake when [`ManualClock::advance`] passes them. Wall time decides about
//! certificates, monotonic time about waits and rates; the two never mix. Nothing here formats for people.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::watch;

/// The longest a sleeper trusts the monotonic clock before it looks at the wall clock again, so that a jump of the
/// wall clock (suspend, NTP step) delays or hastens a renewal by no more than this.
const LONGEST_NAP: Duration = Duration::from_secs(20);

/// A handle on time; cheap to clone.
#[derive(Clone)]
pub struct Clock(Arc<Source>);

enum Source {
    System { origin: std::time::Instant },
    Manual { state: Arc<Mutex<Hands>>, changed: watch::Receiver<u64> },
}

/// What a manual clock shows: wall time and monotonic time.
#[derive(Debug, Clone, Copy)]
struct Hands {
    now: OffsetDateTime,
    monotonic: Duration,
}

impl std::fmt::Debug for Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match *self.0 {
            Source::System { .. } => f.write_str("Clock(system)"),
            Source::Manual { .. } => f.write_str("Clock(manual)"),
        }
    }
}

impl Clock {
    /// The machine's own clocks.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "this is the module that may ask")]
    pub fn system() -> Self {
        Self(Arc::new(Source::System { origin: std::time::Instant::now() }))
    }

    /// A clock that stands still until its owner moves it.
    #[must_use]
    pub fn manual(start: OffsetDateTime) -> (Self, ManualClock) {
        let (sender, changed) = watch::channel(0);
        let state = Arc::new(Mutex::new(Hands { now: start, monotonic: Duration::ZERO }));
        let clock = Self(Arc::new(Source::Manual { state: Arc::clone(&state), changed }));
        (clock, ManualClock { state, moved: Arc::new(sender) })
    }

    /// Wall time, UTC.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "this is the module that may ask")]
    pub fn now(&self) -> OffsetDateTime {
        match &*self.0 {
            Source::System { .. } => OffsetDateTime::now_utc(),
            Source::Manual { state, .. } => state.lock().unwrap_or_else(PoisonError::into_inner).now,
        }
    }

    /// Time since this clock was made, never going back.
    #[must_use]
    pub fn monotonic(&self) -> Duration {
        match &*self.0 {
            Source::System { origin } => origin.elapsed(),
            Source::Manual { state, .. } => state.lock().unwrap_or_else(PoisonError::into_inner).monotonic,
        }
    }

    /// Returns at or soon after the wall time `at`; at once when it has passed.
    pub async fn sleep_until(&self, at: OffsetDateTime) {
        let left = || Duration::try_from(at - self.now()).ok().map(|left| left.min(LONGEST_NAP));
        self.nap_while(left).await;
    }

    /// Returns after `span` of monotonic time.
    pub async fn sleep(&self, span: Duration) {
        let until = self.monotonic() + span;
        self.nap_while(|| until.checked_sub(self.monotonic())).await;
    }

    /// Waits for as long as `left` says that there is time left.
    async fn nap_while(&self, left: impl Fn() -> Option<Duration>) {
        let left = || left().filter(|left| !left.is_zero());
        match &*self.0 {
            Source::System { .. } => {
                while let Some(left) = left() {
                    tokio::time::sleep(left).await;
                }
            }
            Source::Manual { changed, .. } => {
                let mut changed = changed.clone();
                loop {
                    // Before looking, so that no move of the hands is missed.
                    changed.mark_unchanged();
                    if left().is_none() {
                        return;
                    }
                    if changed.changed().await.is_err() {
                        // The owner of the manual clock is gone: time will never move again.
                        std::future::pending::<()>().await;
                    }
                }
            }
        }
    }
}

/// The hands of a manual clock.
#[derive(Clone, Debug)]
pub struct ManualClock {
    state: Arc<Mutex<Hands>>,
    moved: Arc<watch::Sender<u64>>,
}

impl ManualClock {
    /// Moves time forward and wakes the sleepers it passes.
    pub fn advance(&self, by: Duration) {
        let mut hands = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        (hands.now, hands.monotonic) = (hands.now + by, hands.monotonic + by);
        drop(hands);
        self.moved.send_modify(|count| *count += 1);
    }

    /// Sets the wall time, backwards too: an operator's or NTP's jump. Monotonic time goes along forward, never back.
    pub fn set(&self, to: OffsetDateTime) {
        let mut hands = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let forward = Duration::try_from(to - hands.now).unwrap_or_default();
        hands.monotonic += forward;
        hands.now = to;
        drop(hands);
        self.moved.send_modify(|count| *count += 1);
    }
}

/// RFC 3339 in UTC with microseconds, always 27 bytes: `2026-11-23T13:02:11.000042Z`. The form of every record.
#[must_use]
pub fn rfc3339_micros(at: OffsetDateTime) -> String {
    let at = at.to_offset(time::UtcOffset::UTC);
    let (date, clock) = (at.date(), at.time());
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:06}Z",
        date.year(),
        u8::from(date.month()),
        date.day(),
        clock.hour(),
        clock.minute(),
        clock.second(),
        clock.microsecond()
    )
}

/// RFC 3339 in UTC to the second, the form of certificate times: `2026-11-23T13:02:11Z`.
#[must_use]
pub fn rfc3339_seconds(at: OffsetDateTime) -> String {
    let text = rfc3339_micros(at);
    text.split_once('.').map_or_else(|| text.clone(), |(whole, _)| format!("{whole}Z"))
}

/// Reads either form back.
///
/// # Errors
/// When `text` is not RFC 3339.
pub fn parse_rfc3339(text: &str) -> Result<OffsetDateTime, time::error::Parse> {
    OffsetDateTime::parse(text, &Rfc3339)
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;

    #[test]
    fn renders_what_it_reads() {
        let at = datetime!(2026-11-23 13:02:11.000042 UTC);
        assert_eq!(rfc3339_micros(at), "2026-11-23T13:02:11.000042Z");
        assert_eq!(rfc3339_seconds(at), "2026-11-23T13:02:11Z");
        assert_eq!(parse_rfc3339(&rfc3339_micros(at)).unwrap(), at);
    }

    #[tokio::test]
    async fn days_pass_when_the_hands_move() {
        let start = datetime!(2026-01-01 00:00 UTC);
        let (clock, hands) = Clock::manual(start);
        let due = start + Duration::from_secs(86_400);
        let sleeper = clock.clone();
        let waiting = async move { sleeper.sleep_until(due).await };
        let moving = async move {
            for _ in 0..24 {
                tokio::task::yield_now().await;
                hands.advance(Duration::from_secs(3_600));
            }
            hands
        };
        let ((), hands) = tokio::join!(waiting, moving);
        assert_eq!(clock.now(), due);
        assert_eq!(clock.monotonic(), Duration::from_secs(86_400));
        // A sleeper that began after the hands moved rests until they move again.
        let mut sleeping = std::pin::pin!(clock.sleep(Duration::from_secs(60)));
        for _ in 0..3 {
            assert!(futures::poll!(sleeping.as_mut()).is_pending());
        }
        hands.set(start);
        assert_eq!((clock.now(), clock.monotonic()), (start, Duration::from_secs(86_400)), "monotonic never goes back");
    }
}
