//! Everything that `pillion run` prints, through one thread, so that lines never mix and a stopped terminal never stops the mesh.
//!
//! In:  lines of children, sentences, events.
//! Out: standard output and standard error. With `--json` standard output has events only, and all the rest goes to standard error.

use std::{
    collections::VecDeque,
    io::Write,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anstyle::{AnsiColor, Style};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::events::{Event, Problem};

/// Lines of children that may wait for a slow terminal; more are counted and dropped.
const WAITING_LINES: usize = 4096;
/// What is still waiting at the end has this long to be printed: a terminal that stands still must not keep the process.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// Lines of a child that are remembered for the moment it crashes.
const LAST_LINES: usize = 20;

/// Whose lines: `product-v1-0`, or `product-v1-0/proxy`. Its colour is always the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label(Arc<str>);

impl Label {
    /// A label of this name.
    pub fn new(name: &str) -> Self {
        Self(name.into())
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.0
    }

    fn style(&self) -> Style {
        const COLOURS: [AnsiColor; 10] = [
            AnsiColor::Cyan,
            AnsiColor::Green,
            AnsiColor::Yellow,
            AnsiColor::Blue,
            AnsiColor::Magenta,
            AnsiColor::BrightCyan,
            AnsiColor::BrightGreen,
            AnsiColor::BrightYellow,
            AnsiColor::BrightBlue,
            AnsiColor::BrightMagenta,
        ];
        // FNV-1a over the part before the slash: a program and its sidecar look alike, today and tomorrow.
        let name = self.0.split('/').next().unwrap_or_default();
        let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        let index = usize::try_from(hash % 10).unwrap_or_default();
        Style::new().fg_color(Some(COLOURS[index].into()))
    }
}

/// Which lines of children are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Logs {
    /// Programs and sidecars.
    All,
    /// Programs only.
    Programs,
    /// None, except the last lines of what crashed.
    None,
}

enum Message {
    Line(String),
    Error(String),
    Log(String),
    Event(String),
    End,
}

struct Shared {
    messages: mpsc::Sender<Message>,
    waiting: Arc<AtomicUsize>,
    dropped: AtomicUsize,
    json: bool,
    logs: Logs,
    last: Mutex<std::collections::HashMap<Arc<str>, VecDeque<String>>>,
}

/// Prints. Cheap to clone.
#[derive(Clone)]
pub struct Output(Arc<Shared>);

/// Ends the printing thread.
pub struct Printer {
    output: Output,
    thread: JoinHandle<()>,
}

