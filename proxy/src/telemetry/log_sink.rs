//! Where log lines go: buffers of the worker threads, and one thread that writes them out.
//!
//! In:  lines appended on any thread.
//! Out: `/dev/stdout`, `/dev/stderr` and files. A reader that is too slow costs lines (counted), never a request.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;

/// A buffer is handed over when it holds this many bytes …
const CHUNK_BYTES: usize = 16 << 10;
/// … or this long after its first line.
const FLUSH_AFTER: Duration = Duration::from_millis(50);
/// Chunks waiting for the writer; more are dropped.
const QUEUE_CHUNKS: usize = 256;

/// The process's log destinations by path: listeners that name one path share one file.
#[derive(Debug, Default)]
pub struct LogSinks {
    open: Mutex<HashMap<Box<str>, Arc<LogSink>>>,
    dropped: Arc<AtomicU64>,
    writer: Arc<OnceLock<SyncSender<Job>>>,
}

/// One destination.
#[derive(Debug)]
pub struct LogSink {
    path: Box<str>,
    file: Arc<Mutex<File>>,
    dropped: Arc<AtomicU64>,
    writer: Arc<OnceLock<SyncSender<Job>>>,
}

#[derive(Debug)]
enum Job {
    Write { file: Arc<Mutex<File>>, bytes: Vec<u8>, lines: u64 },
    Done(SyncSender<()>),
}

/// Lines of one destination that wait in a thread.
struct Pending {
    sink: Arc<LogSink>,
    bytes: Vec<u8>,
    lines: u64,
}

thread_local! {
    /// Per worker, so that appending needs no lock; the few destinations are searched by address.
    static PENDING: RefCell<PendingLines> = const { RefCell::new(PendingLines { sinks: Vec::new(), timer: false }) };
}

struct PendingLines {
    sinks: Vec<Pending>,
    /// A task of this thread will flush.
    timer: bool,
}

impl LogSinks {
    /// The destination of a path, opened for appending on first use.
    pub fn open(&self, path: &str) -> io::Result<Arc<LogSink>> {
        let mut open = self.open.lock();
        if let Some(sink) = open.get(path) {
            return Ok(Arc::clone(sink));
        }
        let file = Arc::new(Mutex::new(open_file(path)?));
        let sink = Arc::new(LogSink { path: path.into(), file, dropped: Arc::clone(&self.dropped), writer: Arc::clone(&self.writer) });
        open.insert(path.into(), Arc::clone(&sink));
        Ok(sink)
    }

    /// Opens every file again, for log rotation. One that cannot be opened keeps its old file.
    pub fn reopen(&self) -> io::Result<()> {
        let sinks: Vec<_> = self.open.lock().values().cloned().collect();
        let results: Vec<_> = sinks.iter().map(|sink| open_file(&sink.path).map(|file| *sink.file.lock() = file)).collect();
        results.into_iter().collect()
    }

    /// Lines lost because the reader was too slow or writing failed.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Writes out this thread's lines and waits (a second at most) until everything handed over before is written.
    pub fn flush(&self) {
        flush_thread();
        let Some(writer) = self.writer.get() else { return };
        let (done, wait) = sync_channel(1);
        if writer.try_send(Job::Done(done)).is_ok() {
            // A closed or late channel means that the writer is stuck: nothing more can be done for those lines.
            let _ = wait.recv_timeout(Duration::from_secs(1));
        }
    }
}

impl LogSink {
    /// Lets `render` append one line to this thread's buffer.
    pub fn append(self: &Arc<Self>, render: impl FnOnce(&mut Vec<u8>)) {
        let needs_timer = PENDING.with(|pending| {
            // Never borrowed elsewhere at this time: rendering logs nothing.
            let Ok(mut pending) = pending.try_borrow_mut() else {
                self.dropped.fetch_add(1, Ordering::Relaxed);
                return false;
            };
            let place = pending.sinks.iter().position(|known| Arc::ptr_eq(&known.sink, self)).unwrap_or_else(|| {
                pending.sinks.push(Pending { sink: Arc::clone(self), bytes: Vec::new(), lines: 0 });
                pending.sinks.len() - 1
            });
            let entry = &mut pending.sinks[place];
            render(&mut entry.bytes);
            entry.lines += 1;
            if entry.bytes.len() >= CHUNK_BYTES {
                entry.hand_over();
            }
            !std::mem::replace(&mut pending.timer, true)
        });
        if needs_timer {
            match tokio::runtime::Handle::try_current() {
                // On a worker's current-thread runtime this task runs on this very thread; elsewhere the thread's next line takes its turn.
                Ok(runtime) => drop(runtime.spawn(async {
                    tokio::time::sleep(FLUSH_AFTER).await;
                    flush_thread();
                })),
                Err(_) => flush_thread(),
            }
        }
    }
}

