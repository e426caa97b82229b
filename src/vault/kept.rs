//! A session that is kept open, for who asks Vault all the time.
//!
//! One task owns it: it logs in, renews the token at two thirds of its life, logs in anew where that is refused or the token
//! cannot live longer, and after a failed login waits longer each time, by chance, so that servers that lost the same Vault
//! don't come back as one. Everybody else takes the newest session from [`Kept::session`] and says with [`Kept::another`]
//! that Vault did not take its token any more. Nothing waits for a login but the first. When the task ends it gives the token
//! back.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::access::Lease;
use super::{Access, Session, VaultError, Verb};
use crate::clock::Clock;
use crate::entropy::Entropy;
use crate::tasks::Tasks;

/// The first wait after a failed login.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// The longest wait after a failed login.
const LONGEST_WAIT: Duration = Duration::from_secs(15);
/// A session that is younger than this and denied was denied by policy: another login would not help.
const YOUNGEST_DENIED: Duration = Duration::from_secs(5);
/// The longest that anybody waits for a session.
const LONGEST_FOR_A_SESSION: Duration = Duration::from_secs(10);

/// The newest session; cheap to clone.
#[derive(Debug, Clone)]
pub struct Kept {
    state: watch::Receiver<State>,
    denied: mpsc::Sender<u64>,
    clock: Clock,
    vault: Arc<str>,
}

/// One login's session.
#[derive(Debug)]
pub struct Held {
    session: Session,
    number: u64,
    since: Duration,
}

impl std::ops::Deref for Held {
    type Target = Session;

    fn deref(&self) -> &Session {
        &self.session
    }
}

#[derive(Debug, Clone)]
enum State {
    Starting,
    In(Arc<Held>),
    Out(VaultError),
}

impl Kept {
    /// Starts to keep a session with `access`; nothing waits for it.
    #[must_use]
    pub fn start(access: Access, clock: Clock, entropy: Entropy, tasks: &Tasks) -> Self {
        let (sender, state) = watch::channel(State::Starting);
        let (denied, told) = mpsc::channel(1);
        let vault = access.name().into();
        let keeper = Keeper { access, clock: clock.clone(), entropy, state: sender, denied: told, logins: 0 };
        tasks.spawn("vault.session", keeper.keep(tasks.stopping()));
        Self { state, denied, clock, vault }
    }

    /// The newest session.
    ///
    /// # Errors
    /// [`VaultError`]: the last login failed, or the first one takes too long.
    pub async fn session(&self) -> Result<Arc<Held>, VaultError> {
        self.wait(|_| true).await
    }

    /// Another session than `denied`, whose token Vault did not take.
    ///
    /// # Errors
    /// `why` itself when the token is new, so that another one would be denied too; or [`VaultError`] of the login.
    pub async fn another(&self, denied: &Held, why: VaultError) -> Result<Arc<Held>, VaultError> {
        if self.clock.monotonic().saturating_sub(denied.since) < YOUNGEST_DENIED {
            return Err(why);
        }
        // One word is enough: whoever comes while it waits means the same session or an older one.
        let _ = self.denied.try_send(denied.number);
        self.wait(|held| held.number > denied.number).await
    }

    /// Asks `path` for what its `data` holds; with another session once, where this one's token is not taken any more.
    ///
    /// # Errors
    /// [`VaultError`], with `what` was asked.
    pub async fn call<B, R>(
        &self,
        what: &'static str,
        verb: Verb,
        path: &str,
        body: Option<&B>,
    ) -> Result<R, VaultError>
    where
        B: Serialize + Sync,
        R: DeserializeOwned + Send + Sync,
    {
        let held = self.session().await?;
        match held.call(what, verb, path, body).await {
            Err(why) if why.is_denied() => self.another(&held, why).await?.call(what, verb, path, body).await,
            answer => answer,
        }
    }

    /// Writes to `path`, as [`Self::call`] does, and takes no notice of what it answers.
    ///
    /// # Errors
    /// [`VaultError`], with `what` was asked.
    pub async fn write<B: Serialize + Sync>(&self, what: &'static str, path: &str, body: &B) -> Result<(), VaultError> {
        let held = self.session().await?;
        match held.write(what, path, body).await {
            Err(why) if why.is_denied() => self.another(&held, why).await?.write(what, path, body).await,
            answer => answer,
        }
    }

