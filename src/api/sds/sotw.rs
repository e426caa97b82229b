//! State-of-the-world xDS in front of one session.
//!
//! Requests on a stream come in order, so the last one always says everything that the client wants now; what it
//! answers is told by the nonce, which is unique within the stream. A nonce that is unknown, answered before or
//! overtaken by a newer version of the same secret says nothing (xDS protocol, "ACK and NACK"). The version of a
//! stream's first request is what the client holds from before: that is how a proxy keeps its certificate over our
//! restart.

use std::sync::Arc;

use bytes::Bytes;
use http_body::Body;
use prost::Message;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::api::sds::SdsLimits;
use crate::api::sds::body::Outbox;
use crate::api::sds::reader::Reader;
use crate::api::status;
use crate::api::text::clean;
use crate::feed::Session;
use crate::feed::names::LONGEST_SECRET_NAME;
use crate::feed::payload::SECRET_TYPE;
use crate::proto::envoy::service::discovery::v3::DiscoveryRequest;

/// The most of a proxy's own label that is kept, in bytes.
const LONGEST_NODE: usize = 256;

/// The most of a proxy's words about a refused push that is kept, in bytes.
const LONGEST_NACK: usize = 512;

/// The longest version that can be one of ours, in bytes.
const LONGEST_VERSION: usize = 256;

/// One stream.
pub(super) struct Sotw<B> {
    pub(super) reader: Reader<B>,
    pub(super) session: Session,
    pub(super) outbox: Arc<Outbox>,
    pub(super) limits: Arc<SdsLimits>,
    pub(super) stopping: CancellationToken,
}

impl<B: Body<Data = Bytes> + Unpin> Sotw<B> {
    /// Runs the stream to its end.
    pub(super) async fn run(mut self) -> Status {
        let (mut first, mut reading) = (true, true);
        loop {
            tokio::select! {
                () = self.stopping.cancelled() => return Status::unavailable("the server stops; come back soon"),
                request = self.reader.next(), if reading => match request {
                    Ok(Some(message)) => {
                        if let Err(status) = self.request(&message, first).await {
                            return status;
                        }
                        first = false;
                    }
                    // A client that only listens from now on is still served.
                    Ok(None) if !first => reading = false,
                    Ok(None) => return Status::invalid_argument("a stream needs a request that names its secrets"),
                    Err(why) => return why.status(),
                },
                update = self.session.next() => match update {
                    Ok(update) => self.outbox.put(update),
                    Err(end) => return status::of_stream(&end),
                },
            }
        }
    }

    async fn request(&mut self, message: &[u8], first: bool) -> Result<(), Status> {
        let request = DiscoveryRequest::decode(message)
            .map_err(|_| Status::invalid_argument("a message is no DiscoveryRequest"))?;
        self.check(&request, first)?;
        if let Some(node) = request.node.as_ref().filter(|node| !node.id.is_empty()) {
            self.session.set_node(Some(clean(&node.id, LONGEST_NODE)));
        }
        if !first {
            self.answer(&request).await;
        }
        let wanted = |name: &str| request.resource_names.iter().any(|wanted| wanted == name);
        self.session.retain(wanted);
        self.outbox.retain(wanted);
        // A longer one is another control plane's: as good as none.
        let ours = 1..=LONGEST_VERSION;
        let named = Some(request.version_info.as_str()).filter(|version| first && ours.contains(&version.len()));
        for name in &request.resource_names {
            self.session.subscribe(name, named).await.map_err(|end| status::of_stream(&end))?;
        }
        Ok(())
    }

    fn check(&self, request: &DiscoveryRequest, first: bool) -> Result<(), Status> {
        if !request.type_url.is_empty() && request.type_url != SECRET_TYPE {
            return Err(Status::invalid_argument(format!("this service has one type only: {SECRET_TYPE}")));
        }
        let (names, most) = (request.resource_names.len(), self.limits.max_names_per_stream);
        if names > most {
            let said = format!("{names} names are more than max_names_per_stream ({most}): open another stream");
            return Err(Status::invalid_argument(said));
        }
        if first && names == 0 {
            return Err(Status::invalid_argument("the first request must name its secrets: there is no wildcard"));
        }
        // Names go into records and onto operators' screens: nothing that a terminal obeys.
        let printable = |name: &str| name.chars().all(|c| c.is_ascii_graphic() || c == ' ');
        let wrong = |name: &String| name.is_empty() || name.len() > LONGEST_SECRET_NAME || !printable(name);
        if request.resource_names.iter().any(wrong) {
            let said = format!("a secret's name has 1 to {LONGEST_SECRET_NAME} printable ASCII characters");
            return Err(Status::invalid_argument(said));
        }
        Ok(())
    }

    async fn answer(&mut self, request: &DiscoveryRequest) {
        let Some((name, version)) = self.outbox.answered(&request.response_nonce) else { return };
        match &request.error_detail {
            None => self.session.acked(&name, &version),
            Some(error) => self.session.nacked(&name, &version, &clean(&error.message, LONGEST_NACK)).await,
        }
    }
}
