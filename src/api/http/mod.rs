//! Plain HTTP on the loopback interface: bundle, ledger tiles, health, metrics.
