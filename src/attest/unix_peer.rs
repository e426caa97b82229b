//! Attests the process at the other end of a Unix socket by what the kernel says of it.
//!
//! The credentials are those of the moment the peer connected (`SO_PEERCRED`, unix(7)). A process that the kernel can't
//! name in our pid namespace (pid 0) and a user id that it can't map into our user namespace (the overflow uid) are
//! refused: they would be somebody else's number. Supplementary groups and the time at which the process began come from
//! `/proc/PID`, which could by then be another process with the same number: they count only when a pidfd taken from the
//! socket says that the peer still lives after they were read; otherwise the caller has none.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::{PeerCredentials, PeerPidfd};

use crate::caller::{Caller, Evidence, UnixPeer};

/// Where the kernel says which uid stands for "can't be mapped".
const OVERFLOW_UID_FILE: &str = "/proc/sys/kernel/overflowuid";

/// What [`OVERFLOW_UID_FILE`] says unless somebody changed it, and the same for groups.
const OVERFLOW_ID: u32 = 65_534;

/// The most supplementary groups that are taken: the kernel's own bound (`NGROUPS_MAX`).
const MOST_GROUPS: usize = 65_536;

/// Why a peer could not be attested.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AttestError {
    /// The kernel would not say who connected.
    #[error("the kernel does not say who is at the other end of the socket: {source}")]
    NoCredentials {
        /// What it said instead.
        #[source]
        source: nix::Error,
    },
    /// The peer is outside our pid namespace.
    #[error(
        "the peer's process is not visible here (pid 0): run chancery in the host's pid namespace, or in the peer's own"
    )]
    InvisibleProcess,
    /// The peer's user has no number in our user namespace.
    #[error("the peer's user has no number here (uid {uid} stands for unmapped): map it into this user namespace")]
    UnmappedUser {
        /// The overflow uid.
        uid: u32,
    },
}

impl AttestError {
    /// A word for records.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoCredentials { .. } => "no_credentials",
            Self::InvisibleProcess => "pid_0",
            Self::UnmappedUser { .. } => "overflow_uid",
        }
    }
}

/// Attests the peer of `connection`, which was accepted on the socket called `socket`.
///
/// # Errors
/// Every variant of [`AttestError`].
pub fn attest(connection: &impl AsFd, socket: &str) -> Result<Caller, AttestError> {
    let fd = connection.as_fd();
    let said = getsockopt(&fd, PeerCredentials).map_err(|source| AttestError::NoCredentials { source })?;
    let pid = visible(said.pid())?;
    let uid = mapped(said.uid(), overflow_uid())?;
    let Process { groups, started } = process(fd, pid).unwrap_or_default();
    Ok(Caller::attested(Evidence::UnixPeer(UnixPeer {
        socket: socket.to_owned(),
        uid,
        gid: said.gid(),
        groups,
        pid,
        started,
    })))
}

fn visible(pid: i32) -> Result<u32, AttestError> {
    u32::try_from(pid).ok().filter(|pid| *pid != 0).ok_or(AttestError::InvisibleProcess)
}

fn mapped(uid: u32, overflow: u32) -> Result<u32, AttestError> {
    // u32::MAX is "no user" in every system call that takes one.
    if uid == overflow || uid == u32::MAX { Err(AttestError::UnmappedUser { uid }) } else { Ok(uid) }
}

fn overflow_uid() -> u32 {
    fs::read_to_string(OVERFLOW_UID_FILE).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(OVERFLOW_ID)
}

/// What `/proc` says of a process.
#[derive(Default)]
struct Process {
    /// Supplementary groups, sorted.
    groups: Vec<u32>,
    /// When it began, in clock ticks since the machine's start.
    started: Option<u64>,
}

/// The peer's process; nothing when there is any doubt whose facts these are.
fn process(fd: BorrowedFd<'_>, pid: u32) -> Option<Process> {
    let pidfd = getsockopt(&fd, PeerPidfd).ok()?;
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    // The name in it may be any bytes.
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    lives(pidfd.as_fd()).then(|| Process { groups: parse_groups(&status), started: parse_started(&stat) })
}

