//! The command line itself: it parses, and every page of help is held by a golden file.

use super::*;
use crate::cli::screen::golden;
use clap::CommandFactory;

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

fn pages(command: &mut clap::Command, path: &str, text: &mut String) {
    text.push_str(&format!("$ {path} --help\n{}\n", command.render_help()));
    let names: Vec<String> = command.get_subcommands().map(|sub| sub.get_name().to_owned()).collect();
    for name in names.iter().filter(|name| *name != "help") {
        if let Some(sub) = command.find_subcommand_mut(name) {
            pages(sub, &format!("{path} {name}"), text);
        }
    }
}

#[test]
fn help_is_held_by_a_golden_file() {
    let mut command = Cli::command().term_width(110);
    command.build();
    let mut text = String::new();
    pages(&mut command, "chancery", &mut text);
    golden::check("help.txt", &text);
    assert!(text.contains("2 wrong usage"), "exit codes are documented");
}

#[test]
fn global_options_stand_anywhere() {
    let cli = Cli::try_parse_from(["chancery", "cert", "list", "--output", "json", "--data-dir", "x"]).unwrap();
    assert_eq!((cli.global.output, cli.global.data_dir), (Format::Json, PathBuf::from("x")));
    assert!(matches!(cli.command, Command::Cert(_)));
    for wrong in [vec!["chancery"], vec!["chancery", "cert", "list", "--limit", "0"], vec!["chancery", "cert", "lsit"]]
    {
        assert_eq!(Cli::try_parse_from(wrong).unwrap_err().exit_code(), 2);
    }
}

#[test]
fn a_server_that_is_not_there_is_exit_code_4_with_a_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let screen = Screen { format: Format::Text, paint: Paint::PLAIN, clock: Clock::system() };
    let (data_dir, remote) = (dir.path().to_owned(), tls::RemoteArgs::default());
    let context = Context { screen, data_dir, admin_socket: None, remote };
    let failure = client_side(status::run(&context)).unwrap_err();
    assert_eq!(failure.exit, Exit::Unreachable);
    assert!(failure.message.contains("chancery up --data-dir"), "{}", failure.message);
}
