//! Certificates and authorities: the index's rows, joined with what live proxies hold, in the words of the wire.

use std::collections::HashMap;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use time::OffsetDateTime;
use tonic::Status;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::backend::{AuthoritySchedule, Holding};
use super::{Sources, hands};
use crate::ca::slot::State;
use crate::clock::rfc3339_seconds;
use crate::proto::chancery::admin::v1 as pb;
use crate::store::{AuthorityRow, CertificateQuery, CertificateRow, Found, StoreError};
use crate::x509::pem;

/// How long an expired certificate counts as recent.
const RECENT: i64 = 2 * 24 * 3600;

/// A page, when the request does not say.
const USUAL_PAGE: usize = 100;

/// How long an answer about one certificate waits for the index to reach the ledger's head.
const LONGEST_WAIT: Duration = Duration::from_millis(500);

/// How long it waits between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(5);

impl Sources {
    pub(super) fn list(&self, ask: &pb::ListCertificatesRequest) -> Result<pb::CertificateList, Status> {
        let now = self.clock.now().unix_timestamp();
        let limit = usize::try_from(ask.page_size).unwrap_or(usize::MAX);
        let query = CertificateQuery {
            identity_prefix: ask.identity_prefix.clone(),
            limit: if limit == 0 { USUAL_PAGE } else { limit },
            after: (!ask.page_token.is_empty()).then(|| ask.page_token.clone()),
            ..in_state(&ask.state, now)?
        };
        let page = self.index.certificates(&query).map_err(index_status)?;
        let live = self.index.live(now).map_err(index_status)?;
        Ok(pb::CertificateList {
            certificates: self.describe_all(page.certificates),
            next_page_token: page.next.unwrap_or_default(),
            live: live.values().map(|count| count.live).sum(),
            total: self.index.total().map_err(index_status)?,
        })
    }

    /// The one certificate that a serial, its beginning, or the form of tables names.
    pub(super) async fn one(&self, serial: &str) -> Result<CertificateRow, Status> {
        let serial = serial.trim().replace("...", "…");
        let hex = |c: char| c.is_ascii_hexdigit() || c == '…';
        if serial.is_empty() || !serial.chars().all(hex) {
            return Err(Status::invalid_argument(format!(
                "{serial:?} is not a serial: write hex digits as in cert list"
            )));
        }
        self.caught_up().await?;
        match self.index.find(&serial).map_err(index_status)? {
            Found::One(row) => Ok(*row),
            Found::Several(several) => Err(Status::invalid_argument(format!(
                "{serial} is the beginning of several serials, write more of it: {}",
                several.join(", ")
            ))),
            Found::Nothing => Err(Status::not_found(format!(
                "no certificate has the serial {serial}: chancery cert list --all shows every one"
            ))),
        }
    }

    pub(super) fn describe(&self, row: CertificateRow) -> pb::Certificate {
        let holding = self.backend.holding(&row);
        certificate(row, self.clock.now().unix_timestamp(), holding)
    }

    pub(super) fn describe_all(&self, rows: impl IntoIterator<Item = CertificateRow>) -> Vec<pb::Certificate> {
        rows.into_iter().map(|row| self.describe(row)).collect()
    }

