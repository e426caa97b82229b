//! The plan by examples, and then every way through it: all orders of acts, crashes, pushes, answers, refusals, absences
//! and ends of certificates, for two proxies and two roots, by breadth; and that each lesser rule of evidence would leave a gap.
//!
//! The model keeps what is durable (authorities and their states) apart from what a crash takes (what is sent now, what was
//! seen of each proxy). Its server does nothing by itself: it asks [`root_plan`] and [`evidence::gather`], the functions that
//! the program asks, and does what they say. The law that holds in every state that can be reached: of any two proxies
//! that both have a certificate that is alive, each can verify the other's by the bundle that it holds.

use std::collections::{HashMap, HashSet, VecDeque};

use time::macros::datetime;

use super::*;
use crate::policy::schedule::evidence::{self, Handed, HeldCertificate, Sight};

const START: OffsetDateTime = datetime!(2026-11-23 12:00 UTC);
const DAY: Duration = Duration::from_secs(86_400);

fn times() -> RootTimes {
    RootTimes {
        issuing: AuthorityTimes::new(DAY * 90, DAY).unwrap(),
        issuing_lifetime: DAY * 90,
        silent_wait: DAY + Duration::from_secs(300),
    }
}

fn issuing(key: usize, state: AuthorityState) -> AuthoritySlot<usize> {
    AuthoritySlot { key, state, not_before: START, not_after: START + DAY * 90, last_leaf: None }
}

fn root(key: usize, state: AuthorityState, below: Vec<AuthoritySlot<usize>>) -> RootSlot<usize> {
    let not_after = START + DAY * 3_650;
    RootSlot { key, state, ours: true, not_before: START, not_after, published: None, below }
}

fn complete(root: usize, issuing: usize) -> Evidence<usize> {
    evidence::gather((root, issuing), [], START, START)
}

#[test]
fn a_successor_is_prepared_while_a_last_issuing_ca_still_has_its_whole_life() {
    let slots = [root(1, AuthorityState::Active, vec![issuing(11, AuthorityState::Active)])];
    let at = times().prepare_at(&slots[0]);
    assert!(slots[0].not_after - at > DAY * 135 && slots[0].not_after - at < DAY * 140, "{at}");
    assert_eq!(root_plan(&slots, times(), None, at - DAY).due, None);
    assert_eq!(root_plan(&slots, times(), None, at - DAY).next, Some(at));
    assert_eq!(root_plan(&slots, times(), None, at).due, Some(RootDue::Prepare));
    assert!(at < times().late_at(&slots[0]) && times().late_at(&slots[0]) < times().last_moment(&slots[0]));
    let theirs = [RootSlot { ours: false, ..slots[0].clone() }];
    assert_eq!(
        root_plan(&theirs, times(), None, at).due,
        None,
        "an upstream's root is replaced by whoever has its key"
    );
    // A short life is halved.
    let short = RootSlot { not_after: START + DAY * 200, ..slots[0].clone() };
    assert_eq!(times().prepare_at(&short), START + DAY * 100);
}

#[test]
fn a_root_waits_for_its_ca_for_its_bundle_and_for_everyone() {
    let old = root(1, AuthorityState::Active, vec![issuing(11, AuthorityState::Active)]);
    let due =
        |slots: &[RootSlot<usize>], evidence: Option<&Evidence<usize>>| root_plan(slots, times(), evidence, START).due;
    let alone = [old.clone(), root(2, AuthorityState::Prepared, Vec::new())];
    assert_eq!(due(&alone, Some(&complete(2, 12))), Some(RootDue::PrepareBelow(2)));
    let mut slots = [old.clone(), root(2, AuthorityState::Prepared, vec![issuing(12, AuthorityState::Prepared)])];
    assert_eq!(due(&slots, Some(&complete(2, 12))), Some(RootDue::Publish(2)));
    slots[1].published = Some(START);
    assert_eq!(due(&slots, None), None);
    assert_eq!(due(&slots, Some(&complete(2, 13))), None, "the evidence is about another CA");
    assert_eq!(due(&slots, Some(&complete(2, 12))), Some(RootDue::Activate(2)));
    let late = times().last_moment(&slots[0]);
    slots[1].not_after = late + DAY * 3_650;
    slots[1].below[0] = AuthoritySlot { not_before: late, not_after: late + DAY * 90, ..slots[1].below[0].clone() };
    assert_eq!(root_plan(&slots, times(), None, late).due, Some(RootDue::ActivateLate(2)));
    // Both active, as a crash leaves it: nothing retires before a CA below the new one signs.
    slots[1].state = AuthorityState::Active;
    assert_eq!(due(&slots, None), None);
    slots[1].below[0].state = AuthorityState::Active;
    slots[0].below[0].state = AuthorityState::Retiring;
    assert_eq!(due(&slots, None), Some(RootDue::Retire(1)));
    slots[0].state = AuthorityState::Retiring;
    assert_eq!(due(&slots, None), None);
    slots[0].below[0].state = AuthorityState::Tainted;
    assert_eq!(due(&slots, None), Some(RootDue::Remove(1)));
}

