//! Changes of the files that take a second operator.
//!
//! A file that anybody wrote is no grant: such a change is refused on record, what is in force stays, and `chancery reload`
//! asks for it. What was granted is a pair of hashes, so that a file that changes once more in between is refused again.

use super::{By, Reloader, What, fingerprint};
use crate::api::admin::change::Pending;
use crate::app::held;
use crate::approval::Guarded;
use crate::config::Settings;
use crate::policy::Policy;

impl What {
    fn guarded(self) -> Guarded {
        match self {
            Self::Policy => Guarded::Policy,
            Self::Configuration => Guarded::Configuration,
        }
    }
}

impl Reloader {
    /// Why content of this hash may not come into force by `by`; `None` when it may.
    pub(super) fn not_granted(&self, what: What, by: &By, hash: &str) -> Option<String> {
        let granted = match what {
            What::Policy => &by.granted.policy,
            What::Configuration => &by.granted.configuration,
        };
        let fits = granted.as_ref().is_some_and(|(_, after)| after == hash);
        (self.0.rules.guards(what.guarded()) && !fits).then(|| {
            format!(
                "another {} ({hash}) takes a second operator: chancery reload asks for it, another admin grants it, \
                 chancery reload puts it in force",
                what.as_str()
            )
        })
    }

    /// Keeps a policy for the next start, where the file alone does not decide.
    pub(in crate::app) fn keep(&self, policy: &Policy) {
        if self.0.rules.guards(Guarded::Policy) {
            held::keep(&self.0.data_dir, policy);
        }
    }

    /// What the files hold that is not in force.
    pub(in crate::app) async fn pending(&self) -> Pending {
        let turn = self.0.turn.lock().await;
        let in_force = self.0.street.policy().hash_hex().to_owned();
        let policy = self.read_policy().await.and_then(|text| self.parse(&self.0.policy, &text)).ok();
        let policy = policy.map(|policy| policy.hash_hex().to_owned()).filter(|hash| *hash != in_force);
        let text = self.read_configuration().await.and_then(Result::ok);
        let configuration = self.0.configuration.as_ref().zip(text).and_then(|(file, text)| {
            let new = Settings::of_text(&file.path, &text).ok()?;
            let settings = turn.started.with_live_of(&new);
            (settings != turn.in_force).then(|| (fingerprint(&turn.in_force), fingerprint(&settings)))
        });
        Pending { policy: policy.map(|hash| (in_force, hash)), configuration }
    }
}
