//! The configuration as a whole: what is read, all mistakes at once, and that what is documented is what is read.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::files::{FileError, load_policy};
use super::*;
use crate::golden;
use crate::policy::starter;
use crate::toml_reader::Document;

const LEAST: &str =
    "trust_domain = \"example.org\"\ndata_dir = \"/data\"\n[[sds.listen]]\nname = \"sds\"\npath = \"/run/sds.sock\"\n";

fn parse(text: &str) -> Result<Settings, Mistakes> {
    Settings::parse(text, "chancery.toml", Path::new("/etc/chancery"))
}

fn settings(text: &str) -> Settings {
    parse(text).unwrap_or_else(|mistakes| panic!("{mistakes}"))
}

/// The remedies for what is wrong in [`LEAST`] with `more` behind it.
fn check(more: &str, expected: &str) {
    let screen = parse(&format!("{LEAST}{more}")).map_or_else(|mistakes| mistakes.to_string(), |_| "fine".to_owned());
    assert!(screen.contains(expected), "{more}: {screen}");
}

#[test]
fn the_least_file_takes_every_default() {
    let settings = settings(LEAST);
    assert_eq!(settings.policy, Path::new("/data/policy.toml"));
    assert_eq!(
        settings.admin,
        AdminSettings::private(SocketPath::new(Path::new("/data/admin.sock"), "admin").unwrap())
    );
    assert_eq!((settings.http, settings.ca, settings.ledger), (None, CaSettings::default(), LedgerSettings::default()));
    assert_eq!((settings.limits.clone(), settings.log), (Limits::default(), LogSettings::default()));
    assert_eq!(settings.sds.names, SdsNames::default());
    assert_eq!(settings.sds.listen[0].mode, 0o660);
    assert_eq!(settings.socket_names(), ["sds", "admin"]);
}

#[test]
fn every_value_is_taken() {
    let text = format!(
        "policy = \"p.toml\"\n{LEAST}mode = \"0666\"\n[sds.names]\ndefault = \"me\"\n[http]\nlisten = \"[::1]:0\"\n[admin]\npath = \"a.sock\"\n\
         [ca]\nroot = {{ key = \"p384\", lifetime = \"1000d\" }}\nissuing.lifetime = \"10d\"\n[ledger]\nreserve_mib = 2\n\
         [limits]\nmax_connections = 3\ndrain = \"0s\"\n[log]\nformat = \"json\"\nlevel = \"debug\"\n"
    );
    let settings = settings(&text);
    assert_eq!(settings.policy, Path::new("/etc/chancery/p.toml"));
    assert_eq!(settings.admin.path.as_path(), Path::new("/etc/chancery/a.sock"));
    assert_eq!((settings.sds.listen[0].mode, settings.sds.names.default.as_str()), (0o666, "me"));
    assert_eq!(settings.http.unwrap().listen, "[::1]:0".parse().unwrap());
    assert_eq!((settings.ca.root.key, settings.ca.root.lifetime), (KeyAlgorithm::P384, DAY * 1_000));
    assert_eq!(settings.ca.issuing, AuthoritySettings { key: KeyAlgorithm::P256, lifetime: DAY * 10 });
    assert_eq!(settings.ledger, LedgerSettings { reserve_bytes: 2 << 20 });
    assert_eq!((settings.limits.sds.max_connections, settings.limits.drain), (3, Duration::ZERO));
    assert_eq!(settings.log, LogSettings { format: LogFormat::Json, level: LogLevel::Debug });
}