    async fn wait(&self, is_good: impl Fn(&Held) -> bool) -> Result<Arc<Held>, VaultError> {
        let mut state = self.state.clone();
        let settled = state.wait_for(|state| match state {
            State::Starting => false,
            State::In(held) => is_good(held),
            State::Out(_) => true,
        });
        let late =
            || VaultError::Failed { vault: self.vault.to_string(), what: "log in", why: "no answer yet".to_owned() };
        let settled = tokio::select! {
            settled = settled => settled.map_err(|_| late())?.clone(),
            () = self.clock.sleep(LONGEST_FOR_A_SESSION) => return Err(late()),
        };
        match settled {
            State::In(held) => Ok(held),
            State::Out(why) => Err(why),
            State::Starting => Err(late()),
        }
    }
}

/// The task.
struct Keeper {
    access: Access,
    clock: Clock,
    entropy: Entropy,
    state: watch::Sender<State>,
    denied: mpsc::Receiver<u64>,
    logins: u64,
}

/// Why a session is not kept any longer.
enum Over {
    /// Another login is due.
    LogIn,
    /// The server ends, or nobody uses it.
    Stop,
}

impl Keeper {
    async fn keep(mut self, stopping: CancellationToken) {
        let mut failures = 0;
        loop {
            let login = tokio::select! {
                login = self.access.session() => login,
                () = stopping.cancelled() => return,
            };
            match login {
                Ok(session) => {
                    failures = 0;
                    self.logins += 1;
                    let held = Arc::new(Held { session, number: self.logins, since: self.clock.monotonic() });
                    if self.logins > 1 {
                        info!(vault = self.access.name(), "logged in again");
                    }
                    self.state.send_replace(State::In(Arc::clone(&held)));
                    if matches!(self.hold(&held, &stopping).await, Over::Stop) {
                        held.end().await;
                        return;
                    }
                }
                Err(why) => {
                    warn!(vault = self.access.name(), error = %why, "no login; it is tried again");
                    self.state.send_replace(State::Out(why));
                    let wait = wait_after(failures, u32::from_be_bytes(self.entropy.bytes()));
                    failures += 1;
                    tokio::select! {
                        () = self.clock.sleep(wait) => {}
                        () = stopping.cancelled() => return,
                    }
                }
            }
        }
    }

    /// Renews the token for as long as that goes.
    async fn hold(&mut self, held: &Held, stopping: &CancellationToken) -> Over {
        let mut lease = held.lease();
        let mut since = self.clock.monotonic();
        loop {
            let due = async {
                match lease {
                    Lease::Theirs | Lease::Ours { seconds: 0, .. } => std::future::pending().await,
                    Lease::Ours { seconds, .. } => {
                        let at = since + Duration::from_secs(seconds) * 2 / 3;
                        self.clock.sleep(at.saturating_sub(self.clock.monotonic())).await;
                    }
                }
            };
            tokio::select! {
                () = due => {}
                number = self.denied.recv() => match number {
                    Some(number) if number >= held.number => return Over::LogIn,
                    Some(_) => continue,
                    None => return Over::Stop,
                },
                () = stopping.cancelled() => return Over::Stop,
            }
            let Lease::Ours { seconds: before, renewable: true } = lease else { return Over::LogIn };
            match held.renew().await {
                // Its longest life is near: what a renewal gives gets shorter each time.
                Ok(Lease::Ours { seconds, .. }) if seconds <= before / 2 => return Over::LogIn,
                Ok(renewed) => (lease, since) = (renewed, self.clock.monotonic()),
                Err(why) => {
                    warn!(vault = self.access.name(), error = %why, "the token could not be renewed");
                    return Over::LogIn;
                }
            }
        }
    }
}

/// How long to wait after so many failed logins before this one; `chance` makes it half to one and a half of that.
fn wait_after(failures: u32, chance: u32) -> Duration {
    let whole = FIRST_WAIT.saturating_mul(1 << failures.min(8)).min(LONGEST_WAIT);
    let part = f64::from(chance) / f64::from(u32::MAX);
    whole.mul_f64(0.5 + part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_bound_and_are_spread() {
        assert_eq!(wait_after(0, 0), FIRST_WAIT / 2);
        assert_eq!(wait_after(0, u32::MAX), FIRST_WAIT * 3 / 2);
        assert_eq!(wait_after(2, u32::MAX), FIRST_WAIT * 6);
        for failures in [4, 40, u32::MAX] {
            assert_eq!(wait_after(failures, u32::MAX), LONGEST_WAIT * 3 / 2, "{failures}");
        }
    }
}
