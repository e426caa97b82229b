//! A way between a proxy and its server's socket that can be cut and mended: what is partitioned lives on without it.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// A relay on a socket of its own; ends with the process.
pub struct Relay {
    path: PathBuf,
    shared: Arc<Mutex<Shared>>,
}

#[derive(Default)]
struct Shared {
    cut: bool,
    open: Vec<UnixStream>,
}

impl Relay {
    /// Listens at `path` for what goes to `to`.
    pub fn start(path: &Path, to: &Path) -> Self {
        let listener = UnixListener::bind(path).expect("a socket");
        let (shared, to) = (Arc::<Mutex<Shared>>::default(), to.to_owned());
        let relayed = Arc::clone(&shared);
        std::thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                let mut shared = relayed.lock().expect("no holder panics");
                let far = (!shared.cut).then(|| UnixStream::connect(&to).ok()).flatten();
                let Some(far) = far else { continue };
                for (from, into) in [(&near, &far), (&far, &near)] {
                    let (from, into) = (from.try_clone().expect("a copy"), into.try_clone().expect("a copy"));
                    shared.open.push(from.try_clone().expect("a copy"));
                    std::thread::spawn(move || copy(from, into));
                }
            }
        });
        Self { path: path.to_owned(), shared }
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Ends what is open and lets nobody in.
    pub fn cut(&self) {
        let mut shared = self.shared.lock().expect("no holder panics");
        shared.cut = true;
        for stream in shared.open.drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Lets everybody in again.
    pub fn mend(&self) {
        self.shared.lock().expect("no holder panics").cut = false;
    }
}

fn copy(mut from: UnixStream, mut into: UnixStream) {
    let mut buffer = [0; 16 << 10];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        if into.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = into.shutdown(Shutdown::Both);
}
