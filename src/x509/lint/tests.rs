//! To be written in this very change.
