//! Which account a process's user logged in with, as the kernel's audit keeps it: `sudo` and `su` change the uid and
//! leave this as it was.
//!
//! Not a fact for policy and no part of a [`Caller`](crate::caller::Caller): it only says which person an operator is.
//! Whoever has `CAP_AUDIT_CONTROL` can set it for a process that they start, as root can do anything.

use std::fs;
use std::os::fd::AsFd;

use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerPidfd;

use super::unix_peer::lives;

/// The login uid of the process `pid` at the other end of `connection`; `None` when nobody logged in, when the kernel
/// keeps none, or when it could be another process's by now.
pub fn of(connection: &impl AsFd, pid: u32) -> Option<u32> {
    let pidfd = getsockopt(&connection.as_fd(), PeerPidfd).ok()?;
    let text = fs::read_to_string(format!("/proc/{pid}/loginuid")).ok()?;
    parse(&text).filter(|_| lives(pidfd.as_fd()))
}

/// `u32::MAX` stands for "nobody logged in"; proc_pid_loginuid(5).
fn parse(text: &str) -> Option<u32> {
    text.trim().parse().ok().filter(|uid| *uid != u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn nobody_and_nonsense_are_no_login() {
        assert_eq!(parse("1000\n"), Some(1000));
        assert_eq!(parse("0"), Some(0));
        assert_eq!(parse("4294967295"), None);
        assert_eq!(parse("x"), None);
        assert_eq!(parse(""), None);
    }

    #[test]
    fn a_process_of_our_own_has_ours() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let own = fs::read_to_string("/proc/self/loginuid").ok();
        assert_eq!(of(&ours, std::process::id()), own.as_deref().and_then(parse));
        assert_eq!(of(&ours, 0), None);
    }
}
