//! The process's own log: to standard error, its level changed at run time.
//!
//! In:  a level, or levels by module (`info,pillion_proxy::config=debug`).
//! Out: [`LogControl`] for admin.

use std::io::{self, IsTerminal};
use std::str::FromStr;

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, fmt, reload};

/// Changes what is logged.
#[derive(Debug, Clone, Default)]
pub struct LogControl(Option<reload::Handle<Targets, Registry>>);

/// Why the level stays as it is.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("{0:?} is no level: off, error, warn, info, debug, trace, or MODULE=LEVEL,…")]
    Level(String),
    #[error("the log of this process is not ours")]
    NotOurs,
}

/// Levels from text. Chatty libraries stay at `warn` unless they are named.
fn levels(text: &str) -> Result<Targets, LogError> {
    let wrong = || LogError::Level(text.to_owned());
    if text.trim().is_empty() {
        return Err(wrong());
    }
    // A bare word that is no level would be taken for a module.
    for part in text.split(',').map(str::trim) {
        let level = part.split_once('=').map_or(part, |(_, level)| level);
        LevelFilter::from_str(level).map_err(|_| wrong())?;
    }
    let targets = Targets::from_str(text).map_err(|_| wrong())?;
    let quiet = ["h2", "hyper", "hyper_util", "tonic", "tower"];
    let named: Vec<String> = targets.iter().map(|(name, _)| name.to_owned()).collect();
    let quiet = quiet.into_iter().filter(|name| !named.iter().any(|known| known == name));
    Ok(targets.with_targets(quiet.map(|name| (name, LevelFilter::WARN))))
}

/// Starts logging. In a process that logs already (tests) nothing changes.
///
/// # Errors
/// When the levels make no sense.
pub fn start(text: &str, json: bool) -> Result<LogControl, LogError> {
    let (filter, handle) = reload::Layer::new(levels(text)?);
    let layer = fmt::layer().with_writer(io::stderr).with_ansi(io::stderr().is_terminal()).with_target(false);
    let layer = if json { layer.json().boxed() } else { layer.boxed() };
    let started = tracing_subscriber::registry().with(layer.with_filter(filter)).try_init();
    Ok(LogControl(started.is_ok().then_some(handle)))
}

impl LogControl {
    /// # Errors
    /// When the levels make no sense, or somebody else logs for this process.
    pub fn set(&self, text: &str) -> Result<(), LogError> {
        let levels = levels(text)?;
        let handle = self.0.as_ref().ok_or(LogError::NotOurs)?;
        handle.reload(levels).map_err(|_| LogError::NotOurs)
    }

    /// What is logged now.
    pub fn get(&self) -> Option<String> {
        self.0.as_ref()?.with_current(ToString::to_string).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_words_or_modules_with_words() {
        for good in ["info", "off", "DEBUG", "warn,pillion_proxy::config=trace"] {
            assert!(levels(good).is_ok(), "{good}");
        }
        for bad in ["", "loud", "info,pillion_proxy", "pillion_proxy=loud"] {
            assert!(levels(bad).is_err(), "{bad}");
        }
        assert!(levels("debug").unwrap().to_string().contains("h2=warn"));
        assert!(levels("debug,h2=debug").unwrap().to_string().contains("h2=debug"));
    }
}
