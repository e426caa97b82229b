//! What operators ordered of one subscription: a certificate now, before its time.
//!
//! An order is open until the next certificate is sent, whatever that one was issued for, and ends with the proxy's
//! answer to it. Whoever ordered may lose interest at any time; then the order is forgotten.

use tokio::sync::mpsc;

use crate::feed::LiveProxy;
use crate::feed::forced::Outcome;

/// What one order hears at most: that the certificate is on its way, and the answer.
const MOST_TOLD: usize = 2;

/// What became of an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) outcome: Outcome,
    /// The serial that is on its way, when that is what happened.
    pub(crate) new_serial: Option<String>,
}

/// The orders of one subscription.
#[derive(Debug, Default)]
pub(crate) struct Orders(Vec<Order>);

#[derive(Debug)]
struct Order {
    told: mpsc::Sender<Told>,
    /// The version that was sent for it.
    version: Option<String>,
}

impl Order {
    fn tell(&self, outcome: Outcome, new_serial: Option<String>) {
        // There is room for all that an order hears; a closed one needs to hear nothing.
        drop(self.told.try_send(Told { outcome, new_serial }));
    }
}

impl Orders {
    /// Orders a certificate in the place of `serial`, for a subscription as `facts` have it.
    pub(crate) fn place(&mut self, serial: &str, facts: &LiveProxy) -> mpsc::Receiver<Told> {
        let (told, hears) = mpsc::channel(MOST_TOLD);
        let mut order = Order { told, version: None };
        match &facts.serial {
            None => order.tell(Outcome::Refused("the identity is denied, or the certificate is revoked".into()), None),
            Some(held) if held == serial => self.0.push(order),
            // It was renewed since it was chosen: that is what was wanted.
            Some(held) => {
                order.version.clone_from(&facts.version);
                order.tell(Outcome::Pushed, Some(held.clone()));
                self.0.push(order);
                match (&facts.nack, &facts.version) {
                    (Some(text), Some(version)) => self.answered(version, facts, &Outcome::Nacked(text.clone())),
                    (None, Some(version)) if facts.acked() => self.answered(version, facts, &Outcome::Acked),
                    (Some(_) | None, _) => {}
                }
            }
        }
        hears
    }

    /// Whether a certificate must be sent for one of them.
    pub(crate) fn are_open(&mut self) -> bool {
        self.0.retain(|order| !order.told.is_closed());
        self.0.iter().any(|order| order.version.is_none())
    }

    /// A certificate is on its way.
    pub(crate) fn pushed(&mut self, serial: &str, version: &str) {
        for order in self.0.iter_mut().filter(|order| order.version.is_none()) {
            order.version = Some(version.to_owned());
            order.tell(Outcome::Pushed, Some(serial.to_owned()));
        }
    }

    /// The proxy answered to `version`. An answer to the newest is one to all before it, which it then never saw.
    pub(crate) fn answered(&mut self, version: &str, facts: &LiveProxy, outcome: &Outcome) {
        let newest = facts.version.as_deref() == Some(version);
        self.0.retain(|order| {
            let ends = order.version.as_deref().is_some_and(|sent| newest || sent == version);
            if ends {
                order.tell(outcome.clone(), None);
            }
            !ends
        });
    }

    /// There is no certificate for those that are open.
    pub(crate) fn end_open(&mut self, why: &Outcome) {
        self.0.retain(|order| {
            let open = order.version.is_none();
            if open {
                order.tell(why.clone(), None);
            }
            !open
        });
    }
}
