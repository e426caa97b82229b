//! The figures of a run, as a table and as JSON.

use serde::{Deserialize, Serialize};

use super::raw::Machine;
use crate::cli::screen::Table;

/// What `bench` prints.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct BenchOutput {
    /// What the machine does by itself.
    pub(crate) machine: MachineOutput,
    /// One figure each.
    pub(crate) rows: Vec<Row>,
}

/// The machine's own limits, taken in the same run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct MachineOutput {
    /// Processors.
    pub(crate) cores: usize,
    /// Making a P-256 key and one P-256 signature, CPU microseconds.
    pub(crate) key_and_sign_us: f64,
    /// Verifying a P-256 signature and making one, CPU microseconds.
    pub(crate) verify_and_sign_us: f64,
    /// Overwriting 4 KiB of a preallocated file and `fdatasync`, the middle of many, microseconds.
    pub(crate) fdatasync_us: f64,
    /// SHA-256 on one core, MB a second.
    pub(crate) sha256_mb_s: f64,
}

/// One figure.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Row {
    /// What.
    pub(crate) what: String,
    /// How much.
    pub(crate) value: f64,
    /// Of what.
    pub(crate) unit: String,
    /// What the machine needs or allows by itself, in the same unit.
    pub(crate) limit: Option<f64>,
    /// What it was made for.
    pub(crate) target: String,
}

/// The figures so far.
pub(super) struct Report(BenchOutput);

impl Report {
    pub(super) fn new(machine: &Machine) -> Self {
        Self(BenchOutput { machine: machine.output(), rows: Vec::new() })
    }

    pub(super) fn row(&mut self, what: impl Into<String>, value: f64, unit: &str, limit: Option<f64>, target: &str) {
        let row = Row { what: what.into(), value, unit: unit.to_owned(), limit, target: target.to_owned() };
        // Minutes pass between the first figure and the last.
        eprintln!("  {}: {:.2} {}", row.what, row.value, row.unit);
        self.0.rows.push(row);
    }

    pub(super) fn output(&self) -> BenchOutput {
        self.0.clone()
    }
}

pub(super) fn render(output: &BenchOutput) -> String {
    let machine = &output.machine;
    let mut table = Table::new(&["WHAT", "RESULT", "UNIT", "MACHINE", "RATIO", "TO REACH"]);
    for row in &output.rows {
        let limit = row.limit.map_or_else(|| "–".to_owned(), |limit| format!("{limit:.1}"));
        let ratio = row.limit.filter(|limit| *limit > 0.0);
        let ratio = ratio.map_or_else(|| "–".to_owned(), |limit| format!("{:.2}", row.value / limit));
        table.row([row.what.clone(), format!("{:.1}", row.value), row.unit.clone(), limit, ratio, row.target.clone()]);
    }
    format!(
        "{} cores; by itself the machine takes {:.1} µs CPU for a P-256 key and a signature, {:.1} µs to verify one and make one,\n\
         {:.0} µs for an fdatasync of 4 KiB, and hashes {:.0} MB/s on one core (SHA-256).\n\n{}",
        machine.cores,
        machine.key_and_sign_us,
        machine.verify_and_sign_us,
        machine.fdatasync_us,
        machine.sha256_mb_s,
        table.render("")
    )
}