#[test]
fn operators_are_read_one_by_one() {
    use crate::api::admin::Role;
    let text = "[admin]\nmode = \"0660\"\nlisten = \"0.0.0.0:8444\"\n\
                [[admin.operator]]\nrole = \"reader\"\nuid = [1001, 1002]\ngid = 2000\n\
                [[admin.operator]]\nrole = \"admin\"\nclient = \"spiffe://{trust_domain}/people/*\"\n";
    let admin = settings(&format!("{LEAST}{text}")).admin;
    assert_eq!((admin.mode, admin.listen), (0o660, Some("0.0.0.0:8444".parse().unwrap())));
    let grants: Vec<_> =
        admin.operators.grants().iter().map(|grant| (grant.role, format!("{:?}", grant.who))).collect();
    let roles: Vec<_> = grants.iter().map(|(role, _)| *role).collect();
    assert_eq!(roles, [Role::Reader, Role::Reader, Role::Reader, Role::Admin], "{grants:?}");
    let operator = |what: &str| format!("[admin]\nmode = \"0666\"\n[[admin.operator]]\n{what}\n");
    check(&operator("role = \"reader\""), "it names nobody");
    check(&operator("uid = 1001"), "role = \"reader\"");
    check(&operator("role = \"boss\"\nuid = 1001"), "reader, operator, admin");
    check(&operator("role = \"reader\"\nuid = -1"), "as id -u or id -g prints it");
    check(&operator("role = \"reader\"\ngid = 4294967295"), "as id -u or id -g prints it");
    check(&operator("role = \"reader\"\nclient = \"kim\""), "write a SPIFFE ID of this trust domain");
    check(&operator("role = \"reader\"\nclient = \"spiffe://other.example/*\""), "another trust domain");
    check("[[admin.operator]]\nrole = \"reader\"\nuid = 1001", "write mode = \"0660\"");
    check("[[admin.operator]]\nrole = \"reader\"\nclient = \"spiffe://example.org/kim\"", "fine");
    check("[admin]\nlisten = \"0.0.0.0:8444\"", "nobody could use it");
}

#[test]
fn every_mistake_is_told_at_once() {
    let mistakes = parse(include_str!("golden/mistakes.toml")).unwrap_err();
    golden::check("src/config/golden/mistakes.txt", &format!("{mistakes}\n"));
    let empty = parse("").unwrap_err();
    golden::check("src/config/golden/empty.txt", &format!("{empty}\n"));
}

#[test]
fn single_mistakes_have_their_remedy() {
    check("[http]\nlisten = \"127.0.0.1:8080\"", "fine");
    check("[http]\nlisten = \"[::ffff:127.0.0.1]:80\"", "fine");
    check("[http]\nlisten = \"0.0.0.0:80\"\nbeyond_loopback = true", "fine");
    check("[http]\nlisten = \"10.0.0.1:80\"", "set http.beyond_loopback = true");
    check("[http]\nlisten = \"localhost\"", "write \"127.0.0.1:8080\"");
    check("mode = \"0060\"", "write \"0660\"");
    check("[[sds.listen]]\nname = \"sds\"\npath = \"/run/b.sock\"", "another socket has this name");
    check("[admin]\npath = \"/run/sds.sock\"", "another socket has this path");
    check("[ca.issuing]\nlifetime = \"2000d\"", "at most half as long as the root (3650d)");
    check("[crl]\nlifetime = \"8h\"\nresign_at = \"7h\"", "three quarters of crl.lifetime (8h)");
    check("[crl]\nlifetime = \"8h\"", "fine");
    check("[upstream.files]\nsigning = \"elsewhere\"", "it has no directory");
    check("[upstream.files]\ndirectory = \"/ca\"\nanswer_file = \"a\"", "not with this signing");
    check(
        "[upstream]\nfiles.directory = \"/ca\"\nvault = { address = \"https://v\", login = { method = \"token\", token_file = \"t\" } }",
        "only one of them",
    );
    check("[valut]\n", "unknown key");
}

