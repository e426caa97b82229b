//! Compiles every `.proto` file below `proto/`, without an installed `protoc`.
//!
//! A new file needs no line here: it is found, and the modules of `src/proto.rs` follow the packages.

use std::path::{Path, PathBuf};

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let root = Path::new("proto");
    println!("cargo::rerun-if-changed=proto");
    println!("cargo::rerun-if-changed=build.rs");
    let mut files = Vec::new();
    collect(root, &mut files)?;
    files.sort();
    let descriptors = protox::compile(&files, [root])?;
    tonic_prost_build::configure()
        .build_client(true)
        .build_server(true)
        // `--output json` prints the admin API's own messages: one schema, documented in the .proto file.
        .type_attribute(".chancery.admin.v1", "#[derive(serde::Serialize, serde::Deserialize)]")
        .include_file("protos.rs")
        .compile_fds(descriptors)?;
    describe_admin(root, &files)
}

/// What the admin API's reflection serves: its own descriptors and nothing of Envoy's.
fn describe_admin(root: &Path, files: &[PathBuf]) -> Result<(), Failure> {
    let own = files.iter().filter(|path| path.starts_with("proto/chancery/admin"));
    let mut compiler = protox::Compiler::new([root])?;
    compiler.include_imports(true).include_source_info(false).open_files(own)?;
    let out = std::env::var_os("OUT_DIR").ok_or("cargo names no OUT_DIR")?;
    std::fs::write(Path::new(&out).join("admin.fds"), compiler.encode_file_descriptor_set())?;
    Ok(())
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<(), Failure> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "proto") {
            files.push(path);
        }
    }
    Ok(())
}
