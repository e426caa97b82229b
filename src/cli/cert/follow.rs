//! Follows what a server tells of an act that ends with a push: what becomes of each holder, then who has the push.

use std::time::Duration;

use tonic::Streaming;

use super::choice::Ticker;
use super::rotate::{Report, RotateOutput};
use crate::cli::exit::Failure;
use crate::cli::screen::Screen;
use crate::proto::chancery::admin::v1 as pb;

/// What an act's messages become.
pub(in crate::cli) trait Followed {
    /// What the server sends.
    type Message;

    /// Takes out of a message what became of one holder.
    fn reissued_in(message: &mut Self::Message) -> Option<pb::RotatedCertificate>;

    /// Whether it says that the push is under way.
    fn is_pushed(message: &Self::Message) -> bool;

    /// What a waiting operator sees; with how many holders have their answer, where the message was about one.
    fn line(&self, message: &Self::Message, reissued: Option<u64>) -> String;

    /// Takes a message up.
    fn take(&mut self, message: Self::Message);

    /// What became of all holders, and the record of the act.
    fn reissued(&mut self) -> (&mut Option<RotateOutput>, Option<&String>);
}

/// Reads until all streams have answered, or `wait` has passed since the push. What was done is in `output` after a failure
/// too.
pub(in crate::cli) async fn to_the_end<T: Followed>(
    mut answer: Streaming<T::Message>,
    wait: Duration,
    screen: &Screen,
    output: &mut T,
) -> Option<Failure> {
    let (mut report, ticker, mut until) = (Report::default(), Ticker::new(screen), None);
    let failure = loop {
        let next = match until {
            None => answer.message().await,
            Some(until) => match tokio::time::timeout_at(until, answer.message()).await {
                Ok(next) => next,
                Err(_) => break None,
            },
        };
        let mut message = match next {
            Ok(Some(message)) => message,
            Ok(None) => break None,
            Err(status) => break Some(Failure::from(status)),
        };
        if until.is_none() && T::is_pushed(&message) {
            until = Some(tokio::time::Instant::now() + wait);
        }
        let reissued = T::reissued_in(&mut message).map(|one| {
            report.take(one);
            output.reissued().0.get_or_insert_default();
            report.ended()
        });
        ticker.show(&output.line(&message, reissued));
        output.take(message);
    };
    ticker.clear();
    if let (Some(reissued), record) = output.reissued() {
        report.sum_up(reissued);
        reissued.chosen = u64::try_from(reissued.certificates.len()).unwrap_or(u64::MAX);
        reissued.record = record.cloned().unwrap_or_default();
    }
    failure
}
