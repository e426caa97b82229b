//! The real program: started in a data directory of its own on free ports, asked through its command line, stopped or
//! killed, and started again in the same directory.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

use super::process::Process;
use super::{SOON, directory, eventually, ledger};

/// The program under test.
pub fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_chancery"))
}

/// What a command said.
#[derive(Debug)]
pub struct Said {
    /// The exit code.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Said {
    /// Standard output as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("not JSON: {error}: {self:?}"))
    }

    /// Fails unless the exit code is `code`.
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self:#?}");
        self
    }

    /// Fails unless standard error holds all of `words`.
    pub fn expect_words(self, words: &[&str]) -> Self {
        for word in words {
            assert!(self.err.contains(word), "{word:?} is not in {self:#?}");
        }
        self
    }
}

/// Runs the program with `arguments` and waits for its end, without standard input.
pub fn run<I: AsRef<std::ffi::OsStr>>(arguments: impl IntoIterator<Item = I>) -> Said {
    said(Command::new(program()).args(arguments))
}

/// Runs a prepared command and waits for its end; it is killed when it takes longer than [`SOON`].
pub fn said(command: &mut Command) -> Said {
    use std::process::Stdio;
    command.env("NO_COLOR", "1").env_remove("CHANCERY_DATA_DIR");
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let child = child.unwrap_or_else(|error| panic!("{error}: {command:?}"));
    let id = i32::try_from(child.id()).expect("a process id");
    // The reader ends with the child; a child that hangs is killed by the guard.
    let (done, waiting) = std::sync::mpsc::sync_channel::<()>(1);
    let guard = std::thread::spawn(move || {
        if waiting.recv_timeout(SOON) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(id), Signal::SIGKILL);
        }
    });
    let output = child.wait_with_output().expect("its output");
    drop(done);
    guard.join().expect("the guard ends");
    Said {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// How to start one.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// More arguments for `up`.
    pub arguments: Vec<String>,
    /// The policy file's text; the built-in one where absent.
    pub policy: Option<String>,
    /// A program and arguments to run it under, such as strace.
    pub under: Vec<String>,
    /// A configuration file for `chancery server`, which runs then instead of `up`; it is to name `data` as its directory.
    pub configuration: Option<String>,
    /// Puts everything on a file system of its own, in memory, of this many MiB: that needs root.
    pub disk_mib: Option<u32>,
}

/// A small file system on a directory; gone when dropped, whoever still uses it.
struct Disk(PathBuf);

impl Disk {
    fn mount(at: &Path, mib: u32) -> Self {
        let mut command = Command::new("mount");
        said(command.args(["-t", "tmpfs", "-o", &format!("size={mib}m,mode=0700"), "tmpfs"]).arg(at)).expect(0);
        Self(at.to_owned())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

/// A running server and its data directory.
pub struct Chancery {
    process: Option<Process>,
    // Dropped in this order: the process, the file system below it, the directory.
    _disk: Option<Disk>,
    directory: TempDir,
    options: Options,
}

impl Chancery {
    /// `chancery up` in a new directory, ready.
    pub fn up() -> Self {
        Self::with(Options::default())
    }

    /// `chancery up` in a new directory with these options, ready.
    pub fn with(options: Options) -> Self {
        let mut server = Self::prepared(options);
        server.start();
        server
    }

    /// Its directory with policy and configuration, and nothing started yet.
    pub fn prepared(options: Options) -> Self {
        let directory = directory();
        let disk = options.disk_mib.map(|mib| Disk::mount(directory.path(), mib));
        let server = Self { process: None, _disk: disk, directory, options };
        std::fs::create_dir(server.data()).expect("a new directory");
        let private = <std::fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o700);
        std::fs::set_permissions(server.data(), private).expect("its permissions");
        if let Some(policy) = &server.options.policy {
            std::fs::write(server.data().join("policy.toml"), policy).expect("the policy file");
        }
        if let Some(configuration) = &server.options.configuration {
            std::fs::write(server.scratch().join("chancery.toml"), configuration).expect("the configuration file");
        }
        server
    }

    /// With this policy.
    pub fn with_policy(policy: &str) -> Self {
        Self::with(Options { policy: Some(policy.to_owned()), ..Options::default() })
    }

    /// Starts it again in the same directory and waits until it is ready; tells how long that took.
    pub fn start(&mut self) -> Duration {
        let begin = Instant::now();
        let mut words = self.options.under.clone();
        words.push(program().display().to_string());
        if let Some(configuration) = &self.options.configuration {
            let file = self.directory.path().join("chancery.toml");
            std::fs::write(&file, configuration).expect("the configuration file");
            words.extend(["server".to_owned(), "--config".to_owned(), file.display().to_string()]);
        } else {
            words.extend(["up".to_owned(), "--data-dir".to_owned(), self.data().display().to_string()]);
            words.extend(["--http".to_owned(), "127.0.0.1:0".to_owned()]);
        }
        words.extend(self.options.arguments.iter().cloned());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).env("NO_COLOR", "1").current_dir(self.directory.path());
        let mut process = Process::start("chancery", command, self.directory.path());
        let id = u64::from(process.id());
        let direct = self.options.under.is_empty();
        let file = self.data().join("addresses.json");
        eventually("chancery is ready", SOON, || {
            if let Some(status) = process.ended() {
                panic!("chancery ended with {status}: {}", process.output());
            }
            // A file that a killed run left behind names another process.
            let addresses: Value = serde_json::from_slice(&std::fs::read(&file).ok()?).ok()?;
            (!direct || addresses["pid"] == id).then_some(())
        });
        let took = begin.elapsed();
        self.process = Some(process);
        took
    }