#[test]
fn the_documented_keys_are_the_keys_that_are_read() {
    let text = format!("{LEAST}[[admin.operator]]\n");
    let document = Document::parse(&text);
    let _ = read::read(&document, Path::new("/"));
    let tables: BTreeSet<String> = [
        "sds",
        "sds.listen",
        "sds.names",
        "http",
        "admin",
        "admin.operator",
        "ca",
        "ca.root",
        "ca.issuing",
        "keys",
        "upstream",
        "upstream.vault",
        "upstream.vault.login",
        "upstream.files",
        "crl",
        "ledger",
        "limits",
        "log",
    ]
    .map(str::to_owned)
    .into();
    let asked: BTreeSet<String> = document.asked().difference(&tables).cloned().collect();
    let documented: BTreeSet<String> = KEYS.iter().map(Key::path).collect();
    assert_eq!(documented, asked);
    assert_eq!(documented.len(), KEYS.len(), "each once");
}

#[test]
fn the_files_for_systemd_read_without_mistakes() {
    let settings = settings(include_str!("../../deploy/chancery.toml"));
    assert_eq!(settings.sealing_key, Some(SealingKey::Credential("sealing.key".to_owned())));
    let sockets = settings.socket_names();
    let around = crate::policy::Surroundings {
        file: "policy.toml",
        trust_domain: &settings.trust_domain,
        sockets: Some(&sockets),
        profiles: crate::x509::profile::Profiles::builtin(),
    };
    crate::policy::Policy::parse(include_str!("../../deploy/policy.toml"), &around).unwrap();
    check("[keys]\nsealing_key = \"credential:a/b\"", "credential:sealing.key");
}

#[test]
fn the_reference_is_fresh() {
    golden::check("docs/configuration.md", &reference::page());
}

#[test]
fn the_default_file_reads_and_shows_the_true_defaults() {
    let file = reference::default_file();
    golden::check("src/config/golden/default.toml", &file);
    let plain = settings(&file);
    // Only one upstream can be: the files are looked at by themselves.
    let (before, files) = file.split_once("[upstream.files]\n").unwrap();
    let (files, after) = files.split_once("\n[").unwrap();
    let files: String = files
        .lines()
        .filter_map(|line| line.strip_prefix('#'))
        .filter(|line| !line.starts_with(' '))
        .map(|line| format!("{line}\n"))
        .collect();
    let files = files.replace("request_file", "#").replace("answer_file", "#");
    assert!(
        matches!(settings(&format!("{LEAST}[upstream.files]\n{files}")).upstream, Some(UpstreamSettings::Files(_))),
        "{files}"
    );
    let uncommented: String = format!("{before}[{after}")
        .lines()
        .map(|line| match line.strip_prefix('#').filter(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase())) {
            Some(key) => format!("{key}\n"),
            None => format!("{line}\n"),
        })
        .collect();
    let remote = "[[admin.operator]]\nrole = \"admin\"\nclient = \"spiffe://{trust_domain}/operators/*\"\n";
    let shown = settings(&format!("{uncommented}{remote}"));
    assert!(plain.http.is_none() && shown.http.is_some());
    // All that has a default of its own is the same written out as left out.
    assert_eq!((plain.sds.tcp.len(), shown.sds.tcp.len()), (0, 1));
    assert_eq!((shown.sds.listen, shown.sds.names), (plain.sds.listen, plain.sds.names));
    assert_eq!(CaSettings { silent_wait: None, ..shown.ca }, plain.ca);
    assert_eq!(shown.ledger, plain.ledger);
    assert_eq!((shown.crl, plain.crl), (CrlTimes::default(), CrlTimes::default()));
    assert_eq!((shown.limits, shown.log, shown.data_dir), (plain.limits, plain.log, plain.data_dir));
}

