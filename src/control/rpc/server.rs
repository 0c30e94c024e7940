//! The node's end of the control socket: one thread that accepts, one short-lived thread per client.
//! Takes a path and a [`Handler`]; owns the socket file and the lock beside it until it is dropped.

use std::fs::{DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{
    DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _,
    PermissionsExt as _,
};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::message::{self, Code, Front};
use super::{CLIENTS_MAX, Handler, REQUEST_BYTES_MAX, Timeouts};

/// Why no control socket could be opened.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Somebody listens there.
    #[error("{}: another process serves this socket", .0.display())]
    Live(PathBuf),
    /// Something else has the name, and it is not ours to remove.
    #[error("{}: is there already and is no socket", .0.display())]
    NotASocket(PathBuf),
    /// The system refused.
    #[error("{}: {what}: {source}", path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// What came back.
        source: io::Error,
    },
}

/// A control socket being served. Dropping it takes the socket away, lets running requests finish and ends every thread.
pub struct Server {
    path: PathBuf,
    lock_path: PathBuf,
    /// Held as long as the socket is ours; the kernel gives it back however the process ends.
    _lock: File,
    shared: Arc<Shared>,
    /// The listening socket once more, to wake the thread that waits in accept(2).
    waker: UnixStream,
    acceptor: Option<JoinHandle<()>>,
}

struct Shared {
    handler: Box<dyn Handler>,
    timeouts: Timeouts,
    stopping: AtomicBool,
}

impl Server {
    /// Serves `handler` at `path`, whose folder is made if absent. A socket left by a dead process is replaced.
    pub fn start(
        path: &Path,
        handler: Box<dyn Handler>,
        timeouts: Timeouts,
    ) -> Result<Self, ServerError> {
        let failed = |what| move |source| ServerError::Io { path: path.to_owned(), what, source };
        if let Some(folder) = path.parent() {
            DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(folder)
                .map_err(failed("its folder can't be made"))?;
        }
        let lock_path = beside(path, ".lock");
        let lock = lock(&lock_path)
            .map_err(failed("its lock can't be taken"))?
            .ok_or_else(|| ServerError::Live(path.to_owned()))?;
        refuse_occupied(path)?;
        let listener = bind(path).map_err(failed("the socket can't be made"))?;
        let waker = UnixStream::from(OwnedFd::from(
            listener.try_clone().map_err(failed("no descriptor left"))?,
        ));
        let shared = Arc::new(Shared { handler, timeouts, stopping: AtomicBool::new(false) });
        let of_thread = Arc::clone(&shared);
        let acceptor = std::thread::Builder::new()
            .name("control".to_owned())
            .spawn(move || accept(&listener, &of_thread))
            .map_err(failed("no thread left"))?;
        Ok(Self {
            path: path.to_owned(),
            lock_path,
            _lock: lock,
            shared,
            waker,
            acceptor: Some(acceptor),
        })
    }

    /// Where it serves.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // First the name, so that nobody new comes; both removals happen under the lock, so the files are ours. A file that is
        // gone already is no reason to stop stopping.
        let _ = std::fs::remove_file(&self.path);
        self.shared.stopping.store(true, Ordering::Release);
        // On Linux this makes a waiting accept(2) return with EINVAL, and every later one too.
        let _ = self.waker.shutdown(std::net::Shutdown::Both);
        if let Some(acceptor) = self.acceptor.take() {
            // The thread only ends early by a panic, which it has reported itself.
            let _ = acceptor.join();
        }
        let _ = std::fs::remove_file(&self.lock_path);
    }
}

/// Takes the lock beside the socket; `None` where a live process has it.
fn lock(path: &Path) -> io::Result<Option<File>> {
    // A server that ends removes its lock file, so the one that was opened here may have lost its name meanwhile.
    const TRIES_MAX: u32 = 8;
    for _ in 0..TRIES_MAX {
        let file =
            OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        let named = std::fs::symlink_metadata(path).map(|there| (there.dev(), there.ino()));
        let held = file.metadata()?;
        if named.is_ok_and(|named| named == (held.dev(), held.ino())) {
            return Ok(Some(file));
        }
    }
    Err(io::Error::new(ErrorKind::ResourceBusy, "it changes hands again and again"))
}

/// Refuses a name that something alive, or something that is no socket, has. A dead socket stays: `bind` renames over it.
fn refuse_occupied(path: &Path) -> Result<(), ServerError> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Ok(there) if there.file_type().is_socket() => match UnixStream::connect(path) {
            // Only a socket that nobody listens at refuses; any other answer may come from somebody alive.
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(()),
            Ok(_) | Err(_) => Err(ServerError::Live(path.to_owned())),
        },
        Ok(_) => Err(ServerError::NotASocket(path.to_owned())),
        Err(source) => {
            Err(ServerError::Io { path: path.to_owned(), what: "can't be looked at", source })
        }
    }
}