    /// Gives the next start of a `chancery server` another configuration file.
    pub fn configure(&mut self, configuration: &str) {
        self.options.configuration = Some(configuration.to_owned());
    }

    /// The data directory.
    pub fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// A place for the test's own files, removed at the end.
    pub fn scratch(&self) -> &Path {
        self.directory.path()
    }

    /// What it prints and logs.
    pub fn output(&self) -> String {
        self.process.as_ref().map(Process::output).unwrap_or_default()
    }

    /// `addresses.json`.
    pub fn addresses(&self) -> Value {
        let text = std::fs::read(self.data().join("addresses.json")).expect("addresses.json");
        serde_json::from_slice(&text).expect("addresses.json holds JSON")
    }

    /// The HTTP address.
    pub fn http(&self) -> SocketAddr {
        self.addresses()["http"].as_str().expect("an HTTP address").parse().expect("an address")
    }

    /// The SDS socket of that name.
    pub fn socket(&self, name: &str) -> PathBuf {
        let addresses = self.addresses();
        let sockets = addresses["sds"].as_array().expect("SDS sockets");
        let found = sockets.iter().find(|socket| socket["name"] == name);
        PathBuf::from(found.unwrap_or_else(|| panic!("{name} is not in {addresses}"))["path"].as_str().expect("a path"))
    }

    /// A command of the operator's, for this installation.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(program());
        command.args(arguments).arg("--data-dir").arg(self.data());
        command
    }

    /// Runs a command of the operator's.
    pub fn run(&self, arguments: &[&str]) -> Said {
        said(&mut self.command(arguments))
    }

    /// Every record of the ledger, read from its files. A running server writes those a few milliseconds behind what
    /// it has committed, so this waits until they cover what is committed now.
    pub fn records(&self) -> Vec<Value> {
        if self.process.is_none() {
            return ledger::records(&self.data());
        }
        let status = self.run(&["status", "--output", "json"]).json();
        let committed = status["ledger"]["size"].as_u64().expect("a size");
        let committed = usize::try_from(committed).expect("it fits");
        eventually("the ledger's files cover what is committed", SOON, || {
            let records = ledger::records(&self.data());
            (records.len() >= committed).then_some(records)
        })
    }

    /// The records of one action, once there are at least `least`: files follow the commits by a moment.
    pub fn records_of(&self, action: &str, least: usize) -> Vec<Value> {
        let of = || self.records().into_iter().filter(|record| record["action"] == action).collect::<Vec<_>>();
        eventually(&format!("{least} records of {action}"), SOON, || Some(of()).filter(|found| found.len() >= least))
    }

    /// Waits until a record satisfies `wanted`.
    pub fn wait_for_record(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        eventually(&format!("a record of {what}"), SOON, || self.records().into_iter().find(|record| wanted(record)))
    }

    /// Sends it a signal and goes on.
    pub fn signal(&self, signal: Signal) {
        self.process.as_ref().expect("it runs").signal(signal);
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.process.take().expect("it runs").kill();
    }

    /// Asks it to end as Ctrl-C does, and waits.
    pub fn stop(&mut self) -> ExitStatus {
        let mut process = self.process.take().expect("it runs");
        process.signal(Signal::SIGINT);
        process.wait(SOON)
    }
}