const PROXIES: usize = 2;

/// A CA of the model: a root and the issuing CA below it have the same number.
type Number = u8;

/// What a bundle of the model covers: bit 2n the root n, bit 2n + 1 the issuing CA n.
type Covers = u8;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Proxy {
    /// The bundle that it goes by; none before its first.
    bundle: Option<Covers>,
    /// Who issued its certificate, if that is alive.
    leaf: Option<Number>,
    connected: bool,
    /// The bundle that was sent and has no answer yet.
    sent: Option<Covers>,
    /// Refuses whatever bundle is newer than its own.
    stubborn: bool,
    /// What this run of the server knows: whether it has been seen, and with which bundle.
    seen: Option<Option<Covers>>,
}

/// One that has nothing.
const BLANK: Proxy = Proxy { bundle: None, leaf: None, connected: false, sent: None, stubborn: false, seen: None };

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Ca {
    root: AuthorityState,
    issuing: Option<AuthorityState>,
    published: bool,
}

/// What counts as evidence; all but the first are mistakes that somebody could make.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Rule {
    TheProgram,
    OnlyTheConnected,
    WhatWasSent,
    Nothing,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct World {
    /// Durable.
    cas: Vec<Ca>,
    /// What is sent to whoever connects; a crash makes it anew from what is durable.
    current: Covers,
    proxies: [Proxy; PROXIES],
    /// Whether an operator asked for a new root.
    asked: bool,
    rule: Rule,
}

impl World {
    fn first(rule: Rule) -> Self {
        let cas = vec![Ca { root: AuthorityState::Active, issuing: Some(AuthorityState::Active), published: true }];
        let mut world = Self { cas, current: 0, proxies: [BLANK; PROXIES], asked: false, rule };
        world.publish();
        world
    }

    /// As `revocation` does: every root that is trusted, and the CRL of every CA that is not gone.
    fn publish(&mut self) {
        let trusted = |state| !matches!(state, AuthorityState::Gone | AuthorityState::Tainted);
        self.current = 0;
        for (number, ca) in self.cas.iter().enumerate() {
            self.current |= u8::from(trusted(ca.root)) << (2 * number);
            self.current |= u8::from(ca.issuing.is_some_and(trusted)) << (2 * number + 1);
        }
        for proxy in &mut self.proxies {
            if proxy.connected && proxy.bundle != Some(self.current) {
                proxy.sent = Some(self.current);
            }
        }
    }

    fn slots(&self) -> Vec<RootSlot<Number>> {
        let below = |number: Number, ca: &Ca| {
            let state = ca.issuing.filter(|state| *state != AuthorityState::Gone)?;
            let end = START + DAY * 90;
            Some(AuthoritySlot { key: number, state, not_before: START, not_after: end, last_leaf: None })
        };
        let slot = |(number, ca): (usize, &Ca)| {
            let key = Number::try_from(number).unwrap();
            let (state, published) = (ca.root, ca.published.then_some(START));
            let not_after = START + DAY * 3_650;
            let below = below(key, ca).into_iter().collect();
            RootSlot { key, state, ours: true, not_before: START, not_after, published, below }
        };
        self.cas.iter().enumerate().filter(|(_, ca)| ca.root != AuthorityState::Gone).map(slot).collect()
    }

    /// As `rotation` gathers it.
    fn evidence(&self) -> Option<Evidence<Number>> {
        let slots = self.slots();
        let next = candidate(&slots, START).filter(|next| next.published.is_some())?;
        let heir = heir(next, times().issuing, START)?;
        let needs: Covers = 0b11 << (2 * next.key);
        let held = self.proxies.iter().filter(|proxy| proxy.leaf.is_some() || proxy.connected).map(|proxy| {
            let has = |covers: Option<Covers>| covers.is_some_and(|covers| covers & needs == needs);
            let sight = match (proxy.connected, proxy.seen) {
                _ if self.rule == Rule::Nothing => Sight::Holds,
                (true, _) if self.rule == Rule::WhatWasSent && has(proxy.sent) => Sight::Holds,
                (false, _) if self.rule == Rule::OnlyTheConnected => Sight::AwayWith,
                (true, Some(covers)) if has(covers) => Sight::Holds,
                (true, _) => Sight::Silent,
                (false, Some(covers)) if has(covers) => Sight::AwayWith,
                (false, Some(_)) => Sight::AwayWithout,
                (false, None) => Sight::Away,
            };
            HeldCertificate {
                serial: String::new(),
                identity: None,
                node: None,
                caller: String::new(),
                issued: START,
                until: None,
                handed: Handed::Alone,
                sight,
            }
        });
        Some(evidence::gather((next.key, heir.key), held, START, START))
    }

