//! JSON-RPC 2.0 messages: finds them in a stream of bytes, has the handler answer them, and words the answers.
//! Takes bytes of any client; never panics on them and never reads past them. Does no I/O: see `server`.

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::status::VerifyRequest;

use super::{BATCH_MAX, Handler, METHODS, Refused, Version};

/// What stands at the front of the bytes received so far.
pub(super) enum Front {
    /// Nothing, or blanks.
    Nothing,
    /// The beginning of a JSON value.
    Half,
    /// A JSON value and how many bytes it took.
    Whole(Value, usize),
    /// Something that can't become JSON, whatever follows.
    Broken,
}

/// Looks for one JSON value at the front. Nesting deeper than 128 counts as broken (serde_json's own bound on recursion).
pub(super) fn front(bytes: &[u8]) -> Front {
    let mut values = serde_json::Deserializer::from_slice(bytes).into_iter::<Value>();
    match values.next() {
        None => Front::Nothing,
        Some(Ok(value)) => Front::Whole(value, values.byte_offset()),
        Some(Err(error)) if error.is_eof() => Front::Half,
        Some(Err(_)) => Front::Broken,
    }
}

/// The answer to one message, or to a batch of them; `None` where none is wanted (JSON-RPC 2.0, 4.1 and 6).
pub(super) fn answer(message: Value, handler: &dyn Handler) -> Option<Value> {
    match message {
        Value::Array(requests) if requests.is_empty() => {
            Some(failure(&Value::Null, Code::InvalidRequest, "an empty batch"))
        }
        Value::Array(requests) if requests.len() > BATCH_MAX => {
            let says = format!("more than {BATCH_MAX} requests in a batch");
            Some(failure(&Value::Null, Code::InvalidRequest, &says))
        }
        Value::Array(requests) => {
            let answers: Vec<Value> =
                requests.into_iter().filter_map(|request| answer_one(request, handler)).collect();
            (!answers.is_empty()).then_some(Value::Array(answers))
        }
        request => answer_one(request, handler),
    }
}

fn answer_one(request: Value, handler: &dyn Handler) -> Option<Value> {
    let Value::Object(mut request) = request else {
        return Some(failure(&Value::Null, Code::InvalidRequest, "a request is an object"));
    };
    let id = request.remove("id");
    match &id {
        None | Some(Value::Null | Value::String(_) | Value::Number(_)) => {}
        Some(_) => {
            return Some(failure(
                &Value::Null,
                Code::InvalidRequest,
                "id must be a string or a number",
            ));
        }
    }
    let result = perform(&request, handler);
    match (id, result) {
        (Some(id), Ok(result)) => Some(json!({ "jsonrpc": "2.0", "id": id, "result": result })),
        (Some(id), Err((code, says))) => Some(failure(&id, code, &says)),
        // Without id and without the form of a request, nobody can tell whether an answer is wanted: there is one (5.1).
        (None, Err((Code::InvalidRequest, says))) => {
            Some(failure(&Value::Null, Code::InvalidRequest, &says))
        }
        // A request without id is a notification: done, and never answered, not even with an error (4.1).
        (None, Ok(_) | Err(_)) => None,
    }
}

fn perform(request: &Map<String, Value>, handler: &dyn Handler) -> Result<Value, (Code, String)> {
    if request.get("jsonrpc").and_then(Value::as_str) != Some("2.0") {
        return Err((Code::InvalidRequest, "jsonrpc must be \"2.0\"".to_owned()));
    }
    let Some(method) = request.get("method").and_then(Value::as_str) else {
        return Err((Code::InvalidRequest, "method must be a string".to_owned()));
    };
    if !METHODS.contains(&method) {
        return Err((
            Code::MethodNotFound,
            format!("no such method; there are {}", METHODS.join(", ")),
        ));
    }
    if method == "verify" {
        // By name only: a list would be read in the order of the fields, which is nobody's promise.
        let params = request.get("params").filter(|params| params.is_object());
        let params = params.cloned().unwrap_or(Value::Null);
        let request = serde_json::from_value::<VerifyRequest>(params).map_err(|error| {
            let says =
                format!("verify takes {{\"volume\": NAME, \"repair\": true or false}}: {error}");
            (Code::InvalidParams, says)
        })?;
        return done(handler.verify(&request));
    }
    let without = match request.get("params") {
        None | Some(Value::Null) => true,
        Some(Value::Object(params)) => params.is_empty(),
        Some(Value::Array(params)) => params.is_empty(),
        Some(Value::Bool(_) | Value::Number(_) | Value::String(_)) => false,
    };
    if !without {
        return Err((Code::InvalidParams, format!("{method} takes no parameters")));
    }
    match method {
        "status" => done(handler.status()),
        "cp" => done(handler.cp()),
        "histograms" => done(handler.histograms()),
        "verify_progress" => done(handler.verify_progress()),
        "verify_stop" => done(handler.verify_stop()),
        "stop" => done(handler.stop()),
        _ => done(Ok(Version::current())),
    }
}

fn done<T: Serialize>(result: Result<T, Refused>) -> Result<Value, (Code, String)> {
    let result = result.map_err(|refused| (Code::Refused(refused), refused.to_string()))?;
    serde_json::to_value(result).map_err(|error| (Code::Internal, error.to_string()))
}

/// JSON-RPC 2.0, 5.1.
#[derive(Clone, Copy)]
pub(super) enum Code {
    Parse,
    InvalidRequest,
    MethodNotFound,
    InvalidParams,
    Internal,
    TooManyClients,
    Refused(Refused),
}

impl Code {
    const fn number(self) -> i64 {
        match self {
            Self::Parse => -32700,
            Self::InvalidRequest => -32600,
            Self::MethodNotFound => -32601,
            Self::InvalidParams => -32602,
            Self::Internal => -32603,
            Self::TooManyClients => -32000,
            Self::Refused(refused) => refused.code(),
        }
    }
}

/// An answer that says why not.
pub(super) fn failure(id: &Value, code: Code, says: &str) -> Value {
    json!({ "jsonrpc": "2.0", "id": id, "error": { "code": code.number(), "message": says } })
}

/// A message as it goes onto the socket: one line.
pub(super) fn line(message: &Value) -> Vec<u8> {
    let mut bytes = message.to_string().into_bytes();
    bytes.push(b'\n');
    bytes
}