/// Makes the socket in a folder only its owner can enter, and gives it its name when its mode is right: whatever the umask, nobody
/// else can connect in between.
fn bind(path: &Path) -> io::Result<UnixListener> {
    let folder = beside(path, ".new");
    let inside = folder.join("s");
    // Left by a process that was killed between these lines; we hold the lock.
    let _ = std::fs::remove_file(&inside);
    let _ = std::fs::remove_dir(&folder);
    DirBuilder::new().mode(0o700).create(&folder)?;
    let bound = UnixListener::bind(&inside).and_then(|listener| {
        std::fs::set_permissions(&inside, Permissions::from_mode(0o600))?;
        std::fs::rename(&inside, path)?;
        Ok(listener)
    });
    let _ = std::fs::remove_file(&inside);
    let _ = std::fs::remove_dir(&folder);
    bound
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn accept(listener: &UnixListener, shared: &Arc<Shared>) {
    let mut clients: Vec<(UnixStream, JoinHandle<()>)> = Vec::with_capacity(CLIENTS_MAX);
    while !shared.stopping.load(Ordering::Acquire) {
        match listener.accept() {
            Ok((stream, _)) => {
                clients.retain(|(_, thread)| !thread.is_finished());
                if clients.len() < CLIENTS_MAX {
                    // Out of descriptors or threads: the client sees its connection closed and may try again.
                    clients.extend(admit(stream, shared).ok());
                } else {
                    turn_away(&stream);
                }
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // Out of descriptors, most likely. Somebody will close one; until then don't spin.
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
        }
    }
    for (stream, _) in &clients {
        // Ends the wait for a next request, not the answer to a running one.
        let _ = stream.shutdown(std::net::Shutdown::Read);
    }
    for (_, thread) in clients {
        let _ = thread.join();
    }
}

fn admit(stream: UnixStream, shared: &Arc<Shared>) -> io::Result<(UnixStream, JoinHandle<()>)> {
    let kept = stream.try_clone()?;
    let shared = Arc::clone(shared);
    let thread =
        std::thread::Builder::new().name("control-client".to_owned()).spawn(move || {
            // However it ended: a client that is gone, or too slow, or breaks the protocol is told what can be told and forgotten.
            let _ = serve(&stream, &shared);
            let _ = stream.shutdown(std::net::Shutdown::Both);
        })?;
    Ok((kept, thread))
}

fn turn_away(stream: &UnixStream) {
    let says = format!("{CLIENTS_MAX} clients are served already");
    // A fresh socket has room for one line; if not, the client goes without the reason.
    let _ = stream.set_nonblocking(true);
    let _ = (&mut &*stream).write(&message::line(&message::failure(
        &Value::Null,
        Code::TooManyClients,
        &says,
    )));
}

fn serve(stream: &UnixStream, shared: &Shared) -> io::Result<()> {
    let mut held: Vec<u8> = Vec::with_capacity(CHUNK_BYTES);
    let mut chunk = [0; CHUNK_BYTES];
    let mut deadline = Instant::now() + shared.timeouts.idle;
    loop {
        stream.set_read_timeout(Some(left(deadline)?))?;
        let room = chunk.len().min(REQUEST_BYTES_MAX - held.len());
        let count = match (&mut &*stream).read(&mut chunk[..room]) {
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        if held.is_empty() {
            deadline = Instant::now() + shared.timeouts.request;
        }
        held.extend_from_slice(&chunk[..count]);
        // A request ends with a bracket, and nonsense may end with its line: no need to look at the whole again before.
        if chunk[..count].iter().any(|byte| matches!(byte, b'}' | b']' | b'\n')) {
            loop {
                match message::front(&held) {
                    Front::Nothing => {
                        held.clear();
                        deadline = Instant::now() + shared.timeouts.idle;
                        break;
                    }
                    Front::Half => break,
                    Front::Whole(request, used) => {
                        held.drain(..used);
                        if let Some(answer) = message::answer(request, &*shared.handler) {
                            send(stream, &answer, shared)?;
                        }
                        if shared.stopping.load(Ordering::Acquire) {
                            return Ok(());
                        }
                        // What is left of the bytes is the beginning of the next request.
                        deadline = Instant::now() + shared.timeouts.request;
                    }
                    Front::Broken => {
                        // Where the next request begins can't be known any more.
                        let says = "not JSON; the connection is closed";
                        return send(
                            stream,
                            &message::failure(&Value::Null, Code::Parse, says),
                            shared,
                        );
                    }
                }
            }
        }
        if held.len() >= REQUEST_BYTES_MAX {
            let says = format!("larger than {REQUEST_BYTES_MAX} bytes; the connection is closed");
            return send(
                stream,
                &message::failure(&Value::Null, Code::InvalidRequest, &says),
                shared,
            );
        }
    }
}

fn send(stream: &UnixStream, answer: &Value, shared: &Shared) -> io::Result<()> {
    let bytes = message::line(answer);
    let deadline = Instant::now() + shared.timeouts.reply;
    let mut rest = &bytes[..];
    while !rest.is_empty() {
        stream.set_write_timeout(Some(left(deadline)?))?;
        match (&mut &*stream).write(rest) {
            Ok(count) => rest = &rest[count..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The time to a deadline; past it an error. Never zero, which sockets take for "forever".
pub(super) fn left(deadline: Instant) -> io::Result<Duration> {
    match deadline.checked_duration_since(Instant::now()) {
        Some(left) if !left.is_zero() => Ok(left),
        Some(_) | None => Err(ErrorKind::TimedOut.into()),
    }
}

const CHUNK_BYTES: usize = 4096;