    /// Waits until what was recorded before this call is in the index.
    pub(super) async fn caught_up(&self) -> Result<(), Status> {
        let until = self.clock.monotonic() + LONGEST_WAIT;
        while self.lag()? > 0 && self.clock.monotonic() < until {
            self.clock.sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    /// How many records the index still has to read.
    pub(super) fn lag(&self) -> Result<u64, Status> {
        let cursor = self.index.cursor().map_err(index_status)?;
        let read = |origin: &str| cursor.get(origin).map_or(0, |at| at.next);
        Ok(self.ledger.logs().iter().map(|(origin, size)| size.saturating_sub(read(origin))).sum())
    }

    /// The authorities that were made: one that was only asked for, or that a crash left without a certificate, is none.
    pub(super) fn made(&self) -> Result<Vec<AuthorityRow>, Status> {
        let mut rows = self.index.authorities().map_err(index_status)?;
        rows.retain(|row| row.certificate.is_some() || row.state != State::Prepared.as_str());
        Ok(rows)
    }

    pub(super) fn authorities(&self) -> Result<pb::AuthorityList, Status> {
        let now = self.clock.now().unix_timestamp();
        let live = self.index.live(now).map_err(index_status)?;
        let schedules: HashMap<String, AuthoritySchedule> =
            self.backend.authorities().into_iter().map(|one| (one.key_id.clone(), one)).collect();
        let proxies = self.backend.facts().proxies;
        let rows = self.made()?;
        let crls = hands::crl_states(self);
        let authorities = rows.into_iter().map(|row| {
            let schedule = schedules.get(&row.key_id).cloned().unwrap_or_default();
            let count = live.get(&row.key_id).copied().unwrap_or_default();
            let last = count.last_minute.and_then(|minute| OffsetDateTime::from_unix_timestamp(minute * 60).ok());
            pb::Authority {
                live_certificates: count.live,
                last_expires_at: last.map(rfc3339_seconds),
                next_change_at: schedule.next_change_at.map(rfc3339_seconds),
                held_by: schedule.held_by,
                published_at: schedule.published_at.map(rfc3339_seconds),
                evidence: self.evidence_of(&row.name),
                proxies,
                crl: crls.iter().find(|crl| crl.issuer_key_id == row.key_id).cloned(),
                ..authority(row)
            }
        });
        Ok(pb::AuthorityList { authorities: authorities.collect() })
    }
}

/// The query that a state stands for.
fn in_state(state: &str, now: i64) -> Result<CertificateQuery, Status> {
    let query = CertificateQuery::default();
    match state {
        "" | "recent" => Ok(CertificateQuery { expires_from: Some(now - RECENT), ..query }),
        // In the last second of its life a certificate counts as over.
        "live" => Ok(CertificateQuery { expires_from: Some(now + 1), revoked: Some(false), ..query }),
        "expired" => Ok(CertificateQuery { expires_before: Some(now + 1), ..query }),
        "revoked" => Ok(CertificateQuery { revoked: Some(true), ..query }),
        "all" => Ok(query),
        other => Err(Status::invalid_argument(format!(
            "{other:?} is no state of a certificate: choose from live, expired, revoked, recent, all"
        ))),
    }
}

pub(super) fn certificate(row: CertificateRow, now: i64, holding: Option<Holding>) -> pb::Certificate {
    let state = match (row.failed, &row.revoked, row.expires > now) {
        (true, _, _) => "failed",
        (false, Some(_), _) => "revoked",
        (false, None, true) => "live",
        (false, None, false) => "expired",
    };
    let revoked = row.revoked.unwrap_or_default();
    let known = |text: String| Some(text).filter(|text| !text.is_empty());
    let held = holding.as_ref().map_or("none", |holding| holding.state).to_owned();
    let (renews_at, node) = holding.map(|holding| (holding.renew_at, holding.node)).unwrap_or_default();
    pb::Certificate {
        record: format!("{}#{}", row.log, row.index),
        state: state.to_owned(),
        serial: row.serial,
        identity: row.identity,
        issued_at: row.issued_at,
        not_before: row.not_before,
        not_after: row.not_after,
        renews_at: renews_at.map(rfc3339_seconds),
        node: node.or(row.node),
        caller: row.account,
        rule: row.rule,
        policy_hash: row.policy_hash,
        profile: row.profile,
        mesh: row.mesh,
        secret_name: row.secret_name,
        issuer_key_id: row.issuer_key_id,
        previous_serial: row.previous_serial,
        renewal_cause: row.renewal_cause,
        certificate_sha256: row.der_sha256,
        held,
        attested_at: row.attested_at,
        revoked_at: known(revoked.at),
        revocation_reason: known(revoked.reason),
        revocation_record: known(revoked.record),
    }
}

fn authority(row: AuthorityRow) -> pb::Authority {
    let der = row.certificate.as_ref().and_then(|text| BASE64.decode(text).ok());
    let (mut not_before, mut not_after, mut serial) = Default::default();
    let mut issuer_key_id = String::new();
    if let Some(facts) = row.facts {
        (not_before, not_after, serial) = (facts.not_before, facts.not_after, facts.serial);
        issuer_key_id = facts.issuer_key_id;
    } else if let Some((_, parsed)) = der.as_deref().and_then(|der| X509Certificate::from_der(der).ok()) {
        not_before = rfc3339_seconds(parsed.validity().not_before.to_datetime());
        not_after = rfc3339_seconds(parsed.validity().not_after.to_datetime());
        serial = hex::encode(parsed.raw_serial());
    }
    pb::Authority {
        certificate_pem: der
            .map_or_else(String::new, |der| String::from_utf8(pem::certificates([der.as_slice()])).unwrap_or_default()),
        // A root is its own issuer: nothing stands above it.
        issuer_key_id: if row.level == "root" { String::new() } else { issuer_key_id },
        record: format!("{}#{}", row.log, row.index),
        name: row.name,
        upstream: row.upstream,
        level: row.level,
        state: row.state,
        key_id: row.key_id,
        serial,
        not_before,
        not_after,
        ..pb::Authority::default()
    }
}

/// When the certificate of an authority ends, for people.
pub(super) fn end_of(row: &AuthorityRow) -> String {
    authority(row.clone()).not_after
}

/// What the index's failure means to the one who asked.
pub(super) fn index_status(error: StoreError) -> Status {
    match error {
        StoreError::PageToken => Status::invalid_argument(error.to_string()),
        StoreError::InUse { .. } | StoreError::Database { .. } | StoreError::Row { .. } | StoreError::Gap { .. } => {
            tracing::error!(%error, "the index could not answer");
            Status::internal(error.to_string())
        }
    }
}
