//! Finds the control plane's HTTP API and asks it.
//!
//! In:  `--api`, `PILLION_API`, or the file that a running `pillion run` leaves.
//! Out: answers as JSON; errors that say what to do next.

use std::{
    env, fmt, fs,
    io::{self, Write},
    net::{IpAddr, SocketAddr},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{Method, Request, StatusCode, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use pillion_control_plane::bootstrap::API_PORT;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::net::TcpStream;

/// For a whole request; the API answers from memory.
const PATIENCE: Duration = Duration::from_secs(10);
/// The largest answer that is read, in bytes.
const MAX_ANSWER: usize = 256 << 20;

/// Where the API is. Common to all commands that ask it.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Where {
    /// Address of the control plane's API: `127.0.0.1:15080` or a port [default: that of the mesh that `pillion run` runs here, else 127.0.0.1:15080].
    #[arg(long, value_name = "ADDR", env = "PILLION_API", value_parser = authority)]
    pub api: Option<String>,
}

/// The API of one control plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Api {
    /// `host:port`
    authority: String,
    origin: Origin,
}

/// How the address was found; decides what to advise when nobody answers there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    Given,
    Found,
    Default,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    #[error("cannot reach the control plane at http://{authority}: {problem}\n\n{advice}")]
    Unreachable { authority: String, problem: String, advice: &'static str },
    #[error("cannot reach the admin pages of {proxy} at http://{authority}: {problem}")]
    Silent { proxy: String, authority: String, problem: String },
    #[error("http://{authority}{path} answers {status}: {message}")]
    Refused { authority: String, path: String, status: StatusCode, message: String },
    #[error("http://{authority}{path} answers something else than a control plane of this version would")]
    Strange {
        authority: String,
        path: String,
        #[source]
        source: serde_json::Error,
    },
}

impl Api {
    /// The address that was given, else that of the mesh running here, else the default.
    pub fn find(given: &Where) -> Self {
        if let Some(authority) = &given.api {
            return Self { authority: authority.clone(), origin: Origin::Given };
        }
        match StatePath::of_this_user().read() {
            Some(state) => Self { authority: state, origin: Origin::Found },
            None => Self { authority: format!("127.0.0.1:{API_PORT}"), origin: Origin::Default },
        }
    }

    /// `host:port`
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// Asks for `path`.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ApiError> {
        let answer = tokio::time::timeout(PATIENCE, self.fetch(path)).await;
        let (status, body) = match answer {
            Ok(Ok(answer)) => answer,
            Ok(Err(problem)) => return Err(self.unreachable(problem)),
            Err(_) => return Err(self.unreachable(format!("no answer within {} s", PATIENCE.as_secs()))),
        };
        let (authority, path) = (self.authority.clone(), path.to_owned());
        if !status.is_success() {
            #[derive(Deserialize)]
            struct Problem {
                error: String,
            }
            let message = serde_json::from_slice::<Problem>(&body).map_or_else(|_| "no reason given".to_owned(), |problem| problem.error);
            return Err(ApiError::Refused { authority, path, status, message });
        }
        serde_json::from_slice(&body).map_err(|source| ApiError::Strange { authority, path, source })
    }

    async fn fetch(&self, path: &str) -> Result<(StatusCode, Bytes), String> {
        exchange(&self.authority, Method::GET, path).await
    }

    fn unreachable(&self, problem: String) -> ApiError {
        let advice = match self.origin {
            Origin::Given => "Is it running, and is this its --api address? (--api, or the variable PILLION_API)",
            Origin::Found => "The mesh that `pillion run` started here does not answer; look at its terminal.",
            Origin::Default => {
                "Start a mesh with `pillion run`, or say where its control plane is: --api 127.0.0.1:15080, or the variable PILLION_API."
            }
        };
        ApiError::Unreachable { authority: self.authority.clone(), problem, advice }
    }
}

/// Admin pages of one proxy, ours or a stock Envoy's.
#[derive(Clone, Debug)]
pub struct AdminPages {
    /// Whose they are, for errors.
    pub proxy: String,
    /// `host:port`
    pub authority: String,
}

impl AdminPages {
    /// Asks for a page; what is no success is an error with the page's own words.
    pub async fn ask(&self, method: Method, path: &str) -> Result<Bytes, ApiError> {
        let answer = tokio::time::timeout(PATIENCE, exchange(&self.authority, method, path)).await;
        let answer = answer.unwrap_or_else(|_| Err(format!("no answer within {} s", PATIENCE.as_secs())));
        let authority = self.authority.clone();
        let (status, body) = match answer {
            Ok(answer) => answer,
            Err(problem) => return Err(ApiError::Silent { proxy: self.proxy.clone(), authority, problem }),
        };
        if status.is_success() {
            return Ok(body);
        }
        let message = String::from_utf8_lossy(&body).trim().chars().take(1000).collect();
        Err(ApiError::Refused { authority, path: path.to_owned(), status, message })
    }

