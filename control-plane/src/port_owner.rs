//! Whose port is that? Answers for messages such as "port 15080 is taken by pillion (pid 4711)".
//!
//! In:  a TCP port of this machine; `/proc` on Linux.
//! Out: the listening process as far as this user may know it.

use std::{fmt, fs};

/// Who listens on a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortOwner {
    /// A process of which we may read the name.
    Process { pid: u32, name: String },
    /// Somebody listens, as this user id; which process is not ours to know.
    User(u32),
    /// Nothing is known; not every system can be asked.
    Unknown,
}

impl fmt::Display for PortOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process { pid, name } => write!(f, "{name} (pid {pid})"),
            Self::User(uid) => write!(f, "a process of user id {uid}"),
            Self::Unknown => write!(f, "another process"),
        }
    }
}

/// Who listens on TCP `port`, on whatever address.
pub fn port_owner(port: u16) -> PortOwner {
    let listening = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|path| fs::read_to_string(path).ok())
        .find_map(|table| listening_socket(&table, port));
    let Some((uid, inode)) = listening else {
        return PortOwner::Unknown;
    };
    match process_with_socket(inode) {
        Some((pid, name)) => PortOwner::Process { pid, name },
        None => PortOwner::User(uid),
    }
}

/// User id and inode of the socket that listens on `port`, from the text of `/proc/net/tcp`.
fn listening_socket(table: &str, port: u16) -> Option<(u32, u64)> {
    const LISTEN: &str = "0A";
    table.lines().skip(1).find_map(|line| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let (_, local) = columns.get(1)?.rsplit_once(':')?;
        let matches = u16::from_str_radix(local, 16).ok()? == port && *columns.get(3)? == LISTEN;
        matches.then(|| Some((columns.get(7)?.parse().ok()?, columns.get(9)?.parse().ok()?)))?
    })
}

fn process_with_socket(inode: u64) -> Option<(u32, String)> {
    let wanted = format!("socket:[{inode}]");
    fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let holds = fs::read_dir(entry.path().join("fd"))
            .ok()?
            .flatten()
            .any(|fd| fs::read_link(fd.path()).is_ok_and(|target| target.as_os_str() == wanted.as_str()));
        holds.then(|| (pid, process_name(pid)))
    })
}

fn process_name(pid: u32) -> String {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    let name: String = name.trim().chars().filter(|c| !c.is_control()).collect();
    if name.is_empty() { "a process".into() } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_listening_line_of_a_port_is_found() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
             0: 0100007F:3AE8 0100007F:1234 01 00000000:00000000 00:00000000 00000000  1000        0 111 1 x 20\n\
             1: 0100007F:3AE8 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 4242 1 x 100\n\
             2: broken line\n";
        let cases = [("listening", 15_080, Some((1000, 4242))), ("nobody", 15_081, None)];
        for (name, port, want) in cases {
            assert_eq!(listening_socket(table, port), want, "{name}");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn our_own_listener_is_ours() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let PortOwner::Process { pid, name } = port_owner(listener.local_addr().unwrap().port()) else {
            panic!("not found");
        };
        assert_eq!(pid, std::process::id());
        assert!(!name.is_empty());
    }
}
