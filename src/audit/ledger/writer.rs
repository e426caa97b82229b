//! The writer thread: the one owner of the journal, and the loop that makes records durable.
//!
//! Whatever waits at the moment goes into one frame: one write, one `fdatasync`, then everybody is answered, then the
//! views follow. Records are serialised and hashed by those who send them. After a failed write or sync the thread
//! answers everything with that failure and writes nothing more (what the disk holds is unknown; the next opening looks).

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use nix::fcntl::Flock;
use tokio::sync::{mpsc, oneshot};

use super::checkpoint::CheckpointKey;
use super::disk::{Disk, Identity};
use super::error::LedgerError;
use super::frame::{Body, Head, Section, encoded_length};
use super::journal::{Journal, NoRoom, Priority};
use super::rotate::{self, Opening, SnapshotSlot};
use super::shared::{Leaf, LogState, Shared, TailFrame};
use crate::audit::event::Recorder;
use crate::clock::Clock;
use crate::merkle::Frontier;

/// The most records of one commit, and so of one batch.
pub const MOST_RECORDS: usize = 4096;
/// The most bytes of one commit, unless a segment is smaller.
pub(crate) const MOST_BYTES: usize = 2 << 20;

/// How long a failed rotation waits.
const ROTATE_RETRY: Duration = Duration::from_secs(60);

/// Where the first record of a request landed.
pub(crate) type Answer = Result<(Arc<str>, u64), LedgerError>;

/// Records that are to be in one commit.
pub(crate) struct Request {
    pub(crate) leaves: Vec<Leaf>,
    pub(crate) priority: Priority,
    pub(crate) reply: oneshot::Sender<Answer>,
}

impl Request {
    fn bytes(&self) -> usize {
        self.leaves.iter().map(|leaf| leaf.bytes.len() + 2).sum()
    }
}

/// What the writer is asked.
pub(crate) enum Command {
    /// Make these durable.
    Append(Request),
    /// Make the waiting notes durable.
    Flush,
    /// Append this last record, sync every view and end.
    Stop(Leaf, oneshot::Sender<Result<(), LedgerError>>),
}

/// What comes after a command.
pub(crate) enum Turn {
    /// This one, which did not fit, or whatever is sent next.
    Next(Option<Command>),
    /// The ledger is closed, this well, and this one is to be told.
    End(Result<(), LedgerError>, oneshot::Sender<Result<(), LedgerError>>),
}

/// The writer thread's state.
pub(crate) struct Writer {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) directory: PathBuf,
    pub(crate) journal: Journal,
    pub(crate) shared: Arc<Shared>,
    pub(crate) key: Arc<CheckpointKey>,
    pub(crate) clock: Clock,
    pub(crate) recorder: Recorder,
    /// The log being written: its position in the shared state, its name and its frontier.
    pub(crate) number: usize,
    pub(crate) name: String,
    pub(crate) origin: Arc<str>,
    pub(crate) frontier: Frontier,
    /// The log's directory as it was at the first commit of this run.
    pub(crate) identity: Option<Identity>,
    pub(crate) trust_domain: String,
    pub(crate) snapshot: SnapshotSlot,
    /// When a rotation that failed is tried again, on the monotonic clock.
    pub(crate) rotate_after: Duration,
    pub(crate) largest_frame: usize,
    /// Held while anything may be written.
    pub(crate) _lock: Arc<Flock<std::fs::File>>,
}

/// Commits that one flush of notes takes at most: more than the queue of notes fills.
const MOST_FLUSHES: usize = 16;

