//! What the admin service's hands hold on to: the feed, which rotates, revocation, which revokes, and the keeper of the
//! authorities.
//!
//! What an operator ordered is a task of the server, so that a command that is interrupted leaves nothing half done.

use futures::future::BoxFuture;
use tokio::sync::mpsc;

use super::state::State;
use crate::api::admin::backend::Hands;
use crate::audit::event::Event;
use crate::ca::authority::acts::{self, Act, ActError, Told};
use crate::ca::issue::Street;
use crate::ca::standing::Denied;
use crate::feed::forced::{Delivery, Rotation};
use crate::feed::{Feed, LiveProxy};
use crate::revocation::{AuthorityOrder, CrlState, Order, RevokeError, Revoker, Step};
use crate::tasks::Tasks;

/// Steps of a revocation that wait for their reader: all there are.
const STEPS: usize = 8;

/// Feed and revocation for operators.
pub(super) struct AppHands {
    feed: Feed,
    revoker: Revoker,
    street: Street,
    tasks: Tasks,
    orders: mpsc::Sender<acts::Order>,
}

impl AppHands {
    pub(super) fn new(state: &State, feed: Feed, orders: mpsc::Sender<acts::Order>) -> Self {
        let (revoker, street, tasks) = (state.revoker.clone(), state.street.clone(), state.tasks.clone());
        Self { feed, revoker, street, tasks, orders }
    }

    /// Does `work`, which tells its steps, as a task of the server.
    fn revocation<F: Future<Output = Result<(), RevokeError>> + Send + 'static>(
        &self,
        work: impl FnOnce(mpsc::Sender<Step>) -> F,
    ) -> mpsc::Receiver<Result<Step, RevokeError>> {
        let (told, steps) = mpsc::channel(STEPS);
        let (tell, mut said) = mpsc::channel(STEPS);
        let work = work(tell);
        self.tasks.spawn("hands.revoke", async move {
            let relay = async {
                while let Some(step) = said.recv().await {
                    // Nobody listens any more: it is carried out all the same.
                    let _ = told.send(Ok(step)).await;
                }
            };
            let (outcome, ()) = futures::join!(work, relay);
            if let Err(error) = outcome {
                let _ = told.send(Err(error)).await;
            }
        });
        steps
    }
}

impl Hands for AppHands {
    fn live(&self) -> Vec<LiveProxy> {
        self.feed.live()
    }

    fn rotate(&self, choose: &dyn Fn(&LiveProxy) -> bool) -> Rotation {
        self.feed.rotate(choose)
    }

    fn revoke(&self, order: Order) -> mpsc::Receiver<Result<Step, RevokeError>> {
        let revoker = self.revoker.clone();
        self.revocation(|tell| async move { revoker.revoke(order, tell).await })
    }

    fn revoke_authority(&self, order: AuthorityOrder) -> mpsc::Receiver<Result<Step, RevokeError>> {
        let revoker = self.revoker.clone();
        self.revocation(|tell| async move { revoker.revoke_authority(order, tell).await })
    }

    fn order(&self, act: Act, template: Event) -> mpsc::Receiver<Told> {
        let (told, words) = mpsc::channel(acts::MOST_WORDS);
        let order = acts::Order { act, template, told: told.clone() };
        if self.orders.try_send(order).is_err() {
            // The first word of an empty channel finds room.
            let _ = told.try_send(Told::Failed(ActError::Busy));
        }
        words
    }

    fn release<'a>(&'a self, pattern: &'a str, template: Event) -> BoxFuture<'a, Result<String, RevokeError>> {
        Box::pin(async move { Ok(self.revoker.release(pattern, template).await?.to_string()) })
    }

    fn denies(&self) -> Vec<(String, Denied)> {
        self.street.standing().denies()
    }

    fn crls(&self) -> Vec<CrlState> {
        self.revoker.crls()
    }

    fn delivery(&self) -> Delivery {
        self.feed.delivery()
    }

    fn carry_out(&self, work: BoxFuture<'static, ()>) {
        self.tasks.spawn("hands", work);
    }
}