    /// Asks for a page of JSON.
    pub async fn json(&self, path: &str) -> Result<serde_json::Value, ApiError> {
        let body = self.ask(Method::GET, path).await?;
        serde_json::from_slice(&body).map_err(|source| ApiError::Strange {
            authority: self.authority.clone(),
            path: path.to_owned(),
            source,
        })
    }
}

/// One request without a body on a connection of its own.
async fn exchange(authority: &str, method: Method, path: &str) -> Result<(StatusCode, Bytes), String> {
    let stream = TcpStream::connect(authority).await.map_err(|error| error.to_string())?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    let request = Request::builder().method(method).uri(path).header(header::HOST, authority).header(header::CONTENT_LENGTH, 0);
    let request = request.body(Empty::<Bytes>::new()).map_err(|error| error.to_string())?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await.map_err(|error| error.to_string())?;
        Ok((status, body.to_bytes()))
    };
    // The connection moves the bytes of the exchange, and is dropped with it.
    tokio::pin!(exchange, connection);
    tokio::select! {
        answer = &mut exchange => answer,
        _ = &mut connection => exchange.await,
    }
}

impl fmt::Display for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}", self.authority)
    }
}

/// `host:port` from an address, a URL or a port.
pub fn authority(text: &str) -> Result<String, String> {
    let bare = text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/');
    if let Ok(port) = bare.parse::<u16>() {
        return Ok(format!("127.0.0.1:{port}"));
    }
    if let Ok(ip) = bare.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
        return Ok(SocketAddr::new(ip, API_PORT).to_string());
    }
    let good_name = |name: &str| !name.is_empty() && !name.contains(['/', ':', ' ', '@']);
    let is_host = match bare.rsplit_once(':') {
        Some((name, port)) => port.parse::<u16>().is_ok() && (good_name(name) || bare.parse::<SocketAddr>().is_ok()),
        None => return if good_name(bare) { Ok(format!("{bare}:{API_PORT}")) } else { Err(not_an_address(text)) },
    };
    if is_host { Ok(bare.to_owned()) } else { Err(not_an_address(text)) }
}

fn not_an_address(text: &str) -> String {
    format!("`{text}` is no address: give `127.0.0.1:{API_PORT}`, `http://127.0.0.1:{API_PORT}` or a port alone")
}

/// The small file by which other commands find a running mesh: `$XDG_RUNTIME_DIR/pillion/run.json`, else `/tmp/pillion-<uid>/run.json`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatePath(PathBuf);

#[derive(Debug, Serialize, Deserialize)]
struct State {
    /// `http://127.0.0.1:15080`
    api: String,
    /// Of `pillion run`: a file of a process that is gone counts for nothing.
    pid: u32,
}

/// Removes the file when dropped, unless another mesh has replaced it.
#[derive(Debug)]
pub struct StateFile {
    path: StatePath,
    api: SocketAddr,
    pid: u32,
}

impl StatePath {
    /// Where this user's file is.
    pub fn of_this_user() -> Self {
        let runtime = env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_absolute() && path.is_dir());
        let folder = match runtime {
            Some(runtime) => runtime.join("pillion"),
            None => PathBuf::from(format!("/tmp/pillion-{}", user())),
        };
        Self(folder.join("run.json"))
    }

    /// The `host:port` in the file, if it is ours and its mesh is alive.
    fn read(&self) -> Option<String> {
        self.0.parent().filter(|folder| is_private(folder))?;
        let state: State = serde_json::from_slice(&fs::read(&self.0).ok()?).ok()?;
        is_alive(state.pid).then(|| authority(&state.api).ok())?
    }

    /// Tells other commands that the API of this process is at `api`. The newest mesh of a user is the one that is found.
    pub fn write(&self, api: SocketAddr) -> io::Result<StateFile> {
        let pid = std::process::id();
        self.put(api, pid)?;
        Ok(StateFile { path: self.clone(), api, pid })
    }

    fn put(&self, api: SocketAddr, pid: u32) -> io::Result<()> {
        let folder = self.0.parent().unwrap_or(Path::new("/"));
        match fs::DirBuilder::new().mode(0o700).create(folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ if !is_private(folder) => {
                return Err(io::Error::new(io::ErrorKind::PermissionDenied, format!("{} is not this user's alone", folder.display())));
            }
            _ => {}
        }
        let fresh = folder.join(format!("run.json.{pid}"));
        let text = serde_json::to_vec(&State { api: format!("http://{api}"), pid })?;
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
        file.write_all(&text)?;
        fs::rename(&fresh, &self.0)
    }
}

