//! Programs that nobody here wrote. A missing one skips its test and says so, except where `PILLION_REQUIRE=all` makes it fail.
//!
//! In:  a program's name.
//! Out: its path, or a printed reason for skipping.

use std::{env, path::PathBuf};

/// The path of `program`, looked for in `target/peers/bin` and in `$PATH`.
///
/// # Panics
/// When it is missing and `PILLION_REQUIRE` is `all` or names it.
pub fn find(program: &str) -> Option<PathBuf> {
    let mut places = vec![crate::workspace().join("target/peers/bin")];
    places.extend(env::var_os("PATH").iter().flat_map(env::split_paths));
    let found = places.into_iter().map(|place| place.join(program)).find(|path| path.is_file());
    if found.is_none() {
        let required = env::var("PILLION_REQUIRE").unwrap_or_default();
        assert!(
            required != "all" && !required.split(',').any(|name| name == program),
            "{program} is required by PILLION_REQUIRE and is neither in target/peers/bin nor in $PATH"
        );
        eprintln!("skipped: {program} is not installed (`.ci/run` installs it)");
    }
    found
}

/// Whether the Python at hand can import `module`; skips like [`find`].
pub fn python_with(module: &str) -> Option<PathBuf> {
    let places = [crate::workspace().join("target/peers/bin/python3"), PathBuf::from("python3")];
    let works = |python: &PathBuf| {
        let tried = std::process::Command::new(python).args(["-c", &format!("import {module}")]).output();
        tried.is_ok_and(|output| output.status.success())
    };
    let found = places.into_iter().find(works);
    if found.is_none() {
        let required = env::var("PILLION_REQUIRE").unwrap_or_default();
        assert!(
            required != "all" && !required.split(',').any(|name| name == module),
            "the Python module {module} is required by PILLION_REQUIRE and cannot be imported"
        );
        eprintln!("skipped: no Python with the module {module} (`.ci/run` installs it)");
    }
    found
}
