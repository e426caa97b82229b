//! `chancery fetch`: a certificate in files, kept fresh, for everything that is not Envoy.
//!
//! A client of SDS like any other: it names the version that it holds, acknowledges a version once its files are whole
//! and on the disk, refuses one whose key does not match, and runs a command after each change. It asks policy nothing
//! and trusts the server for the rest. `client` speaks the protocol, `files` swaps sets, `hook` runs the command.

pub(crate) mod client;
pub(crate) mod envoy;
mod error;
mod files;
mod hook;
mod lists;
mod server;
mod set;
#[cfg(test)]
mod tests;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use self::client::{Content, Offer, Subscription};
pub use self::error::{FetchError, SetErrorText};
use self::files::Files;
pub use self::files::FilesError;
use self::hook::Hook;
pub use self::hook::HookError;
use self::lists::check_lists;
use self::server::Server;
use self::set::{Leaf, Set, SetError, check_bundle, check_certificate};
use crate::cli::tls::Remote;
use crate::clock::{Clock, rfc3339_seconds};
use crate::entropy::Entropy;
use crate::toml_reader::parse_span;
use crate::x509::crl::Scope;

/// The first and the longest wait before connecting anew; each is jittered over its whole length.
const RECONNECT: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));

/// How long `--once` waits when `--timeout` does not say.
const ONCE_TIMEOUT: Duration = Duration::from_secs(30);

/// After the server has answered for the roots, how long silence about a certificate that we named must last to mean
/// "keep it": the protocol has no word for that.
const SILENCE: Duration = Duration::from_millis(700);

/// How long an acknowledgement may take to leave before the process ends.
const LINGER: Duration = Duration::from_millis(50);

/// When the user is told that nothing came yet.
const PATIENCE: Duration = Duration::from_secs(3);

/// `chancery fetch`
#[derive(Debug, Clone, Args)]
pub struct FetchArgs {
    /// Chancery's SDS socket [default: sds.sock in the data directory]
    #[arg(long, value_name = "PATH", conflicts_with = "server")]
    pub socket: Option<PathBuf>,
    /// Where cert.pem, key.pem, bundle.pem and crl.pem go; made with mode 0700 when it is not there
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
    /// The secret with the certificate: default, or a SPIFFE ID that policy grants to you
    #[arg(long, value_name = "NAME", default_value = "default")]
    pub name: String,
    /// The secret with the roots
    #[arg(long, value_name = "NAME", default_value = "ROOTCA")]
    pub bundle_name: String,
    /// Ends as soon as the files are there and current
    #[arg(long)]
    pub once: bool,
    /// Runs after each change of the files, by sh -c, with CHANCERY_DIR set; such as "nginx -s reload"
    #[arg(long, value_name = "COMMAND")]
    pub exec: Option<String>,
    /// Gives up when there are no files by then [default: 30s with --once, else never]
    #[arg(long, value_name = "TIME", value_parser = parse_span)]
    pub timeout: Option<Duration>,
    /// A label for records and tables
    #[arg(long, value_name = "NAME", default_value = "chancery-fetch")]
    pub node: String,
}

/// Fetches until SIGTERM or SIGINT, or with `--once` until the files are current: from `remote`, or over a socket when it
/// is `None`. What people read goes to `out`.
///
/// # Errors
/// [`FetchError`]; without `--once` only what trying again can't mend.
pub(crate) async fn run(
    args: &FetchArgs,
    data_dir: &Path,
    remote: Option<Remote>,
    out: &mut (dyn Write + Send),
) -> Result<(), FetchError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(FetchError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(FetchError::Signals)?;
    let socket = args.socket.clone().unwrap_or_else(|| data_dir.join("sds.sock"));
    let dir = std::path::absolute(&args.dir).map_err(|source| FilesError::Io { path: args.dir.clone(), source })?;
    let clock = Clock::system();
    let (files, server) = match remote {
        None => (Files::open(&dir)?, Server::Socket(socket)),
        Some(remote) => {
            let files = Files::open_adopting(&dir, &args.name, &args.bundle_name)?;
            envoy::write_files(&dir)?;
            (files, Server::Remote { remote, own: dir.clone() })
        }
    };
    let hook = args.exec.clone().map(|command| Hook { command, dir });
    let fetcher = Fetcher {
        args,
        server,
        files,
        hook,
        clock,
        entropy: Entropy::system(),
        changes: watch::Sender::new(0),
        out: Mutex::new(out),
    };
    tokio::select! {
        ended = fetcher.run() => ended,
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    }
}

struct Fetcher<'a> {
    args: &'a FetchArgs,
    server: Server,
    files: Files,
    hook: Option<Hook>,
    clock: Clock,
    entropy: Entropy,
    /// Counts the changes of the files.
    changes: watch::Sender<u64>,
    out: Mutex<&'a mut (dyn Write + Send)>,
}

/// What a session has so far.
#[derive(Default)]
struct Progress {
    held: Option<Set>,
    certificate: Option<Offer>,
    bundle: Option<Offer>,
    /// What the offered certificate says.
    leaf: Option<Leaf>,
    /// The server has answered for the roots.
    roots_known: bool,
    /// A new certificate is on the disk.
    written: bool,
    told: bool,
}

