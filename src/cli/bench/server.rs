//! The servers that are measured: one in this process, or this very program as a child, so that its CPU and memory are its
//! own.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};
use tonic::transport::Channel;

use super::Failure;
use crate::app::{self, Bound};
use crate::cli::fetch::client;
use crate::clock::Clock;
use crate::config::Settings;

/// How long a start or an end may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// The rules of every run, and limits that let one process bring the whole load.
fn configuration(directory: &Path) -> String {
    let directory = directory.display();
    format!(
        "trust_domain = \"bench.example\"\ndata_dir = \"{directory}/data\"\npolicy = \"{directory}/policy.toml\"\n\n\
         [[sds.listen]]\nname = \"sds\"\npath = \"{directory}/sds.sock\"\n\n\
         [admin]\npath = \"{directory}/admin.sock\"\n\n\
         [limits]\nissue_rate_per_caller = 1000000\nissue_burst_per_caller = 1000000\n\
         max_certificates_per_caller = 1000000\n\n[log]\nlevel = \"error\"\n"
    )
}

const POLICY: &str = "[[rule]]\nname = \"bench\"\nmatch = { uid = \"any\" }\n\
                      identity = \"spiffe://{trust_domain}/user/{uid}\"\nlifetime = \"24h\"\n";

/// Where one server keeps everything.
#[derive(Debug, Clone)]
pub(super) struct Place(PathBuf);

impl Place {
    /// A new one with its configuration.
    pub(super) fn new(directory: PathBuf) -> Result<Self, Failure> {
        std::fs::create_dir(&directory)?;
        std::fs::write(directory.join("policy.toml"), POLICY)?;
        std::fs::write(directory.join("chancery.toml"), configuration(&directory))?;
        Ok(Self(directory))
    }

    /// A place beside the server's own for a client's files.
    pub(super) fn beside(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    pub(super) fn data(&self) -> PathBuf {
        self.0.join("data")
    }

    /// A server in this process; it issues, and serves nobody.
    pub(super) async fn within(&self) -> Result<Bound, Failure> {
        let path = self.0.join("chancery.toml");
        let text = configuration(&self.0);
        let settings = Settings::of_text(&path, &text).map_err(|error| Failure::failed(error.to_string()))?;
        app::build(settings).await.map_err(|error| Failure::failed(error.to_string()))
    }

    /// A child, ready to serve; and how long that took.
    pub(super) async fn child(&self, clock: &Clock) -> Result<(Server, Duration), Failure> {
        let begin = clock.monotonic();
        let child = Command::new(std::env::current_exe()?)
            .args(["server", "--config"])
            .arg(self.0.join("chancery.toml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        let pid = child.id().ok_or_else(|| Failure::failed("the server ended at once"))?;
        let server = Server { child, pid, place: self.clone() };
        let ready = || {
            let text = std::fs::read(server.place.data().join("addresses.json")).ok()?;
            let addresses: serde_json::Value = serde_json::from_slice(&text).ok()?;
            (addresses.get("pid")?.as_u64() == Some(u64::from(pid))).then_some(())
        };
        while ready().is_none() {
            if clock.monotonic() - begin > PATIENCE {
                return Err(Failure::failed("the server was not ready within a minute"));
            }
            clock.sleep(Duration::from_millis(2)).await;
        }
        Ok((server, clock.monotonic() - begin))
    }
}

/// A server as a child of this process.
pub(super) struct Server {
    child: Child,
    pid: u32,
    place: Place,
}

impl Server {
    /// A connection of its own.
    pub(super) async fn connect(&self) -> Result<Channel, Failure> {
        Ok(client::connect(&self.place.0.join("sds.sock")).await?)
    }

    /// CPU time that it has used, in steps of 10 ms.
    pub(super) fn cpu(&self) -> Result<Duration, Failure> {
        let text = std::fs::read_to_string(format!("/proc/{}/stat", self.pid))?;
        // proc(5): the fields after the name in parentheses begin with the third; utime and stime are 14 and 15.
        let ticks = text.rsplit_once(") ").and_then(|(_, rest)| {
            let mut fields = rest.split(' ').skip(11).map(|field| field.parse::<u64>().ok());
            Some(fields.next()?? + fields.next()??)
        });
        let ticks = ticks.ok_or_else(|| Failure::failed("/proc/PID/stat cannot be read"))?;
        Ok(Duration::from_millis(ticks * 10))
    }

    /// Its resident memory, in bytes.
    pub(super) fn memory(&self) -> Result<u64, Failure> {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.pid))?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|rest| rest.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
        Ok(kib.ok_or_else(|| Failure::failed("/proc/PID/status cannot be read"))? * 1_024)
    }

    /// Runs a command of the operator's; its answer.
    pub(super) async fn command(&self, arguments: &[&str]) -> Result<serde_json::Value, Failure> {
        let output = Command::new(std::env::current_exe()?)
            .args(arguments)
            .args(["--output", "json", "--admin-socket"])
            .arg(self.place.0.join("admin.sock"))
            .stdin(Stdio::null())
            .output()
            .await?;
        if output.status.success() {
            return serde_json::from_slice(&output.stdout).map_err(|error| Failure::failed(error.to_string()));
        }
        Err(Failure::failed(format!("{arguments:?}: {}", String::from_utf8_lossy(&output.stderr))))
    }

    /// Ends it in order.
    pub(super) async fn stop(mut self, clock: &Clock) -> Result<(), Failure> {
        let pid = Pid::from_raw(i32::try_from(self.pid).unwrap_or(i32::MAX));
        kill(pid, Signal::SIGTERM).map_err(|error| Failure::failed(error.to_string()))?;
        tokio::select! {
            status = self.child.wait() => status.map(drop).map_err(Failure::from),
            () = clock.sleep(PATIENCE) => Err(Failure::failed("the server did not end within a minute")),
        }
    }
}
