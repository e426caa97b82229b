//! One request to a path of Vault's, JSON both ways: what the library has no endpoint for.

use std::marker::PhantomData;

use rustify::Endpoint;
use rustify::enums::{RequestMethod, RequestType, ResponseType};
use rustify::errors::ClientError;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// What is done to the path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// It is read.
    Read,
    /// It is written, and answers.
    Write,
}

/// A request with the body `B` that is answered by `R`.
pub(super) struct Call<'a, B, R> {
    path: String,
    verb: Verb,
    body: Option<&'a B>,
    answer: PhantomData<fn() -> R>,
}

impl<'a, B, R> Call<'a, B, R> {
    pub(super) fn new(verb: Verb, path: &str, body: Option<&'a B>) -> Self {
        Self { path: path.to_owned(), verb, body, answer: PhantomData }
    }
}

impl<B: Serialize + Sync, R: DeserializeOwned + Send + Sync> Endpoint for Call<'_, B, R> {
    type Response = R;
    const REQUEST_BODY_TYPE: RequestType = RequestType::JSON;
    const RESPONSE_BODY_TYPE: ResponseType = ResponseType::JSON;

    fn path(&self) -> String {
        self.path.clone()
    }

    fn method(&self) -> RequestMethod {
        match self.verb {
            Verb::Read => RequestMethod::GET,
            Verb::Write => RequestMethod::POST,
        }
    }

    fn body(&self) -> Result<Option<Vec<u8>>, ClientError> {
        let Some(body) = self.body else { return Ok(None) };
        serde_json::to_vec(body).map(Some).map_err(|source| ClientError::DataParseError { source: source.into() })
    }
}