impl StateFile {
    /// Writes the file again when the mesh that had replaced it is gone.
    pub fn keep(&self) {
        if self.path.read().is_none() {
            // As at the start: without the file, others need `--api`.
            let _ = self.path.put(self.api, self.pid);
        }
    }
}

impl Drop for StateFile {
    fn drop(&mut self) {
        let state = fs::read(&self.path.0).ok().and_then(|text| serde_json::from_slice::<State>(&text).ok());
        if state.is_some_and(|state| state.pid == self.pid) {
            // A file left behind is recognised by its process.
            let _ = fs::remove_file(&self.path.0);
        }
    }
}

fn user() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Whether the folder is a real one, of this user, that nobody else can write to: `/tmp` is everybody's.
fn is_private(folder: &Path) -> bool {
    fs::symlink_metadata(folder).is_ok_and(|metadata| metadata.is_dir() && metadata.uid() == user() && metadata.mode() & 0o022 == 0)
}

fn is_alive(pid: u32) -> bool {
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
    // A process of another user would be no mesh of ours.
    pid.is_some_and(|pid| rustix::process::test_kill_process(pid).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_in_every_usual_spelling() {
        let cases = [
            ("15080", Some("127.0.0.1:15080")),
            ("127.0.0.1:1", Some("127.0.0.1:1")),
            ("http://127.0.0.1:1/", Some("127.0.0.1:1")),
            ("10.0.0.1", Some("10.0.0.1:15080")),
            ("[::1]:7", Some("[::1]:7")),
            ("::1", Some("[::1]:15080")),
            ("localhost:9", Some("localhost:9")),
            ("localhost", Some("localhost:15080")),
            ("https://a:1", None),
            ("a:b", None),
            ("", None),
        ];
        for (text, want) in cases {
            assert_eq!(authority(text).ok().as_deref(), want, "{text}");
        }
    }

    #[test]
    fn the_state_file_is_found_while_its_process_lives_and_goes_with_it() {
        let home = tempfile::tempdir().unwrap();
        let path = StatePath(home.path().join("pillion/run.json"));
        assert_eq!(path.read(), None);
        let api = SocketAddr::from(([127, 0, 0, 1], 4711));
        let file = path.write(api).unwrap();
        assert_eq!(path.read().as_deref(), Some("127.0.0.1:4711"));
        assert_eq!(fs::metadata(home.path().join("pillion")).unwrap().mode() & 0o777, 0o700);
        drop(file);
        assert!(!path.0.exists());
        // A process that is gone: the largest id that a system gives is below this one.
        fs::write(&path.0, r#"{"api":"http://127.0.0.1:1","pid":4194305}"#).unwrap();
        assert_eq!(path.read(), None);
        let other = fs::read(&path.0).unwrap();
        drop(StateFile { path: path.clone(), api, pid: 1 });
        assert_eq!(fs::read(&path.0).unwrap(), other, "the file of another mesh stays");
    }

    #[test]
    fn a_mesh_is_found_again_when_a_newer_one_is_gone() {
        let home = tempfile::tempdir().unwrap();
        let path = StatePath(home.path().join("pillion/run.json"));
        let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let first = path.write(address(1)).unwrap();
        let second = path.write(address(2)).unwrap();
        first.keep();
        assert_eq!(path.read().as_deref(), Some("127.0.0.1:2"), "the newest one is found");
        drop(second);
        assert_eq!(path.read(), None);
        first.keep();
        assert_eq!(path.read().as_deref(), Some("127.0.0.1:1"));
        // A newer one that was killed.
        fs::write(&path.0, r#"{"api":"http://127.0.0.1:2","pid":4194305}"#).unwrap();
        first.keep();
        assert_eq!(path.read().as_deref(), Some("127.0.0.1:1"));
    }

    #[test]
    fn a_folder_that_others_may_write_to_is_not_believed() {
        use std::os::unix::fs::PermissionsExt;
        let home = tempfile::tempdir().unwrap();
        let path = StatePath(home.path().join("pillion/run.json"));
        let _file = path.write(SocketAddr::from(([127, 0, 0, 1], 1))).unwrap();
        fs::set_permissions(home.path().join("pillion"), fs::Permissions::from_mode(0o777)).unwrap();
        assert_eq!(path.read(), None);
        assert!(path.write(SocketAddr::from(([127, 0, 0, 1], 1))).is_err());
    }

    #[tokio::test]
    async fn nobody_there_says_what_to_do() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let authority = listener.local_addr().unwrap().to_string();
        drop(listener);
        let api = Api { authority, origin: Origin::Default };
        let error = api.get::<serde_json::Value>("/api/v1/proxies").await.unwrap_err();
        assert!(matches!(error, ApiError::Unreachable { .. }));
        assert!(error.to_string().contains("pillion run"), "{error}");
    }
}
