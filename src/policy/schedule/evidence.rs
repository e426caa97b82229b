//! Who could not verify a leaf under a new root: the judgement of everyone who holds something of ours.
//!
//! A root may sign for others only when nobody is left who would refuse what it signed. Whoever holds an unexpired
//! certificate must have acknowledged a bundle that covers the new root and every CA below it, or have been given the two
//! together since; what nobody knows counts as lacking, and the end of a certificate ends its holder's say. Whoever takes
//! bundles and acknowledges nothing (HTTP, federation) is waited for by time. Pure: `rotation` brings the facts, [`super::root`]
//! decides by the answer.

use time::OffsetDateTime;

/// Those left behind that are named; all are counted.
pub const MOST_NAMED: usize = 50;

/// What is known of the process that holds a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sight {
    /// It has a stream and acknowledged what it needs.
    Holds,
    /// It has a stream and refused the newest bundle, in these words.
    Refused(String),
    /// It has a stream for a bundle and has not acknowledged what it needs.
    Silent,
    /// It has a stream for its certificate and takes its bundle elsewhere.
    Elsewhere,
    /// It has no stream; when it had one, it held what it needs.
    AwayWith,
    /// It has no stream; when it had one, it lacked it.
    AwayWithout,
    /// It has no stream, and this run never saw it with a bundle.
    Away,
}

/// How a certificate came to its holder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handed {
    /// On a stream; bundles come on others.
    Alone,
    /// In one answer with the bundle as it was then.
    WithBundle,
}

/// An unexpired certificate that none took the place of, or a process that takes bundles only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldCertificate {
    /// Its serial; empty for a process that takes bundles only.
    pub serial: String,
    /// Its identity, where it has one.
    pub identity: Option<String>,
    /// The holder's own label, not attested.
    pub node: Option<String>,
    /// Who it is, as attested.
    pub caller: String,
    /// When it was issued, or since when the stream of a bundle is there.
    pub issued: OffsetDateTime,
    /// When its holder has no say any more; never for one that is connected, or takes bundles only.
    pub until: Option<OffsetDateTime>,
    /// How it came to its holder.
    pub handed: Handed,
    /// What is known of its holder.
    pub sight: Sight,
}

/// Why a holder is left behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// It refused the bundle, in these words.
    Refused(String),
    /// It is connected and has not acknowledged the bundle.
    NotAcknowledged,
    /// It is not connected, and did not hold the bundle when it was.
    AwayWithout,
    /// It is not connected, and nothing is known of it.
    Away,
}

impl Why {
    /// The sentence for people.
    #[must_use]
    pub fn words(&self) -> String {
        match self {
            Self::Refused(text) => format!("refused the bundle: {text}"),
            Self::NotAcknowledged => "connected, has not acknowledged the bundle".to_owned(),
            Self::AwayWithout => "not connected, and lacked the bundle when it was".to_owned(),
            Self::Away => "not connected".to_owned(),
        }
    }
}

/// Who would refuse a leaf under the new root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftBehind {
    /// What it holds.
    pub certificate: HeldCertificate,
    /// Why it is left behind.
    pub why: Why,
}

/// How far a new root is with everyone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evidence<K> {
    /// The root.
    pub root: K,
    /// The issuing CA under it that is to sign.
    pub issuing: K,
    /// How many were judged.
    pub holders: u64,
    /// Those of them that can verify what the root signs.
    pub holding: u64,
    /// The first [`MOST_NAMED`] of the others, those that stay longest first.
    pub behind: Vec<LeftBehind>,
    /// Until when those are waited for that acknowledge nothing.
    pub silent_until: OffsetDateTime,
    /// The end of the last certificate whose holder is left behind; `None` where one of them is connected, or nobody is.
    pub last_end: Option<OffsetDateTime>,
}

impl<K> Evidence<K> {
    /// How many are left behind.
    #[must_use]
    pub fn left_behind(&self) -> u64 {
        self.holders.saturating_sub(self.holding)
    }

    /// Whether nobody would refuse what the root signs.
    #[must_use]
    pub fn is_complete(&self, now: OffsetDateTime) -> bool {
        self.left_behind() == 0 && self.silent_until <= now
    }

    /// When it is complete at the latest, by time alone; `None` while somebody is waited for who has no end.
    #[must_use]
    pub fn complete_by(&self) -> Option<OffsetDateTime> {
        if self.left_behind() == 0 {
            return Some(self.silent_until);
        }
        self.last_end.map(|end| end.max(self.silent_until))
    }
}

/// Judges one holder of a root that is in every bundle since `published`.
#[must_use]
pub fn judge(held: &HeldCertificate, published: OffsetDateTime) -> Option<Why> {
    match &held.sight {
        // What takes its bundle elsewhere acknowledges nothing: time is its evidence.
        Sight::Holds | Sight::AwayWith | Sight::Elsewhere => None,
        Sight::Refused(text) => Some(Why::Refused(text.clone())),
        Sight::Silent => Some(Why::NotAcknowledged),
        Sight::AwayWithout => Some(Why::AwayWithout),
        Sight::Away if held.handed == Handed::WithBundle && held.issued >= published => None,
        Sight::Away => Some(Why::Away),
    }
}