    /// The acts of the server that may come now; each is one durable step with what follows from it in memory.
    fn act(&self) -> Option<Self> {
        let mut next = self.clone();
        let signs = self.cas.iter().rposition(|ca| ca.issuing == Some(AuthorityState::Active));
        let root = self.cas.iter().rposition(|ca| ca.root == AuthorityState::Active)?;
        if let Some(due) = root_plan(&self.slots(), times(), self.evidence().as_ref(), START).due {
            match due {
                RootDue::Prepare => unreachable!("no root is old"),
                RootDue::PrepareBelow(number) => next.ca(number).issuing = Some(AuthorityState::Prepared),
                RootDue::Publish(number) => next.ca(number).published = true,
                RootDue::Activate(number) | RootDue::ActivateLate(number) => {
                    next.ca(number).root = AuthorityState::Active;
                }
                RootDue::Retire(number) => next.ca(number).root = AuthorityState::Retiring,
                RootDue::Remove(number) => {
                    let gone = next.ca(number);
                    (gone.root, gone.issuing) = (AuthorityState::Gone, Some(AuthorityState::Gone));
                }
            }
        } else if signs != Some(root) {
            // The issuing CAs' own plan: what is prepared under the active root signs, the one before it retires.
            next.cas[root].issuing = Some(AuthorityState::Active);
        } else if let Some(older) = self.cas[..root].iter().rposition(|ca| ca.issuing == Some(AuthorityState::Active)) {
            next.cas[older].issuing = Some(AuthorityState::Retiring);
        } else {
            let lives = |number: usize| self.proxies.iter().any(|proxy| proxy.leaf.map(usize::from) == Some(number));
            let over = (0..self.cas.len())
                .find(|number| self.cas[*number].issuing == Some(AuthorityState::Retiring) && !lives(*number))?;
            next.cas[over].issuing = Some(AuthorityState::Gone);
        }
        next.publish();
        Some(next)
    }

    fn ca(&mut self, number: Number) -> &mut Ca {
        &mut self.cas[usize::from(number)]
    }

    /// A crash: what was seen of proxies is forgotten, connections are gone.
    fn crashed(&self) -> Self {
        let mut next = self.clone();
        for proxy in &mut next.proxies {
            (proxy.connected, proxy.sent, proxy.seen) = (false, None, None);
            // Whoever takes bundles only has the silent wait, which begins anew with each run.
            if proxy.leaf.is_none() {
                *proxy = BLANK;
            }
        }
        next.publish();
        next
    }

    /// What one proxy, or what happens to it, may do.
    fn moves(&self, at: usize) -> Vec<(String, Self)> {
        let mut all = Vec::new();
        let mut add = |what: &str, change: &dyn Fn(&mut Proxy)| {
            let mut next = self.clone();
            change(&mut next.proxies[at]);
            all.push((format!("proxy {at} {what}"), next));
        };
        let proxy = self.proxies[at];
        let signs = self.cas.iter().rposition(|ca| ca.issuing == Some(AuthorityState::Active));
        let signs = signs.map(|number| Number::try_from(number).unwrap());
        if proxy.connected {
            add("goes away", &|proxy| {
                (proxy.connected, proxy.sent) = (false, None);
                if proxy.leaf.is_none() {
                    *proxy = Proxy { seen: proxy.seen, ..BLANK };
                }
            });
            match proxy.sent {
                Some(_) if proxy.stubborn => add("refuses", &|proxy| proxy.sent = None),
                Some(covers) => add("acknowledges", &|proxy| {
                    (proxy.bundle, proxy.sent, proxy.seen) = (Some(covers), None, Some(Some(covers)));
                }),
                None => {}
            }
            // A certificate comes by another stream than the bundle: at any time.
            if proxy.leaf != signs {
                add("is given a certificate", &|proxy| proxy.leaf = signs);
            }
        } else {
            let current = self.current;
            add("comes", &|proxy| {
                proxy.connected = true;
                let same = proxy.bundle == Some(current);
                proxy.sent = (!same).then_some(current);
                // A version that is not the current one says nothing to a server that did not publish it.
                if same {
                    proxy.seen = Some(Some(current));
                } else {
                    proxy.seen = Some(proxy.seen.flatten().filter(|covers| proxy.bundle == Some(*covers)));
                }
            });
        }
        if proxy.leaf.is_some() && !proxy.connected {
            // Without one it takes part in nothing, and whoever comes back to a mesh begins anew.
            add("'s certificate ends", &|proxy| *proxy = Proxy { seen: proxy.seen, ..BLANK });
        }
        if !proxy.stubborn && proxy.bundle.is_some() {
            add("turns stubborn", &|proxy| proxy.stubborn = true);
        }
        all
    }

