//! What can be wrong with a single setting, in the words of whoever mends it.

use super::{LONGEST_SOCKET_NAME, LONGEST_SOCKET_PATH, MOST_OPERATORS, MOST_SOCKETS};
use crate::identity::IdentityError;
use crate::policy::ADMIN_SOCKET;

/// What is wrong with a setting, wherever it was written. Each says what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingError {
    /// A socket's path does not fit its address.
    #[error(
        "{length} bytes, but a Unix socket's path has at most {LONGEST_SOCKET_PATH}: choose a shorter one, such as /run/chancery/{name}.sock"
    )]
    SocketPathTooLong {
        /// Bytes of the path.
        length: usize,
        /// The socket's name.
        name: String,
    },
    /// A path that is empty or holds a zero byte.
    #[error("not a path: write one such as /run/chancery/{name}.sock")]
    NoPath {
        /// The socket's name.
        name: String,
    },
    /// A socket name that would not fit an identity.
    #[error(
        "a socket's name has 1 to {LONGEST_SOCKET_NAME} letters, digits, dots, dashes and underscores, and is not only dots"
    )]
    SocketName,
    /// The admin socket's name.
    #[error("\"{ADMIN_SOCKET}\" is the admin socket's own name: choose another")]
    ReservedName,
    /// Two sockets of one name.
    #[error("another socket has this name: rules match sockets by name, so each needs its own")]
    DuplicateName,
    /// Two sockets of one path.
    #[error("another socket has this path: write one for each")]
    DuplicatePath,
    /// More sockets than a server opens.
    #[error("{count} sockets, but a server opens at most {MOST_SOCKETS}")]
    TooManySockets {
        /// How many.
        count: usize,
    },
    /// No socket at all.
    #[error(
        "nobody could fetch a certificate: write [[sds.listen]] with name = \"sds\" and path = \"/run/chancery/sds.sock\""
    )]
    NoSocket,
    /// An address where a path belongs.
    #[error(
        "an address, but this is for a path such as /run/chancery/{name}.sock: TCP is for address (--sds-tcp with up)"
    )]
    SocketAddress {
        /// The socket's name.
        name: String,
    },
    /// Neither path nor address.
    #[error(
        "no place to listen: write path = \"/run/chancery/sds.sock\", or address = \"0.0.0.0:8443\" for TCP with mutual TLS"
    )]
    NoPlace,
    /// Permission bits of what has none.
    #[error("permission bits are for a Unix socket: write path as well, or leave mode out")]
    ModeWithoutPath,
    /// Two ports of one address.
    #[error("another port has this address: write one for each")]
    DuplicateAddress,
    /// Permission bits that are no octal number, or that let nobody in.
    #[error(
        "not the permission bits of a socket: write \"0660\" (owner and group) or \"0666\" (everybody; rules decide who gets what)"
    )]
    Mode,
    /// No address.
    #[error("not an address and port: write \"127.0.0.1:8080\", or port 0 for a free one")]
    Address,
    /// An address that other machines reach.
    #[error(
        "other machines would reach it without TLS, and could be given another bundle on the way: listen on 127.0.0.1, or set http.beyond_loopback = true"
    )]
    BeyondLoopback,
    /// An empty name of a secret.
    #[error("a secret's name is not empty and has at most 2048 bytes")]
    SecretName,
    /// Two secrets of one name.
    #[error("another secret has this name: a client could get only one of them")]
    DuplicateSecret,
    /// An issuing CA that would outlive half of the root.
    #[error(
        "an issuing CA must live at most half as long as the root ({root}), which has to outlive two of them: shorten it"
    )]
    IssuingTooLong {
        /// The root's lifetime.
        root: String,
    },
    /// A CRL that would be renewed too late.
    #[error(
        "more than three quarters of crl.lifetime ({lifetime}), which leaves no time when renewing fails: shorten it"
    )]
    ResignedLate {
        /// How long a CRL holds.
        lifetime: String,
    },
    /// An operator who is nobody.
    #[error("it names nobody: write uid = 1001, gid = 2000 or client = \"spiffe://{{trust_domain}}/operators/*\"")]
    NoOperator,
    /// More operators than a server keeps.
    #[error(
        "{count} operators, but a server keeps at most {MOST_OPERATORS}: name a group, or a prefix that ends in /*"
    )]
    TooManyOperators {
        /// How many.
        count: usize,
    },
    /// A pattern that no certificate of ours fits.
    #[error(
        "{problem}: write a SPIFFE ID of this trust domain, or a prefix such as spiffe://{{trust_domain}}/operators/*"
    )]
    OperatorClient {
        /// What is wrong with it.
        problem: IdentityError,
    },
    /// A pattern of another trust domain.
    #[error("no certificate of another trust domain gets in: write spiffe://{{trust_domain}}/operators/*")]
    OperatorOfOthers,
    /// No number of a user or group.
    #[error("not the number of a user or group: write one from 0 to 4294967294, as id -u or id -g prints it")]
    Id,
    /// Operators who could not open the socket.
    #[error(
        "only the server's own user may connect to a socket of these bits, and operators by uid or gid are given: write mode = \"0660\" (its group) or \"0666\" (everybody; those without a role are told no)"
    )]
    OperatorsLockedOut,
    /// A port that nobody could use.
    #[error(
        "nobody could use it: write [[admin.operator]] with a role and client = \"spiffe://{{trust_domain}}/operators/*\""
    )]
    NoRemoteOperator,
    /// A credential's name that is no file name.
    #[error(
        "not a credential's name: write \"credential:sealing.key\", as in the unit's LoadCredential=sealing.key:FILE"
    )]
    CredentialName,
    /// A credential outside of systemd.
    #[error(
        "keys.sealing_key is a credential of systemd, but $CREDENTIALS_DIRECTORY is not set: start the service by systemd with LoadCredential=, or write the path of a file"
    )]
    NoCredentials,
    /// Less room for all requests of a caller than for one.
    #[error("less than limits.max_request_bytes, so that the largest request could never be read: make it larger")]
    NoRoomForOneRequest,
    /// No address of a Vault.
    #[error("not the address of a Vault: write \"https://vault.example.org:8200\" (http only for this machine itself)")]
    VaultAddress,
    /// Keys of Vault without its address.
    #[error("it has no address: write address = \"https://vault.example.org:8200\", or leave the whole table out")]
    NoVaultAddress,
    /// No way to log in.
    #[error("it does not say how to log in: write method = \"approle\", \"kubernetes\", \"certificate\" or \"token\"")]
    NoVaultLogin,
    /// No mount or name of Vault's.
    #[error(
        "not a mount or name in Vault: letters, digits, dots, dashes and underscores, parted by /, such as \"pki/mesh\""
    )]
    VaultPath,
    /// Vault and files at once.
    #[error(
        "[upstream.vault] is there too, and only one of them can stand above the issuing CA: take one of the tables out"
    )]
    TwoUpstreams,
    /// Files without their directory.
    #[error("it has no directory: write directory = \"/etc/chancery/cacerts\", or leave the whole table out")]
    NoFilesDirectory,
    /// A file that the other way of signing has.
    #[error(
        "not with this signing: \"here\" has certificate_file, key_file and passphrase_file, \"elsewhere\" request_file and answer_file"
    )]
    OtherSigning,
    /// First and longest wait the wrong way round.
    #[error("longer than limits.renewal_retry_longest: make it shorter")]
    RetriesReversed,
}