/// Hands over all that waits in this thread.
fn flush_thread() {
    // A thread that is going away has no buffer any more.
    let _ = PENDING.try_with(|pending| {
        if let Ok(mut pending) = pending.try_borrow_mut() {
            pending.timer = false;
            pending.sinks.retain_mut(|entry| {
                let used = !entry.bytes.is_empty();
                entry.hand_over();
                used
            });
        }
    });
}

impl Pending {
    fn hand_over(&mut self) {
        if self.bytes.is_empty() {
            return;
        }
        let lines = std::mem::take(&mut self.lines);
        let bytes = std::mem::take(&mut self.bytes);
        let writer = self.sink.writer.get_or_init(|| start_writer(Arc::clone(&self.sink.dropped)));
        let job = Job::Write { file: Arc::clone(&self.sink.file), bytes, lines };
        match writer.try_send(job) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.sink.dropped.fetch_add(lines, Ordering::Relaxed);
            }
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.hand_over();
    }
}

/// The writer is a thread and not a task: a pipe nobody reads must not stop configuration and admin.
fn start_writer(dropped: Arc<AtomicU64>) -> SyncSender<Job> {
    let (sender, jobs) = sync_channel(QUEUE_CHUNKS);
    let started = std::thread::Builder::new().name("access-log".into()).stack_size(128 << 10).spawn(move || write_jobs(&jobs, &dropped));
    if let Err(error) = started {
        // The receiver is gone, so every line is counted as dropped.
        tracing::error!(%error, "cannot start the access log writer");
    }
    sender
}

fn write_jobs(jobs: &Receiver<Job>, dropped: &AtomicU64) {
    let mut failing = false;
    while let Ok(job) = jobs.recv() {
        match job {
            Job::Write { file, bytes, lines } => {
                let result = file.lock().write_all(&bytes);
                if let Err(error) = &result {
                    dropped.fetch_add(lines, Ordering::Relaxed);
                    if !failing {
                        tracing::warn!(%error, "access log lines are lost");
                    }
                }
                failing = result.is_err();
            }
            Job::Done(done) => drop(done.send(())),
        }
    }
}

fn open_file(path: &str) -> io::Result<File> {
    // Opening /dev/stdout by path fails when it is a socket, and would truncate or reposition a file.
    match path {
        "/dev/stdout" | "/proc/self/fd/1" => Ok(File::from(io::stdout().as_fd().try_clone_to_owned()?)),
        "/dev/stderr" | "/proc/self/fd/2" => Ok(File::from(io::stderr().as_fd().try_clone_to_owned()?)),
        path => OpenOptions::new().create(true).append(true).open(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_path_is_one_file_and_can_be_opened_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let name = path.to_str().unwrap();
        let sinks = LogSinks::default();
        let sink = sinks.open(name).unwrap();
        assert!(Arc::ptr_eq(&sink, &sinks.open(name).unwrap()));
        sink.append(|line| line.extend_from_slice(b"one\n"));
        sinks.flush();
        std::fs::rename(&path, dir.path().join("log.1")).unwrap();
        sinks.reopen().unwrap();
        sink.append(|line| line.extend_from_slice(b"two\n"));
        sinks.flush();
        assert_eq!(std::fs::read_to_string(dir.path().join("log.1")).unwrap(), "one\n");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "two\n");
        assert_eq!(sinks.dropped(), 0);
        assert!(sinks.open(dir.path().join("no/such").to_str().unwrap()).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn lines_leave_a_worker_soon_without_anyone_asking() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let sinks = LogSinks::default();
        let sink = sinks.open(path.to_str().unwrap()).unwrap();
        sink.append(|line| line.extend_from_slice(b"soon\n"));
        assert!(sinks.writer.get().is_none(), "nothing is handed over at once");
        tokio::time::sleep(2 * FLUSH_AFTER).await;
        assert!(sinks.writer.get().is_some());
        sinks.flush();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "soon\n");
    }

    #[test]
    fn a_stuck_reader_costs_lines_and_no_time() {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let sinks = LogSinks::default();
        let sink = Arc::new(LogSink {
            path: "pipe".into(),
            file: Arc::new(Mutex::new(File::from(writer))),
            dropped: Arc::clone(&sinks.dropped),
            writer: Arc::clone(&sinks.writer),
        });
        let line = vec![b'x'; CHUNK_BYTES];
        for _ in 0..QUEUE_CHUNKS + 32 {
            sink.append(|out| out.extend_from_slice(&line));
        }
        assert!(sinks.dropped() > 0);
        drop(reader);
    }
}
