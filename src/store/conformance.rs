//! What every store must do, as a suite that takes the way to make one.