impl Writer {
    /// Works until every sender is gone or a clean stop was asked for.
    pub(crate) fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let mut held = None;
        while let Some(command) = held.take().or_else(|| commands.blocking_recv()) {
            match self.take(command, &mut commands) {
                Turn::Next(next) => held = next,
                Turn::End(outcome, reply) => {
                    self.shared.stop();
                    drop(self);
                    // The caller may have gone; the ledger is closed all the same.
                    let _ = reply.send(outcome);
                    return;
                }
            }
        }
        self.shared.stop();
    }

    /// Does what `command` asks, together with whatever else waits and fits one commit.
    pub(crate) fn take(&mut self, command: Command, commands: &mut mpsc::Receiver<Command>) -> Turn {
        match command {
            Command::Stop(leaf, reply) => Turn::End(self.close(leaf), reply),
            Command::Flush => {
                self.flush_notes();
                Turn::Next(None)
            }
            Command::Append(request) => {
                let mut held = None;
                let mut bytes = request.bytes();
                let mut records = request.leaves.len();
                let mut batch = vec![request];
                while let Ok(command) = commands.try_recv() {
                    match command {
                        Command::Append(request)
                            if records + request.leaves.len() <= MOST_RECORDS
                                && bytes + request.bytes() <= self.most_bytes() =>
                        {
                            bytes += request.bytes();
                            records += request.leaves.len();
                            batch.push(request);
                        }
                        // Its notes ride along anyway.
                        Command::Flush => {}
                        other @ (Command::Append(_) | Command::Stop(..)) => {
                            held = Some(other);
                            break;
                        }
                    }
                }
                self.commit(batch);
                Turn::Next(held)
            }
        }
    }

    fn most_bytes(&self) -> usize {
        MOST_BYTES.min(self.largest_frame / 2)
    }

    /// Notes of more than one frame, should there be so many; what a full disk keeps back rides with a later commit.
    fn flush_notes(&mut self) {
        for _ in 0..MOST_FLUSHES {
            self.commit(Vec::new());
            if self.journal.is_full() || !self.shared.has_notes() {
                return;
            }
        }
    }

    /// Makes the batch and waiting notes durable, and answers.
    fn commit(&mut self, batch: Vec<Request>) {
        if let Some(error) = self.shared.failure() {
            return refuse(batch, &error);
        }
        let caught_up = self.shared.wait_for_views();
        if caught_up && !self.journal.is_full() {
            self.rotate_if_due();
        }
        let full = !caught_up || self.journal.is_full();
        let (batch, refused) = if full { split(batch) } else { (batch, Vec::new()) };
        if full {
            self.shared.set_full(self.journal.directory(), self.clock.now());
        }
        refuse(refused, &self.full_error());
        let notes = if full { Vec::new() } else { self.take_notes(&batch) };
        match self.write(&batch, &notes) {
            Ok(first) => self.answer(batch, first + notes.len() as u64),
            Err(NoRoom::Full) => self.without_space(batch, notes),
            Err(NoRoom::Broken(error)) => {
                self.shared.fail(&format!("{}: {error}", self.journal.directory().display()), self.clock.now());
                refuse(batch, &self.shared.failure().unwrap_or(LedgerError::Closed));
            }
        }
    }

    /// Notes that still fit a frame with `batch`.
    fn take_notes(&self, batch: &[Request]) -> Vec<Leaf> {
        let records: usize = batch.iter().map(|request| request.leaves.len()).sum();
        let bytes: usize = batch.iter().map(Request::bytes).sum();
        let (records, bytes) = (MOST_RECORDS.saturating_sub(records), self.most_bytes().saturating_sub(bytes));
        self.shared.take_notes(records, bytes, batch.is_empty())
    }

    /// Ordinary space just ran out: what may use the reserve is tried once more, the rest is refused.
    fn without_space(&mut self, batch: Vec<Request>, notes: Vec<Leaf>) {
        self.shared.set_full(self.journal.directory(), self.clock.now());
        for note in notes {
            self.shared.note(note);
        }
        let (kept, refused) = split(batch);
        refuse(refused, &self.full_error());
        if kept.is_empty() {
            return;
        }
        match self.write(&kept, &[]) {
            Ok(first) => self.answer(kept, first),
            Err(NoRoom::Full) => refuse(kept, &self.full_error()),
            Err(NoRoom::Broken(error)) => {
                self.shared.fail(&format!("{}: {error}", self.journal.directory().display()), self.clock.now());
                refuse(kept, &self.shared.failure().unwrap_or(LedgerError::Closed));
            }
        }
    }

    fn full_error(&self) -> LedgerError {
        LedgerError::Full { directory: self.directory.clone() }
    }

    /// One frame, one sync. Returns the index of the first record.
    fn write(&mut self, batch: &[Request], notes: &[Leaf]) -> Result<u64, NoRoom> {
        let leaves: Vec<Leaf> = notes.iter().chain(batch.iter().flat_map(|request| &request.leaves)).cloned().collect();
        let first = self.frontier.size();
        if leaves.is_empty() {
            return Ok(first);
        }
        let ordinary = !notes.is_empty() || batch.iter().any(|request| request.priority == Priority::Ordinary);
        let priority = if ordinary { Priority::Ordinary } else { Priority::Reserve };
        let mut frontier = self.frontier.clone();
        leaves.iter().for_each(|leaf| frontier.push(leaf.hash));
        let head = Head { log: self.name.clone(), size: frontier.size(), root: frontier.root() };
        let body = Body::Records(vec![Section { first, leaves, head }]);
        self.put(&body, priority)?;
        self.frontier = frontier;
        if let Body::Records(sections) = body {
            for section in sections {
                let Section { first, leaves, head } = section;
                self.shared.push(self.number, TailFrame { first, leaves, size: head.size, root: head.root });
            }
        }
        Ok(first)
    }

    /// Makes one frame durable, in the next segment when it must.
    fn put(&mut self, body: &Body<Leaf>, priority: Priority) -> Result<(), NoRoom> {
        let heads = self.shared.heads_now();
        let before = self.journal.epoch();
        if self.journal.make_room(encoded_length(body), priority, &heads)? {
            self.shared.retire(before);
        }
        // A log directory that was removed or replaced under us would get tiles that nobody looks at.
        let found = self.disk.identity(&self.directory.join(&self.name)).map_err(NoRoom::Broken)?;
        if *self.identity.get_or_insert(found) != found {
            return Err(NoRoom::Broken(std::io::Error::other("the log's directory was replaced by another")));
        }
        let began = self.clock.monotonic();
        self.journal.commit(body).map_err(NoRoom::Broken)?;
        if let Some(observer) = self.shared.commit_observer.get() {
            observer(self.clock.monotonic().saturating_sub(began));
        }
        Ok(())
    }

    /// Tells each waiter where its records are; only now, after the sync.
    fn answer(&self, batch: Vec<Request>, mut first: u64) {
        for request in batch {
            let count = request.leaves.len() as u64;
            // Who stopped waiting has its record all the same.
            let _ = request.reply.send(Ok((Arc::clone(&self.origin), first)));
            first += count;
        }
        self.shared.announce();
    }

    /// At a new year: closes the log and opens its successor, in one frame.
    fn rotate_if_due(&mut self) {
        let now = self.clock.now();
        let Some(source) = rotate::due(&self.name, now, &self.snapshot) else { return };
        if self.clock.monotonic() < self.rotate_after {
            return;
        }
        let old = rotate::Old { name: &self.name, origin: &self.origin, frontier: &self.frontier };
        let plan = rotate::plan(&old, &self.trust_domain, &source(), &self.recorder, &self.key, now);
        let outcome = plan.map_err(|error| error.to_string()).and_then(|opening| self.open_log(opening));
        if let Err(cause) = outcome {
            self.rotate_after = self.clock.monotonic() + ROTATE_RETRY;
            tracing::error!(cause, "the year's new log could not be opened yet; records go on in the old one");
        }
    }

    fn open_log(&mut self, opening: Opening) -> Result<(), String> {
        let Opening { name, origin, body, frontier } = opening;
        if encoded_length(&body) > self.largest_frame {
            return Err("the snapshot is larger than a journal segment".to_owned());
        }
        rotate::make_log(&*self.disk, &self.directory, &name, &self.key.verifier(&origin))
            .map_err(|error| error.to_string())?;
        match self.put(&body, Priority::Ordinary) {
            Ok(()) => {}
            Err(NoRoom::Full) => return Err("no space".to_owned()),
            Err(NoRoom::Broken(error)) => {
                self.shared.fail(&error.to_string(), self.clock.now());
                return Err(error.to_string());
            }
        }
        let Body::Records(sections) = body else { return Ok(()) };
        let next = self.shared.lock().logs.len();
        // The old log's last records first: a follower takes a log as ended once its successor is listed.
        for Section { first, leaves, head } in sections {
            let number = if head.log == name {
                self.shared.lock().logs.push(LogState::empty(name.clone(), Arc::clone(&origin)));
                next
            } else {
                self.number
            };
            self.shared.push(number, TailFrame { first, leaves, size: head.size, root: head.root });
        }
        (self.number, self.name, self.origin, self.frontier) = (next, name, origin, frontier);
        self.identity = None;
        self.shared.announce();
        Ok(())
    }

    /// A clean end. What is missing when this fails, the next opening rebuilds.
    fn close(&mut self, leaf: Leaf) -> Result<(), LedgerError> {
        self.flush_notes();
        let (reply, mut answer) = oneshot::channel();
        self.commit(vec![Request { leaves: vec![leaf], priority: Priority::Reserve, reply }]);
        answer.try_recv().map_err(|_| LedgerError::Closed)??;
        if !self.shared.sync_views() {
            return Err(self.shared.failure().unwrap_or_else(|| self.full_error()));
        }
        let body = Body::<Leaf>::Close(self.shared.heads_now());
        self.put(&body, Priority::Reserve).map_err(|error| match error {
            NoRoom::Full => self.full_error(),
            NoRoom::Broken(source) => LedgerError::io("closing the journal", self.journal.directory())(source),
        })
    }
}

/// Those that may use the reserve, and the others.
fn split(batch: Vec<Request>) -> (Vec<Request>, Vec<Request>) {
    batch.into_iter().partition(|request| request.priority == Priority::Reserve)
}

fn refuse(batch: Vec<Request>, error: &LedgerError) {
    for request in batch {
        // Who stopped waiting needs no answer.
        let _ = request.reply.send(Err(error.clone()));
    }
}