impl Printer {
    /// Prints what is waiting, then nothing more.
    pub fn finish(self) {
        self.output.send(Message::End);
        let end = Instant::now() + LAST_WORDS;
        while !self.thread.is_finished() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Output {
    /// Starts the printing thread. `broken` is cancelled when the reader of standard output has gone away.
    pub fn start(json: bool, logs: Logs, broken: CancellationToken) -> std::io::Result<(Self, Printer)> {
        let (messages, incoming) = mpsc::channel();
        let waiting = Arc::new(AtomicUsize::new(0));
        let count = waiting.clone();
        watch_reader(broken.clone())?;
        let thread = std::thread::Builder::new().name("output".into()).spawn(move || print(&incoming, json, &count, &broken))?;
        let output = Self(Arc::new(Shared { messages, waiting, dropped: AtomicUsize::new(0), json, logs, last: Mutex::default() }));
        Ok((output.clone(), Printer { output, thread }))
    }

    /// Whether standard output has events only.
    pub fn is_json(&self) -> bool {
        self.0.json
    }

    /// A sentence of our own, or several lines of text.
    pub fn say(&self, text: &str) {
        self.send(Message::Line(format!("{text}\n")));
    }

    /// Why it ends: always on standard error.
    pub fn fail(&self, text: &str) {
        self.send(Message::Error(format!("{text}\n")));
    }

    /// A line of a child.
    pub fn log(&self, label: &Label, line: &str) {
        self.remember(label, line);
        let sidecar = label.name().contains('/');
        let shown = match self.0.logs {
            Logs::All => true,
            Logs::Programs => !sidecar,
            Logs::None => false,
        };
        if shown {
            self.print_log(label, line);
        }
    }

    /// Shows the last lines of a child that were not shown when they came.
    pub fn show_last(&self, label: &Label) {
        let lines = self.0.last.lock().remove(label.name()).unwrap_or_default();
        let sidecar = label.name().contains('/');
        if self.0.logs == Logs::None || (self.0.logs == Logs::Programs && sidecar) {
            lines.iter().for_each(|line| self.print_log(label, line));
        }
    }

    /// A problem, as a sentence and as an event.
    pub fn problem(&self, problem: Problem) {
        self.say(&format!("! {}", problem.message));
        self.event(&Event::Error(problem));
    }

    /// A line of the `--json` stream; nothing without `--json`.
    pub fn event(&self, event: &Event) {
        if self.0.json
            && let Ok(text) = serde_json::to_string(event)
        {
            self.send(Message::Event(format!("{text}\n")));
        }
    }

    fn remember(&self, label: &Label, line: &str) {
        let mut all = self.0.last.lock();
        let lines = all.entry(label.0.clone()).or_default();
        if lines.len() >= LAST_LINES {
            lines.pop_front();
        }
        lines.push_back(line.to_owned());
    }

    fn print_log(&self, label: &Label, line: &str) {
        if self.0.waiting.load(Ordering::Relaxed) >= WAITING_LINES {
            self.0.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let dropped = self.0.dropped.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            self.send(Message::Line(format!("… {dropped} lines were not shown: the terminal is slower than the programs\n")));
        }
        let style = label.style();
        self.0.waiting.fetch_add(1, Ordering::Relaxed);
        self.send(Message::Log(format!("{style}[{}]{style:#} {line}\n", label.name())));
    }

    fn send(&self, message: Message) {
        // The thread ends only after `finish`: what comes later is not worth a line.
        let _ = self.0.messages.send(message);
    }
}

/// Cancels `broken` when the reader of standard output has gone, also while nothing is written: a mesh that a script started ends with it.
fn watch_reader(broken: CancellationToken) -> std::io::Result<()> {
    use rustix::{
        event::{PollFd, PollFlags, poll},
        fs::{FileType, fstat},
    };
    let kind = fstat(std::io::stdout()).map(|stat| FileType::from_raw_mode(stat.st_mode));
    // A terminal says it by a signal, and a file never.
    if !matches!(kind, Ok(FileType::Fifo | FileType::Socket)) {
        return Ok(());
    }
    let watch = move || {
        let stdout = std::io::stdout();
        let gone = PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL;
        loop {
            let mut asked = [PollFd::new(&stdout, PollFlags::empty())];
            match poll(&mut asked, None) {
                Ok(_) if asked[0].revents().intersects(gone) => return broken.cancel(),
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(_) => return,
            }
        }
    };
    std::thread::Builder::new().name("reader".into()).spawn(watch).map(drop)
}

fn print(incoming: &mpsc::Receiver<Message>, json: bool, waiting: &AtomicUsize, broken: &CancellationToken) {
    let mut out = anstream::AutoStream::auto(std::io::stdout());
    let mut err = anstream::AutoStream::auto(std::io::stderr());
    for message in incoming {
        let result = match message {
            Message::End => return,
            Message::Event(text) => out.write_all(text.as_bytes()).and_then(|()| out.flush()),
            Message::Error(text) => err.write_all(text.as_bytes()),
            Message::Line(text) if json => err.write_all(text.as_bytes()),
            Message::Line(text) => out.write_all(text.as_bytes()).and_then(|()| out.flush()),
            Message::Log(text) => {
                waiting.fetch_sub(1, Ordering::Relaxed);
                if json { err.write_all(text.as_bytes()) } else { out.write_all(text.as_bytes()) }
            }
        };
        // `pillion run | head -1`: nobody reads on, so the mesh ends in order. A broken standard error only loses lines.
        if let Err(error) = result
            && error.kind() == std::io::ErrorKind::BrokenPipe
        {
            broken.cancel();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_and_its_sidecar_have_one_colour_for_ever() {
        assert_eq!(Label::new("product-v1-0").style(), Label::new("product-v1-0/proxy").style());
        let colours: std::collections::HashSet<String> =
            ["product-v1-0", "product-v2-0", "order-0", "user-0", "payment-0"].map(|n| Label::new(n).style().to_string()).into();
        assert!(colours.len() >= 3, "{colours:?}");
    }
}
