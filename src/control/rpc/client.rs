//! The operator's end of the control socket, one request at a time.
//! Takes a path; gives the same types that a node's [`Handler`](super::Handler) filled in, or a reason fit to be printed.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::message::{self, Front};
use super::server::left;
use super::{REPLY_BYTES_MAX, Version};
use crate::status::{CpReport, Histograms, Status, VerifyReport, VerifyRequest};

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens at the socket.
    #[error("{}: no node serves this socket ({source}); is `ibid run` active, and is this its control socket?", path.display())]
    NoNode {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The socket is another user's.
    #[error("{}: only the user that runs the node may ask it (permission denied)", .0.display())]
    NotAllowed(PathBuf),
    /// No answer in time.
    #[error("the node did not answer within {} s", .0.as_secs())]
    TimedOut(Duration),
    /// The node went away before its answer was complete.
    #[error("the node closed the connection")]
    Closed,
    /// The connection broke.
    #[error("the connection to the node broke: {0}")]
    Io(#[from] io::Error),
    /// The node said no.
    #[error("the node refused: {message}")]
    Refused {
        /// JSON-RPC's code, see [`Refused::code`](super::Refused::code).
        code: i64,
        /// The node's words.
        message: String,
    },
    /// What came back is no answer to what was asked.
    #[error(
        "the answer can't be understood ({0}); do `ibid` here and at the node have the same version?"
    )]
    Malformed(String),
}

/// A connection to a node's control socket.
pub struct Client {
    stream: UnixStream,
    timeout: Duration,
    held: Vec<u8>,
    requests: u64,
}

impl Client {
    /// Connects. `timeout` is for each whole request.
    pub fn connect(path: &Path, timeout: Duration) -> Result<Self, ClientError> {
        match UnixStream::connect(path) {
            Ok(stream) => Ok(Self { stream, timeout, held: Vec::new(), requests: 0 }),
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                Err(ClientError::NotAllowed(path.to_owned()))
            }
            Err(source) => Err(ClientError::NoNode { path: path.to_owned(), source }),
        }
    }

    /// Asks what the node has to say about itself.
    pub fn status(&mut self) -> Result<Status, ClientError> {
        self.call("status")
    }
    /// Has a consistency point taken and waits for it.
    pub fn cp(&mut self) -> Result<CpReport, ClientError> {
        self.call("cp")
    }
    /// Asks for the latency of every stage.
    pub fn histograms(&mut self) -> Result<Histograms, ClientError> {
        self.call("histograms")
    }
    /// Has both copies of a volume compared; does not wait for the end.
    pub fn verify(&mut self, request: &VerifyRequest) -> Result<VerifyReport, ClientError> {
        let params = serde_json::to_value(request)
            .map_err(|error| ClientError::Malformed(error.to_string()))?;
        self.call_with("verify", Some(params))
    }
    /// Asks where the comparison stands.
    pub fn verify_progress(&mut self) -> Result<VerifyReport, ClientError> {
        self.call("verify_progress")
    }
    /// Ends the comparison.
    pub fn verify_stop(&mut self) -> Result<VerifyReport, ClientError> {
        self.call("verify_stop")
    }
    /// Has the node stop as on SIGTERM; does not wait for its end.
    pub fn stop(&mut self) -> Result<(), ClientError> {
        self.call("stop")
    }
    /// Asks what the node is.
    pub fn version(&mut self) -> Result<Version, ClientError> {
        self.call("version")
    }

    /// Calls any method without parameters.
    pub fn call<T: DeserializeOwned>(&mut self, method: &str) -> Result<T, ClientError> {
        self.call_with(method, None)
    }

    fn call_with<T: DeserializeOwned>(
        &mut self,
        method: &str,
        params: Option<Value>,
    ) -> Result<T, ClientError> {
        self.requests += 1;
        let id = self.requests;
        let deadline = Instant::now() + self.timeout;
        let mut request = json!({ "jsonrpc": "2.0", "id": id, "method": method });
        if let Some(params) = params {
            request["params"] = params;
        }
        let request = message::line(&request);
        self.stream.set_write_timeout(Some(self.timeout))?;
        // Far smaller than a socket's buffer: it goes at once or the node has left. Where the node turned us away, its reason is
        // there to be read although it has closed.
        let sent = self.stream.write_all(&request);
        let mut answer = match self.receive(deadline) {
            Err(ClientError::Closed) => {
                return Err(sent.err().map_or(ClientError::Closed, ClientError::Io));
            }
            other => other?,
        };
        let of_other = answer.get("id").and_then(Value::as_u64) != Some(id);
        if let Some(error) = answer.get("error") {
            let code = error.get("code").and_then(Value::as_i64).unwrap_or(0);
            let message = error
                .get("message")
                .and_then(Value::as_str)
                .unwrap_or("without a reason")
                .to_owned();
            return Err(ClientError::Refused { code, message });
        }
        if of_other {
            return Err(ClientError::Malformed(format!("it is not the answer to request {id}")));
        }
        let result = answer.get_mut("result").map(Value::take);
        let result =
            result.ok_or_else(|| ClientError::Malformed("neither result nor error".to_owned()))?;
        serde_json::from_value(result).map_err(|error| ClientError::Malformed(error.to_string()))
    }

    fn receive(&mut self, deadline: Instant) -> Result<Value, ClientError> {
        let mut chunk = [0; 16 << 10];
        let late = |error: io::Error| match error.kind() {
            ErrorKind::TimedOut | ErrorKind::WouldBlock => ClientError::TimedOut(self.timeout),
            ErrorKind::ConnectionReset => ClientError::Closed,
            _ => ClientError::Io(error),
        };
        loop {
            // Answers end with a line, so that a long one is parsed once.
            if self.held.contains(&b'\n') {
                match message::front(&self.held) {
                    Front::Whole(answer, used) => {
                        self.held.drain(..used);
                        return Ok(answer);
                    }
                    Front::Nothing => self.held.clear(),
                    Front::Half => {}
                    Front::Broken => return Err(ClientError::Malformed("not JSON".to_owned())),
                }
            }
            if self.held.len() >= REPLY_BYTES_MAX {
                return Err(ClientError::Malformed(format!("larger than {REPLY_BYTES_MAX} bytes")));
            }
            self.stream.set_read_timeout(Some(left(deadline).map_err(late)?))?;
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(ClientError::Closed),
                Ok(count) => self.held.extend_from_slice(&chunk[..count]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(late(error)),
            }
        }
    }
}