/// A pidfd becomes readable when its process ends (pidfd_open(2)); its number is reused only after that.
pub(super) fn lives(pidfd: BorrowedFd<'_>) -> bool {
    let mut asked = [PollFd::new(pidfd, PollFlags::POLLIN)];
    poll(&mut asked, PollTimeout::ZERO) == Ok(0)
}

/// Reads what would be a process's `status` and `stat`, for `fuzzing`.
pub(crate) fn read_proc(bytes: &[u8]) {
    let groups = parse_groups(&String::from_utf8_lossy(bytes));
    assert!(groups.len() <= MOST_GROUPS && groups.is_sorted());
    let _ = parse_started(bytes);
}

fn parse_groups(status: &str) -> Vec<u32> {
    let line = status.lines().find_map(|line| line.strip_prefix("Groups:")).unwrap_or_default();
    let all = line.split_whitespace().take(MOST_GROUPS).filter_map(|group| group.parse().ok());
    // The overflow gid stands for groups that have no number here.
    let mut groups: Vec<u32> = all.filter(|group| *group != OVERFLOW_ID).collect();
    groups.sort_unstable();
    groups.dedup();
    groups
}

/// Field 22 of proc_pid_stat(5). The second is the process's name in parentheses, which may itself hold spaces and
/// parentheses, so counting begins behind the last one: with field 3.
fn parse_started(stat: &[u8]) -> Option<u64> {
    let name_end = stat.iter().rposition(|byte| *byte == b')')?;
    let rest = str::from_utf8(stat.get(name_end + 1..)?).ok()?;
    rest.split_ascii_whitespace().nth(22 - 3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn conforms() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        crate::attest::conformance::check(&ours, |peer| attest(peer, "sds"), "unix_peer");
    }

    #[test]
    fn the_peer_is_this_process() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let (uid, gid) = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
        if uid == overflow_uid() {
            return assert_eq!(attest(&ours, "sds"), Err(AttestError::UnmappedUser { uid }));
        }
        let caller = attest(&ours, "sds").unwrap();
        let Evidence::UnixPeer(peer) = caller.evidence() else { panic!("{caller:?}") };
        assert_eq!((peer.uid, peer.gid, peer.pid, peer.socket.as_str()), (uid, gid, std::process::id(), "sds"));
        let own = parse_groups(&fs::read_to_string("/proc/self/status").unwrap());
        assert!(peer.groups == own || peer.groups.is_empty(), "{:?} against {own:?}", peer.groups);
        let began = parse_started(&fs::read("/proc/self/stat").unwrap());
        assert!(began.is_some() && (peer.started == began || peer.started.is_none()), "{:?}", peer.started);
    }

    #[test]
    fn numbers_that_stand_for_nobody_are_refused() {
        assert_eq!(visible(0), Err(AttestError::InvisibleProcess));
        assert_eq!(visible(-1), Err(AttestError::InvisibleProcess));
        assert_eq!(visible(7), Ok(7));
        assert_eq!(mapped(65_534, 65_534), Err(AttestError::UnmappedUser { uid: 65_534 }));
        assert_eq!(mapped(u32::MAX, 65_534), Err(AttestError::UnmappedUser { uid: u32::MAX }));
        assert_eq!(mapped(0, 65_534), Ok(0));
    }

    #[test]
    fn a_process_begins_when_field_22_says_so_whatever_its_name() {
        let fields = (3..=52).map(|field| field.to_string()).collect::<Vec<_>>().join(" ");
        for name in ["envoy", "a b", "x) 1 2 3 (y", "\u{fffd}"] {
            assert_eq!(parse_started(format!("7 ({name}) {fields}\n").as_bytes()), Some(22), "{name}");
        }
        assert_eq!(
            parse_started(b"7 (\xff\xfe) R 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 4711 23"),
            Some(4711)
        );
        assert_eq!(parse_started(b"7 envoy"), None);
        assert_eq!(parse_started(b"7 (envoy) 1 2"), None);
    }

    #[test]
    fn groups_are_read_in_any_order_and_foreign_text_is_left_out() {
        assert_eq!(parse_groups("Name:\tx\nGroups:\t20 4 4 x 65534 100 \nNgid:\t0"), [4, 20, 100]);
        assert_eq!(parse_groups("Groups:\t \n"), [0; 0]);
        assert_eq!(parse_groups(""), [0; 0]);
    }
}