/// Judges everyone.
#[must_use]
pub fn gather<K>(
    (root, issuing): (K, K),
    all: impl IntoIterator<Item = HeldCertificate>,
    published: OffsetDateTime,
    silent_until: OffsetDateTime,
) -> Evidence<K> {
    let (mut holders, mut holding, mut behind) = (0, 0, Vec::new());
    let (mut last_end, mut endless) = (None, false);
    for mut certificate in all {
        holders += 1;
        let Some(why) = judge(&certificate, published) else {
            holding += 1;
            continue;
        };
        // Whoever is connected is given another before it ends.
        if matches!(why, Why::Refused(_) | Why::NotAcknowledged) {
            certificate.until = None;
        }
        endless |= certificate.until.is_none();
        last_end = certificate.until.max(last_end);
        behind.push(LeftBehind { certificate, why });
        if behind.len() > MOST_NAMED * 2 {
            shorten(&mut behind);
        }
    }
    shorten(&mut behind);
    let last_end = last_end.filter(|_| !endless);
    Evidence { root, issuing, holders, holding, behind, silent_until, last_end }
}

/// Keeps those that stay longest.
fn shorten(behind: &mut Vec<LeftBehind>) {
    let end = |one: &LeftBehind| (one.certificate.until.is_some(), std::cmp::Reverse(one.certificate.until));
    behind.sort_by(|a, b| end(a).cmp(&end(b)).then_with(|| a.certificate.serial.cmp(&b.certificate.serial)));
    behind.truncate(MOST_NAMED);
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::Duration;
    use time::macros::datetime;

    const PUBLISHED: OffsetDateTime = datetime!(2026-11-23 12:00 UTC);

    fn held(sight: Sight, handed: Handed, issued_s: i64) -> HeldCertificate {
        HeldCertificate {
            serial: "5e".into(),
            identity: None,
            node: None,
            caller: "unix:sds:uid=1".into(),
            issued: PUBLISHED + Duration::seconds(issued_s),
            until: Some(PUBLISHED + Duration::seconds(issued_s + 100)),
            handed,
            sight,
        }
    }

    #[test]
    fn only_an_answer_counts_and_silence_is_no_answer() {
        let check = |sight: Sight, handed: Handed, issued_s: i64, expected: Option<Why>| {
            let held = held(sight, handed, issued_s);
            assert_eq!(judge(&held, PUBLISHED), expected, "{held:?}");
        };
        for issued in [-1, 0, 1] {
            check(Sight::Holds, Handed::Alone, issued, None);
            check(Sight::AwayWith, Handed::Alone, issued, None);
            check(Sight::Elsewhere, Handed::Alone, issued, None);
            check(Sight::Silent, Handed::Alone, issued, Some(Why::NotAcknowledged));
            check(Sight::Refused("no".into()), Handed::Alone, issued, Some(Why::Refused("no".into())));
            check(Sight::AwayWithout, Handed::WithBundle, issued, Some(Why::AwayWithout));
            // A certificate by a stream says nothing of the bundle, which came by another one or not at all.
            check(Sight::Away, Handed::Alone, issued, Some(Why::Away));
        }
        check(Sight::Away, Handed::WithBundle, -1, Some(Why::Away));
        check(Sight::Away, Handed::WithBundle, 0, None);
    }

    #[test]
    fn it_is_complete_when_nobody_is_left_and_the_silent_had_their_time() {
        let silent_until = PUBLISHED + Duration::seconds(50);
        let of = |all: Vec<HeldCertificate>| gather((2, 3), all, PUBLISHED, silent_until);
        let everyone = of(vec![held(Sight::Holds, Handed::Alone, 0)]);
        assert!(!everyone.is_complete(PUBLISHED + Duration::seconds(49)));
        assert!(everyone.is_complete(silent_until));
        assert_eq!(everyone.complete_by(), Some(silent_until));
        let one_away = of(vec![held(Sight::Holds, Handed::Alone, 0), held(Sight::Away, Handed::Alone, -10)]);
        assert!(!one_away.is_complete(PUBLISHED + Duration::days(9)));
        assert_eq!((one_away.holders, one_away.holding, one_away.left_behind()), (2, 1, 1));
        assert_eq!(one_away.complete_by(), Some(PUBLISHED + Duration::seconds(90)));
        let endless = HeldCertificate { until: None, ..held(Sight::Silent, Handed::Alone, 0) };
        let refused = of(vec![endless.clone(), held(Sight::Away, Handed::Alone, -10)]);
        assert_eq!(refused.complete_by(), None);
        assert_eq!(refused.behind.first().map(|one| &one.certificate), Some(&endless), "who stays longest comes first");
    }

    #[test]
    fn many_are_counted_and_a_few_are_named() {
        let many = (0..1_000).map(|n| held(Sight::Away, Handed::Alone, -n));
        let evidence = gather((2, 3), many, PUBLISHED, PUBLISHED);
        assert_eq!((evidence.left_behind(), evidence.behind.len()), (1_000, MOST_NAMED));
        assert_eq!(evidence.behind.first().map(|one| one.certificate.issued), Some(PUBLISHED));
    }
}