impl Fetcher<'_> {
    fn say(&self, text: &str) {
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        // Nobody may be listening; the files are what counts.
        let _ = writeln!(out, "{text}");
        let _ = out.flush();
    }

    async fn run(&self) -> Result<(), FetchError> {
        if self.args.once {
            self.first_files(self.args.timeout.unwrap_or(ONCE_TIMEOUT), self.session()).await?;
            if let Some(hook) = self.hook.as_ref().filter(|_| !self.files.ran()) {
                self.run_hook(hook).await?;
            }
            return Ok(());
        }
        tokio::select! {
            ended = self.stay() => ended,
            () = self.hook_after_each_change() => Ok(()),
        }
    }

    /// `work`, which must have made files before `timeout` is over.
    async fn first_files<T>(
        &self,
        timeout: Duration,
        work: impl Future<Output = Result<T, FetchError>>,
    ) -> Result<T, FetchError> {
        let work = std::pin::pin!(work);
        tokio::select! {
            ended = work => ended,
            () = self.clock.sleep(timeout) => Err(FetchError::Unanswered { name: self.args.name.clone() }),
        }
    }

    async fn stay(&self) -> Result<(), FetchError> {
        let start = self.clock.monotonic();
        let mut step = RECONNECT.0;
        let mut said = String::new();
        let mut last = None;
        loop {
            let before = self.clock.monotonic();
            let left =
                self.args.timeout.filter(|_| self.load().is_none()).map(|limit| limit.saturating_sub(before - start));
            let ended = match left {
                // The files that a session makes end the timeout, so it is measured for each session anew.
                Some(left) => tokio::select! {
                    ended = self.session() => ended,
                    why = self.nothing_by(left) => return Err(last.unwrap_or(why)),
                },
                None => self.session().await,
            };
            let Err(why) = ended else { return Ok(()) };
            // A full disk passes, for those who stay.
            let for_good = matches!(why, FetchError::Files(FilesError::NotOurs { .. } | FilesError::InUse { .. }));
            if for_good || (self.args.once && matches!(why, FetchError::Files(_))) {
                return Err(why);
            }
            if self.clock.monotonic() - before > RECONNECT.1 {
                step = RECONNECT.0;
            }
            // A server that is away says the same at each try; once is enough.
            let text = why.to_string();
            if text != said {
                self.say(&format!("waiting   {text}; trying again"));
                said = text;
            }
            last = Some(why);
            self.clock.sleep(step.mul_f64(self.entropy.unit())).await;
            step = (step * 2).min(RECONNECT.1);
        }
    }

    /// Returns when there are no files after `span`.
    async fn nothing_by(&self, span: Duration) -> FetchError {
        let mut changes = self.changes.subscribe();
        tokio::select! {
            () = self.clock.sleep(span) => FetchError::Unanswered { name: self.args.name.clone() },
            _ = changes.changed() => std::future::pending().await,
        }
    }

    /// The files that we hold, if they fit together and are in time (with `--once`: in the first half of it).
    fn load(&self) -> Option<Set> {
        let set = self.files.load(&self.args.name, &self.args.bundle_name)?;
        let now = self.clock.now();
        let leaf = check_certificate(&set.chain, &set.key, now).ok()?;
        // Whether each root must have a list was asked when they were written.
        check_bundle(&set.bundle).and_then(|()| check_lists(&set.crl, &set.bundle, Scope::LeafOnly)).ok()?;
        // Who comes once does not stay for the renewal, so it asks for a new one as soon as that would be due.
        let past_half = now - leaf.not_before > (leaf.not_after - leaf.not_before) / 2;
        (!(self.args.once && past_half)).then_some(set)
    }

    /// One connection: until it breaks, or with `--once` until the files are current.
    async fn session(&self) -> Result<(), FetchError> {
        let mut progress = Progress { held: self.load(), ..Progress::default() };
        let channel = self.server.connect().await?;
        let args = self.args;
        let (held, held_roots) =
            progress.held.as_ref().map_or(("", ""), |set| (&*set.certificate_version, &*set.bundle_version));
        // With --once the roots are asked for in any case: the answer shows that the server has read our names.
        let held_roots = if args.once { "" } else { held_roots };
        let mut certificate = Subscription::open(channel.clone(), &args.node, &args.name, held).await?;
        let mut roots = Subscription::open(channel, &args.node, &args.bundle_name, held_roots).await?;
        loop {
            if args.once && progress.roots_known && progress.written {
                self.clock.sleep(LINGER).await;
                return Ok(());
            }
            let settled = args.once
                && progress.roots_known
                && progress.held.as_ref().is_some_and(|held| !held.certificate_version.is_empty());
            tokio::select! {
                offer = certificate.next() => progress.take_certificate(offer?, &mut certificate, args, &self.clock).await?,
                offer = roots.next() => progress.take_bundle(offer?, &mut roots, args).await?,
                () = self.clock.sleep(SILENCE), if settled => {
                    self.say(&format!("kept      {}", args.dir.display()));
                    return Ok(());
                }
                () = self.clock.sleep(PATIENCE), if progress.held.is_none() && !progress.told => {
                    progress.told = true;
                    let name = if progress.certificate.is_none() { &args.name } else { &args.bundle_name };
                    self.say(&format!("waiting   {}", FetchError::Unanswered { name: name.clone() }));
                }
            }
            let Some(set) = progress.next_set() else { continue };
            self.files.write(&set, &args.name, &args.bundle_name)?;
            self.report(progress.leaf.take());
            // Only now: what is acknowledged is on the disk.
            if let Some(offer) = progress.certificate.take() {
                certificate.accept(&offer).await;
                progress.written = true;
            }
            if let Some(offer) = progress.bundle.take() {
                roots.accept(&offer).await;
            }
            progress.held = Some(set);
            self.changes.send_modify(|count| *count += 1);
        }
    }

    fn report(&self, leaf: Option<Leaf>) {
        let dir = self.args.dir.display();
        match leaf {
            Some(leaf) => {
                let (end, Leaf { identity, serial, .. }) = (rfc3339_seconds(leaf.not_after), leaf);
                self.say(&format!("wrote     {dir}   {identity}   serial {serial}   until {end}"));
            }
            None => self.say(&format!("wrote     {dir}   new roots or revocation lists")),
        }
    }

    async fn hook_after_each_change(&self) {
        let Some(hook) = &self.hook else { return std::future::pending().await };
        let mut changes = self.changes.subscribe();
        loop {
            changes.mark_unchanged();
            // Also for a change that a crash separated from its command.
            if self.files.current().is_some() && !self.files.ran() {
                // Reported already; the next change tries again.
                let _ = self.run_hook(hook).await;
            }
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    async fn run_hook(&self, hook: &Hook) -> Result<(), FetchError> {
        let Some(set) = self.files.current() else { return Ok(()) };
        hook.run(&self.clock, |why, wait| match wait {
            Some(wait) => self.say(&format!("failed    {why}; trying again in {} s", wait.as_secs())),
            None => self.say(&format!("failed    {why}; given up until the next change")),
        })
        .await?;
        Ok(self.files.mark_ran(&set)?)
    }
}

impl Progress {
    async fn take_certificate(
        &mut self,
        offer: Offer,
        stream: &mut Subscription,
        args: &FetchArgs,
        clock: &Clock,
    ) -> Result<(), FetchError> {
        let checked = match &offer.content {
            Some(Content::Certificate { chain, key }) => check_certificate(chain, key, clock.now()),
            Some(Content::Bundle { .. }) | None => Err(SetError::Kind("certificate")),
        };
        match checked {
            Ok(leaf) => {
                (self.leaf, self.certificate) = (Some(leaf), Some(offer));
                Ok(())
            }
            Err(why) => refuse(stream, &offer, &args.name, why, args.once).await,
        }
    }

    async fn take_bundle(
        &mut self,
        offer: Offer,
        stream: &mut Subscription,
        args: &FetchArgs,
    ) -> Result<(), FetchError> {
        let checked = match &offer.content {
            Some(Content::Bundle { pem, crl, scope }) => check_bundle(pem).and_then(|()| check_lists(crl, pem, *scope)),
            Some(Content::Certificate { .. }) | None => Err(SetError::Kind("bundle")),
        };
        if let Err(why) = checked {
            return refuse(stream, &offer, &args.bundle_name, why, args.once).await;
        }
        self.roots_known = true;
        if self.held.as_ref().is_some_and(|held| held.bundle_version == offer.version) {
            stream.accept(&offer).await;
        } else {
            self.bundle = Some(offer);
        }
        Ok(())
    }

    /// The set that should be on the disk now, if it is another than the one that is.
    fn next_set(&self) -> Option<Set> {
        let held = self.held.as_ref();
        if self.certificate.is_none() && self.bundle.is_none() {
            return None;
        }
        let (chain, key, certificate_version) = match &self.certificate {
            Some(Offer { version, content: Some(Content::Certificate { chain, key }), .. }) => (chain, key, version),
            _ => held.map(|held| (&held.chain, &held.key, &held.certificate_version))?,
        };
        let (bundle, crl, bundle_version) = match &self.bundle {
            Some(Offer { version, content: Some(Content::Bundle { pem, crl, .. }), .. }) => (pem, crl, version),
            _ => held.map(|held| (&held.bundle, &held.crl, &held.bundle_version))?,
        };
        Some(Set {
            chain: chain.clone(),
            key: key.clone(),
            bundle: bundle.clone(),
            crl: crl.clone(),
            certificate_version: certificate_version.clone(),
            bundle_version: bundle_version.clone(),
        })
    }
}

/// Tells the server; what is held stays in use. With `--once` there is nothing to wait for.
async fn refuse(
    stream: &mut Subscription,
    offer: &Offer,
    name: &str,
    why: SetError,
    once: bool,
) -> Result<(), FetchError> {
    stream.refuse(offer, &why.to_string()).await;
    if once {
        return Err(FetchError::Unusable { name: name.to_owned(), source: why.into() });
    }
    Ok(())
}
