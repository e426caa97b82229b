//! `chancery bench`: how fast this build is on this machine, beside what the machine itself can do in the same run.
//!
//! Every part works in a new directory of its own on the real street: durable records, lints, limits and policy are on, as in
//! a server. Only the rate of issues and the number of connections and certificates of one caller are raised, because the
//! whole load comes from one process. A figure is CPU time or a ratio where it can be: a wall clock on a shared machine says
//! little. Nothing here is a test, and no test looks at a figure.

mod grpc;
mod ledger;
mod lists;
mod past;
mod raw;
mod report;
mod server;
mod streams;
mod street;

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};

use self::raw::Machine;
use self::report::Report;
#[cfg(test)]
pub(crate) use self::report::{BenchOutput, MachineOutput, Row};
use super::Context;
use super::exit::{Done, Failure};

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Everything
    All,
    /// The street in this process, 64 requests in flight: CPU for each certificate
    Street,
    /// Over gRPC on the Unix socket: CPU of the server, throughput, and how long one client waits
    Grpc,
    /// The ledger alone: appends, and when a signed checkpoint covers them
    Ledger,
    /// Idle streams: memory for each; a new bundle to all of them
    Streams,
    /// A CRL: building and signing
    Crl,
    /// A long past: the start of a server with it, and its verification
    Past,
}

/// How large.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Size {
    /// Seconds in all: shows that it runs, its figures mean nothing
    Small,
    /// What docs/performance.md quotes: minutes
    Full,
}

/// `bench`.
#[derive(Debug, Args)]
pub struct Bench {
    /// What to measure
    #[arg(value_enum, default_value_t = Part::All)]
    part: Part,
    /// How large
    #[arg(long, value_enum, default_value_t = Size::Full)]
    size: Size,
    /// Works in a new directory below this one: the file system whose fdatasync is measured
    #[arg(long, value_name = "DIR", default_value = ".")]
    below: PathBuf,
}

/// The sizes of one run.
#[derive(Debug, Clone, Copy)]
struct Sizes {
    /// How long one figure is taken.
    span: Duration,
    /// Clients of the throughput's rows.
    clients: &'static [usize],
    /// Connections of idle proxies, two streams each.
    connections: usize,
    /// Revoked certificates on a CRL.
    revoked: usize,
    /// Records of a long past.
    records: u64,
}

impl Size {
    fn sizes(self) -> Sizes {
        match self {
            Self::Small => Sizes {
                span: Duration::from_millis(200),
                clients: &[1, 16],
                connections: 20,
                revoked: 200,
                records: 1_000,
            },
            Self::Full => Sizes {
                span: Duration::from_secs(4),
                clients: &[1, 16, 64, 256],
                connections: 5_000,
                revoked: 10_000,
                records: 1_000_000,
            },
        }
    }
}

/// A directory that goes with the run.
struct Scratch(PathBuf);

impl Scratch {
    fn new(below: &Path) -> Result<Self, Failure> {
        let below = std::path::absolute(below)?;
        let path = below.join(format!("chancery-bench-{}", std::process::id()));
        std::fs::create_dir(&path).map_err(|error| {
            Failure::failed(format!("{}: {error}; name another directory with --below", path.display()))
        })?;
        Ok(Self(path))
    }

    /// A place in it that nobody has used.
    fn sub(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// What the parts work with.
struct Bed<'a> {
    sizes: Sizes,
    machine: &'a Machine,
    scratch: &'a Scratch,
}

pub(crate) fn run(args: &Bench, context: &Context) -> Done {
    super::serve::take_all_descriptors();
    let scratch = Scratch::new(&args.below)?;
    let sizes = args.size.sizes();
    let machine = Machine::measure(&scratch.0, &context.screen.clock, sizes.span)?;
    let mut report = Report::new(&machine);
    let bed = Bed { sizes, machine: &machine, scratch: &scratch };
    let wanted = |part| args.part == Part::All || args.part == part;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        if wanted(Part::Street) {
            street::measure(&bed, &mut report).await?;
        }
        if wanted(Part::Grpc) {
            grpc::measure(&bed, &mut report).await?;
        }
        if wanted(Part::Ledger) {
            ledger::measure(&bed, &mut report).await?;
        }
        if wanted(Part::Streams) {
            streams::measure(&bed, &mut report).await?;
        }
        if wanted(Part::Crl) {
            lists::measure(&bed, &mut report).await?;
        }
        if wanted(Part::Past) {
            past::measure(&bed, &mut report).await?;
        }
        Ok::<_, Failure>(())
    })?;
    context.screen.show(&report.output(), report::render)
}

/// The middle of some times, and the one that 99 of 100 do not exceed, in microseconds.
fn middle_and_tail(times: &mut [Duration]) -> (f64, f64) {
    times.sort_unstable();
    let at = |of_hundred: usize| {
        let index = (times.len() * of_hundred / 100).min(times.len().saturating_sub(1));
        times.get(index).copied().unwrap_or_default().as_secs_f64() * 1e6
    };
    (at(50), at(99))
}
