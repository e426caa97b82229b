//! A real Envoy with a configuration that `chancery envoy bootstrap` wrote, read through its admin interface.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::Signal;
use serde_json::Value;

use super::process::Process;
use super::{SOON, eventually, http};

/// A running Envoy.
pub struct Envoy {
    process: Option<Process>,
    program: PathBuf,
    name: String,
    directory: PathBuf,
    admin: SocketAddr,
    workers: u32,
}

impl Envoy {
    /// Starts Envoy with `configuration` and waits until it is live. Its files go to `directory`.
    pub fn start(program: &Path, name: &str, configuration: &Value, directory: &Path) -> Self {
        Self::with_workers(program, name, configuration, directory, 1)
    }

    /// The same with that many worker threads.
    pub fn with_workers(program: &Path, name: &str, configuration: &Value, directory: &Path, workers: u32) -> Self {
        let text = serde_json::to_string_pretty(configuration).expect("JSON");
        std::fs::write(directory.join(format!("{name}.json")), text).expect("the configuration is written");
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut envoy = Self {
            process: None,
            program: program.to_owned(),
            name: name.to_owned(),
            directory: directory.to_owned(),
            admin: nowhere,
            workers,
        };
        envoy.launch();
        envoy
    }

    fn launch(&mut self) {
        let admin_file = self.directory.join(format!("{}.admin", self.name));
        let _ = std::fs::remove_file(&admin_file);
        let mut command = Command::new(&self.program);
        command
            .arg("--config-path")
            .arg(self.directory.join(format!("{}.json", self.name)))
            .args(["--concurrency", &self.workers.to_string(), "--disable-hot-restart", "--admin-address-path"])
            .arg(&admin_file);
        let mut process = Process::start(&self.name, command, &self.directory);
        self.admin = eventually("Envoy is live", SOON, || {
            assert!(process.ended().is_none(), "Envoy ended: {}", process.output());
            let admin: SocketAddr = std::fs::read_to_string(&admin_file).ok()?.trim().parse().ok()?;
            let ready = http::try_get(admin, "/ready").ok()?;
            (ready.status == 200 && ready.text().trim() == "LIVE").then_some(admin)
        });
        self.process = Some(process);
    }

    /// Ends it and starts it again with the same configuration.
    pub fn restart(&mut self) {
        let mut process = self.process.take().expect("it runs");
        process.signal(Signal::SIGTERM);
        process.wait(SOON);
        self.launch();
    }

    /// What it logged.
    pub fn output(&self) -> String {
        self.process.as_ref().map(Process::output).unwrap_or_default()
    }

    /// The address of its first listener.
    pub fn listener(&self) -> SocketAddr {
        let listeners = http::get(self.admin, "/listeners?format=json").json();
        let socket = &listeners["listener_statuses"][0]["local_address"]["socket_address"];
        let port = socket["port_value"].as_u64().unwrap_or_else(|| panic!("no listener: {listeners}"));
        SocketAddr::from(([127, 0, 0, 1], u16::try_from(port).expect("a port")))
    }

    /// The serials of the leaf certificates it holds now, lower-case hex, with their SPIFFE IDs.
    pub fn leaves(&self) -> Vec<(String, String)> {
        let certificates = http::get(self.admin, "/certs").json();
        let mut found = Vec::new();
        for context in certificates["certificates"].as_array().into_iter().flatten() {
            for leaf in context["cert_chain"].as_array().into_iter().flatten() {
                let serial = leaf["serial_number"].as_str().unwrap_or_default().to_lowercase();
                for name in leaf["subject_alt_names"].as_array().into_iter().flatten() {
                    if let Some(identity) = name["uri"].as_str() {
                        found.push((serial.clone(), identity.to_owned()));
                    }
                }
            }
        }
        found.sort();
        found.dedup();
        found
    }

    /// The serial of its one leaf certificate; waits for it.
    pub fn serial(&self) -> String {
        eventually("Envoy has a certificate", SOON, || self.leaves().first().map(|(serial, _)| serial.clone()))
    }

    /// The sum of the counters and gauges whose name ends with `suffix`.
    pub fn stat(&self, suffix: &str) -> u64 {
        let stats = http::get(self.admin, "/stats?format=json").json();
        let all = stats["stats"].as_array().into_iter().flatten();
        let named = all.filter(|stat| stat["name"].as_str().is_some_and(|name| name.ends_with(suffix)));
        named.filter_map(|stat| stat["value"].as_u64()).sum()
    }
}