#[test]
fn an_entry_has_a_path_or_an_address_or_both() {
    let head = "trust_domain = \"example.org\"\ndata_dir = \"/data\"\n";
    let both = settings(&format!("{LEAST}address = \"0.0.0.0:8443\"\n"));
    assert_eq!(both.sds.tcp, [SdsPort { name: "sds".to_owned(), address: "0.0.0.0:8443".parse().unwrap() }]);
    assert_eq!(both.socket_names(), ["sds", "admin"]);
    let only = settings(&format!("{head}[[sds.listen]]\nname = \"mesh\"\naddress = \"[::]:0\"\n"));
    assert_eq!((only.sds.listen.len(), only.socket_names()), (0, vec!["mesh".to_owned(), "admin".to_owned()]));
    check("address = \"8443\"", "not an address and port");
    check("[[sds.listen]]\nname = \"x\"", "address = \"0.0.0.0:8443\" for TCP");
    check("[[sds.listen]]\nname = \"x\"\naddress = \"1.2.3.4:5\"\nmode = \"0666\"", "leave mode out");
    let twice = "address = \"1.2.3.4:5\"\n[[sds.listen]]\nname = \"x\"\naddress = \"1.2.3.4:5\"";
    check(twice, "another port has this address");
    check(&twice.replace(":5", ":0"), "fine");
    check("[[sds.listen]]\nname = \"admin\"\naddress = \"1.2.3.4:5\"", "the admin socket's own name");
}

fn up(data_dir: &str, sockets: &[(&str, &str)]) -> Result<Settings, Mistakes> {
    Settings::for_up(UpOptions {
        data_dir: PathBuf::from(data_dir),
        trust_domain: TrustDomain::parse("example.org").unwrap(),
        http: Some("127.0.0.1:0".parse().unwrap()),
        sockets: sockets.iter().map(|(name, path)| ((*name).to_owned(), PathBuf::from(path))).collect(),
        ports: Vec::new(),
    })
}

#[test]
fn up_is_the_same_settings_with_defaults() {
    let written = "trust_domain = \"example.org\"\ndata_dir = \"/d\"\nhttp.listen = \"127.0.0.1:0\"\n\
                   [[sds.listen]]\nname = \"sds\"\npath = \"/d/sds.sock\"\n[[sds.listen]]\nname = \"web\"\npath = \"/d/web.sock\"";
    assert_eq!(up("/d", &[("web", "/d/web.sock")]).unwrap(), settings(written));
}

#[test]
fn the_mistakes_of_a_command_line_come_at_once() {
    let long = format!("/{}", "d".repeat(100));
    let sockets = [("a/b", "/x.sock"), ("web", "/y.sock"), ("web", "/y.sock"), ("admin", "tcp://1.2.3.4:5")];
    let mistakes = up(&long, &sockets).unwrap_err();
    golden::check("src/config/golden/up.txt", &format!("{mistakes}\n"));
}

#[test]
fn files_that_others_can_write_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("policy.toml");
    let domain = TrustDomain::parse("example.org").unwrap();
    let load = || load_policy(&path, &domain, None);
    assert!(matches!(load(), Err(FileError::Missing { .. })));
    assert!(matches!(load_policy(directory.path(), &domain, None), Err(FileError::NoFile { .. })));
    fs::write(&path, starter(&domain, 1000, &[])).unwrap();
    for (mode, fine) in [(0o600, true), (0o644, true), (0o664, false), (0o646, false)] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        match load() {
            Ok(policy) => assert!(fine && policy.rules().len() == 2, "{mode:o}"),
            Err(error) => assert!(!fine && error.to_string().contains("chmod go-w"), "{error}"),
        }
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&path, [0xff, 0xfe]).unwrap();
    assert!(matches!(load(), Err(FileError::NotText { .. })));
    fs::write(&path, "[[rule]]\n").unwrap();
    assert!(matches!(load(), Err(FileError::Mistakes(_))));
    fs::write(&path, " ".repeat(LARGEST)).unwrap();
    assert!(matches!(load(), Err(FileError::TooLarge { .. })));
}

const LARGEST: usize = crate::policy::LARGEST_POLICY + 1;

#[test]
fn relative_paths_are_meant_from_the_files_directory() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("chancery.toml");
    fs::write(&path, LEAST.replace("/data", "data")).unwrap();
    let settings = Settings::load(&path).unwrap();
    assert_eq!(settings.data_dir, directory.path().join("data"));
}
