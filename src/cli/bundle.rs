//! `chancery bundle`: the roots, as everybody gets them.

use clap::{Args, Subcommand, ValueEnum};

use super::Context;
use super::exit::Done;
use super::screen::{Format, out};
use crate::proto::chancery::admin::v1 as pb;

/// The trust bundle.
#[derive(Debug, Subcommand)]
pub enum Bundle {
    /// Prints the bundle as it is published
    Show(Show),
}

/// In which form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Form {
    /// Certificates in PEM.
    Pem,
    /// A SPIFFE bundle (JWKS).
    Spiffe,
}

/// `bundle show`.
#[derive(Debug, Args)]
pub struct Show {
    /// The form
    #[arg(long, value_enum, default_value_t = Form::Pem)]
    format: Form,
}

impl Bundle {
    pub(crate) async fn run(self, context: &Context) -> Done {
        let Self::Show(args) = self;
        let answer = context.admin().await?.get_bundle(pb::GetBundleRequest {}).await?.into_inner();
        // Nothing but the bundle in text, so that it can be piped into a file.
        match (context.screen.format, args.format) {
            (Format::Json, _) => context.screen.show(&answer, |_| String::new()),
            (Format::Text, Form::Pem) => out(&answer.pem),
            (Format::Text, Form::Spiffe) => out(&format!("{}\n", answer.spiffe_json.trim_end())),
        }
    }
}
