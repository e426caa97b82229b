//! CAs as others make them: by OpenSSL's own command line, in a directory.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::chancery::{Said, said};

/// What a corporate CA's configuration says.
const CONFIGURATION: &str = "\
[req]
distinguished_name = name
[name]
[root]
basicConstraints = critical,CA:TRUE
keyUsage = critical,keyCertSign,cRLSign
subjectKeyIdentifier = hash
[wide]
basicConstraints = critical,CA:TRUE
keyUsage = critical,keyCertSign,cRLSign
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid:always
[narrow]
basicConstraints = critical,CA:TRUE,pathlen:0
keyUsage = critical,keyCertSign,cRLSign
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid:always
[istio]
basicConstraints = critical,CA:TRUE
keyUsage = critical,digitalSignature,nonRepudiation,keyEncipherment,keyCertSign
subjectKeyIdentifier = hash
[ca]
default_ca = lists
[lists]
database = index.txt
crlnumber = crlnumber
default_md = sha256
crl_extensions = lists_ext
[lists_ext]
authorityKeyIdentifier = keyid:always
";

/// Makes CAs in a directory.
pub struct Openssl {
    program: PathBuf,
    at: PathBuf,
}

impl Openssl {
    /// In `at`, which is made; every key that is written there is 0600.
    pub fn new(program: &Path, at: &Path) -> Self {
        std::fs::create_dir_all(at).unwrap();
        std::fs::write(at.join("openssl.cnf"), CONFIGURATION).unwrap();
        std::fs::write(at.join("index.txt"), "").unwrap();
        std::fs::write(at.join("crlnumber"), "1000\n").unwrap();
        Self { program: program.to_owned(), at: at.to_owned() }
    }

    /// Runs it there with these words, which must go well.
    pub fn run(&self, words: &[&str]) -> Said {
        let said = said(Command::new(&self.program).args(words).current_dir(&self.at)).expect(0);
        for entry in std::fs::read_dir(&self.at).unwrap().flatten() {
            let private = <std::fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o600);
            if entry.file_name().to_string_lossy().contains("key") {
                std::fs::set_permissions(entry.path(), private).unwrap();
            }
        }
        said
    }

    /// A file there.
    pub fn path(&self, name: &str) -> PathBuf {
        self.at.join(name)
    }

    /// A root `root-cert.pem` with `root-key.pem`.
    pub fn root(&self, subject: &str, extensions: &str) {
        self.key("P-384", "root-key.pem");
        let mut words = vec!["req", "-config", "openssl.cnf", "-x509", "-new", "-key", "root-key.pem", "-days", "3650"];
        words.extend(["-sha384", "-subj", subject, "-extensions", extensions, "-out", "root-cert.pem"]);
        self.run(&words);
    }

    /// A key on that curve.
    pub fn key(&self, curve: &str, name: &str) {
        let curve = format!("ec_paramgen_curve:{curve}");
        self.run(&["genpkey", "-algorithm", "EC", "-pkeyopt", &curve, "-out", name]);
    }

    /// The CA `ca-cert.pem` for `ca-key.pem` under the root, and `cert-chain.pem` as Istio has it.
    pub fn below(&self, subject: &str, extensions: &str, days: &str) {
        let common = ["-config", "openssl.cnf"];
        self.run(
            &[&["req"], &common[..], &["-new", "-key", "ca-key.pem", "-subj", subject, "-out", "ca.csr"]].concat(),
        );
        let words = ["x509", "-req", "-in", "ca.csr", "-CA", "root-cert.pem", "-CAkey", "root-key.pem", "-days", days];
        let more = ["-sha384", "-extfile", "openssl.cnf", "-extensions", extensions, "-out", "ca-cert.pem"];
        self.run(&[&words[..], &more[..]].concat());
        std::fs::copy(self.path("ca-cert.pem"), self.path("cert-chain.pem")).unwrap();
    }

    /// The root's CRL, in `ca-crl.pem`.
    pub fn root_list(&self, days: &str) {
        let words = ["ca", "-config", "openssl.cnf", "-gencrl", "-keyfile", "root-key.pem", "-cert", "root-cert.pem"];
        self.run(&[&words[..], &["-crldays", days, "-out", "ca-crl.pem"]].concat());
    }
}
