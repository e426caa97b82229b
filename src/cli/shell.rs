//! What a shell and `man` read: completion scripts and man pages, generated from the commands themselves.

use std::path::PathBuf;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::exit::{Done, Failure};
use super::screen::{count, out};
use super::{Cli, Context};

/// `completions`.
#[derive(Debug, Args)]
pub struct Completions {
    /// For which shell
    shell: Shell,
}

/// `man`.
#[derive(Debug, Args)]
pub struct Man {
    /// Where they go; made when it is not there. Such as /usr/local/share/man/man1
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

pub(super) fn completions(args: &Completions) -> Done {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "chancery", &mut text);
    out(&String::from_utf8_lossy(&text))
}

pub(super) fn man(args: &Man, context: &Context) -> Done {
    let failed = |error: std::io::Error| Failure::failed(format!("{}: {error}", args.dir.display()));
    std::fs::create_dir_all(&args.dir).map_err(failed)?;
    let mut command = Cli::command();
    command.build();
    // Options that every command takes stand once, on the first page.
    let mut pages = 0;
    let mut open = vec![command];
    while let Some(command) = open.pop() {
        open.extend(command.get_subcommands().filter(|sub| sub.get_name() != "help").cloned());
        let page = clap_mangen::Man::new(command);
        let mut text = Vec::new();
        page.render(&mut text).map_err(failed)?;
        std::fs::write(args.dir.join(page.get_filename()), text).map_err(failed)?;
        pages += 1;
    }
    let path = args.dir.display().to_string();
    let output = serde_json::json!({"path": path, "pages": pages});
    context.screen.show(&output, |_| {
        format!("wrote {} to {path}\nTo read one: man -l {path}/chancery.1\n", count(pages, "man page"))
    })
}