    fn next(&self) -> Vec<(String, Self)> {
        let mut all: Vec<_> = (0..PROXIES).flat_map(|at| self.moves(at)).collect();
        all.extend(self.act().map(|next| ("the server acts".to_owned(), next)));
        all.push(("a crash".to_owned(), self.crashed()));
        if !self.asked {
            let mut next = Self { asked: true, ..self.clone() };
            next.cas.push(Ca { root: AuthorityState::Prepared, issuing: None, published: false });
            next.publish();
            all.push(("a new root is asked for".to_owned(), next));
        }
        all
    }

    /// The two that cannot talk, if there are.
    fn gap(&self) -> Option<(usize, usize)> {
        let pairs = (0..PROXIES).flat_map(|a| (0..PROXIES).map(move |b| (a, b)));
        pairs.filter(|(a, b)| a != b).find(|(shows, verifies)| {
            let (Some(leaf), verifier) = (self.proxies[*shows].leaf, self.proxies[*verifies]) else { return false };
            let needs: Covers = 0b11 << (2 * leaf);
            // One without a certificate of its own takes part in no handshake.
            verifier.leaf.is_some() && verifier.bundle.is_some_and(|covers| covers & needs != needs)
        })
    }
}

/// The way to a state, for whoever has to understand it.
fn way(world: &World, from: &HashMap<World, (World, String)>) -> Vec<String> {
    let (mut steps, mut at) = (Vec::new(), world.clone());
    while let Some((before, step)) = from.get(&at) {
        steps.push(step.clone());
        at = before.clone();
    }
    steps.reverse();
    steps
}

/// Every state that can be reached, and how; `law` is asked of each.
fn explore(first: World, law: impl Fn(&World) -> bool) -> Result<HashSet<World>, Vec<String>> {
    let (mut seen, mut from) = (HashSet::from([first.clone()]), HashMap::new());
    let mut open = VecDeque::from([first]);
    while let Some(world) = open.pop_front() {
        for (step, mut next) in world.next() {
            // Which of the two is which makes no difference.
            next.proxies.sort_unstable();
            if !seen.insert(next.clone()) {
                continue;
            }
            from.insert(next.clone(), (world.clone(), step));
            if !law(&next) {
                return Err(way(&next, &from));
            }
            open.push_back(next);
        }
    }
    Ok(seen)
}

#[test]
fn no_gap_in_trust_is_ever_reached() {
    let all =
        explore(World::first(Rule::TheProgram), |world| world.gap().is_none()).unwrap_or_else(|way| panic!("{way:#?}"));
    let ended = |world: &&World| {
        world.cas.len() == 2
            && world.cas[0].root == AuthorityState::Gone
            && world.cas[1].issuing == Some(AuthorityState::Active)
            && world.proxies.iter().all(|proxy| proxy.leaf == Some(1))
    };
    assert!(all.iter().filter(ended).count() > 0, "the roll-over can come to its end");
    let forgotten = |world: &&World| world.cas.len() == 2 && world.proxies.iter().any(|proxy| proxy.stubborn);
    assert!(all.iter().filter(forgotten).count() > 0);
    println!("{} states", all.len());
    assert!(all.len() > 5_000, "{}", all.len());
}

#[test]
fn less_evidence_leaves_a_gap() {
    for rule in [Rule::OnlyTheConnected, Rule::WhatWasSent, Rule::Nothing] {
        let found = explore(World::first(rule), |world| world.gap().is_none());
        let way = found.map(|all| all.len()).expect_err("a gap");
        assert!(way.contains(&"a new root is asked for".to_owned()), "{rule:?}: {way:?}");
    }
}

#[test]
fn whatever_happened_a_server_that_is_left_alone_comes_to_rest() {
    let all = explore(World::first(Rule::TheProgram), |_| true).unwrap();
    for world in all {
        let mut at = world.clone();
        for _ in 0..20 {
            match at.act() {
                Some(next) => at = next,
                None => break,
            }
        }
        assert!(at.act().is_none(), "{world:?}");
    }
}
