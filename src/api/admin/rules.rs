//! Policy in the words of the wire.

use crate::caller::{ClientCertificate, Evidence, UnixPeer};
use crate::identity::SpiffeId;
use crate::policy::{Rule, Wanted};
use crate::proto::chancery::admin::v1 as pb;
use crate::toml_reader::render_span;
use tonic::Status;

use super::backend::PolicyInForce;

/// Whom the question is about, when it names no socket.
const USUAL_SOCKET: &str = "sds";

/// The policy in force.
pub(super) fn policy(in_force: &PolicyInForce) -> pb::Policy {
    pb::Policy {
        hash: in_force.policy.hash_hex().to_owned(),
        path: in_force.path.clone(),
        text: in_force.text.to_string(),
        rules: in_force.policy.rules().iter().map(rule).collect(),
    }
}

fn rule(rule: &Rule) -> pb::Rule {
    pb::Rule {
        number: u32::try_from(rule.number()).unwrap_or(u32::MAX),
        name: rule.name().to_owned(),
        matches: rule.matches().to_string(),
        identity: rule.identity().to_owned(),
        mesh: rule.mesh().as_str().to_owned(),
        lifetime: render_span(rule.lifetime()),
        keys: rule.keys().iter().map(|key| key.as_str().to_owned()).collect(),
    }
}

/// What the policy in force would say.
pub(super) fn explain(in_force: &PolicyInForce, ask: pb::ExplainPolicyRequest) -> Result<pb::Explanation, Status> {
    let wanted = match ask.identity.as_str() {
        "" => Wanted::Default,
        text => Wanted::Identity(
            SpiffeId::parse(text).map_err(|error| Status::invalid_argument(format!("{text}: {error}")))?,
        ),
    };
    let socket = if ask.socket.is_empty() { USUAL_SOCKET.to_owned() } else { ask.socket };
    let evidence = if ask.client.is_empty() {
        let mut groups = ask.groups;
        groups.sort_unstable();
        // The process is a question, not a peer: no rule looks at its number.
        Evidence::UnixPeer(UnixPeer { socket, uid: ask.uid, gid: ask.gid, groups, pid: 1, started: None })
    } else {
        let identity = SpiffeId::parse(&ask.client)
            .map_err(|error| Status::invalid_argument(format!("client {}: {error}", ask.client)))?;
        Evidence::Client(ClientCertificate::supposed(identity, &socket))
    };
    let answer = in_force.policy.explain(&evidence, &wanted);
    let text = answer.to_string();
    Ok(pb::Explanation {
        caller: answer.subject,
        granted: answer.granted,
        rule: answer.rule,
        verdicts: answer
            .verdicts
            .into_iter()
            .map(|verdict| pb::RuleVerdict {
                number: u32::try_from(verdict.number).unwrap_or(u32::MAX),
                rule: verdict.rule,
                grants: verdict.grants,
                lifetime: verdict.lifetime,
                unmet: verdict.unmet.iter().map(ToString::to_string).collect(),
            })
            .collect(),
        nearest: answer.nearest.iter().map(ToString::to_string).collect(),
        policy_hash: in_force.policy.hash_hex().to_owned(),
        text,
    })
}
