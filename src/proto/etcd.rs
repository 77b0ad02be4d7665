//! The JSON of etcd's v3 gateway: requests to bytes, answers to values.
//!
//! What the gateway does that plain JSON does not say (etcd 3.4, `rpc.proto` through grpc-gateway):
//! a field that is zero, false or empty is left out of an answer; 64-bit integers are strings in
//! answers, and either in requests; keys and values are base64. An unknown field is passed over.
//!
//! The caller bounds the length of an answer; nesting is bounded by `serde_json`.

use std::fmt;

use serde_json::{Map, Value, json};

use super::base64;

/// A lease, as etcd numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseId(pub i64);

/// Which keys to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range<'a> {
    /// The key, or the first of a range.
    pub key: &'a [u8],
    /// The first key after the range; `None`: only `key` itself.
    pub end: Option<&'a [u8]>,
    /// The most pairs of an answer; zero: all.
    pub limit: u32,
    /// Leave the values out.
    pub keys_only: bool,
    /// Any member may answer from what it has, without asking the others.
    pub serializable: bool,
}

/// A condition of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compare<'a> {
    /// There is no such key.
    Absent {
        /// The key.
        key: &'a [u8],
    },
    /// The key has exactly this value.
    Value {
        /// The key.
        key: &'a [u8],
        /// Its value.
        value: &'a [u8],
    },
    /// The key was last written by this revision.
    ModRevision {
        /// The key.
        key: &'a [u8],
        /// From [`Pair::mod_revision`].
        revision: i64,
    },
}

/// One step of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation<'a> {
    /// Write a pair.
    Put {
        /// The key.
        key: &'a [u8],
        /// Its new value.
        value: &'a [u8],
        /// The pair goes when the lease does.
        lease: Option<LeaseId>,
    },
    /// Read.
    Range(Range<'a>),
    /// Delete one key.
    Delete {
        /// The key.
        key: &'a [u8],
    },
}

/// One call of the gateway.
#[derive(Clone, Copy, Debug)]
pub enum Request<'a> {
    /// One [`Operation`] by itself.
    Single(Operation<'a>),
    /// `success` if all of `compare` hold, `failure` otherwise; all of it or nothing.
    Txn {
        /// The conditions.
        compare: &'a [Compare<'a>],
        /// What to do if all hold.
        success: &'a [Operation<'a>],
        /// What to do if one does not.
        failure: &'a [Operation<'a>],
    },
    /// A new lease.
    LeaseGrant {
        /// Seconds it lives without a keep-alive.
        ttl_s: u32,
    },
    /// A lease's life starts anew.
    LeaseKeepAlive(LeaseId),
    /// A lease ends, and its keys with it.
    LeaseRevoke(LeaseId),
    /// A token for a user.
    Authenticate {
        /// Who.
        user: &'a str,
        /// Their secret.
        password: &'a str,
    },
}

impl Request<'_> {
    /// Where to post it.
    #[must_use]
    pub fn path(&self) -> &'static str {
        match self {
            Request::Single(Operation::Put { .. }) => "/v3/kv/put",
            Request::Single(Operation::Range(_)) => "/v3/kv/range",
            Request::Single(Operation::Delete { .. }) => "/v3/kv/deleterange",
            Request::Txn { .. } => "/v3/kv/txn",
            Request::LeaseGrant { .. } => "/v3/lease/grant",
            Request::LeaseKeepAlive(_) => "/v3/lease/keepalive",
            Request::LeaseRevoke(_) => "/v3/lease/revoke",
            Request::Authenticate { .. } => "/v3/auth/authenticate",
        }
    }

    /// The body to post.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let body = match self {
            Request::Single(operation) => operation.to_json(),
            Request::Txn { compare, success, failure } => json!({
                "compare": compare.iter().map(|condition| condition.to_json()).collect::<Vec<_>>(),
                "success": success.iter().map(|step| step.to_step()).collect::<Vec<_>>(),
                "failure": failure.iter().map(|step| step.to_step()).collect::<Vec<_>>(),
            }),
            Request::LeaseGrant { ttl_s } => json!({ "TTL": ttl_s.to_string() }),
            Request::LeaseKeepAlive(id) | Request::LeaseRevoke(id) => {
                json!({ "ID": id.0.to_string() })
            }
            Request::Authenticate { user, password } => {
                json!({ "name": user, "password": password })
            }
        };
        body.to_string().into_bytes()
    }
}

impl Operation<'_> {
    fn to_json(self) -> Value {
        match self {
            Operation::Put { key, value, lease } => {
                let mut put = json!({ "key": base64::encode(key), "value": base64::encode(value) });
                if let (Some(LeaseId(id)), Some(put)) = (lease, put.as_object_mut()) {
                    put.insert("lease".to_owned(), Value::String(id.to_string()));
                }
                put
            }
            Operation::Range(range) => range.to_json(),
            Operation::Delete { key } => json!({ "key": base64::encode(key) }),
        }
    }

    fn to_step(self) -> Value {
        match self {
            Operation::Put { .. } => json!({ "requestPut": self.to_json() }),
            Operation::Range(_) => json!({ "requestRange": self.to_json() }),
            Operation::Delete { .. } => json!({ "requestDeleteRange": self.to_json() }),
        }
    }
}

impl<'a> Range<'a> {
    /// One key, as the cluster agrees on it.
    #[must_use]
    pub fn of_key(key: &'a [u8]) -> Range<'a> {
        Range { key, end: None, limit: 0, keys_only: false, serializable: false }
    }

    fn to_json(self) -> Value {
        let mut range = Map::new();
        range.insert("key".to_owned(), base64::encode(self.key).into());
        if let Some(end) = self.end {
            range.insert("range_end".to_owned(), base64::encode(end).into());
        }
        if self.limit > 0 {
            range.insert("limit".to_owned(), self.limit.to_string().into());
        }
        if self.keys_only {
            range.insert("keys_only".to_owned(), true.into());
        }
        if self.serializable {
            range.insert("serializable".to_owned(), true.into());
        }
        Value::Object(range)
    }
}

impl Compare<'_> {
    fn to_json(self) -> Value {
        match self {
            Compare::Absent { key } => json!({
                "key": base64::encode(key), "target": "CREATE", "result": "EQUAL", "create_revision": "0",
            }),
            Compare::Value { key, value } => json!({
                "key": base64::encode(key), "target": "VALUE", "result": "EQUAL",
                "value": base64::encode(value),
            }),
            Compare::ModRevision { key, revision } => json!({
                "key": base64::encode(key), "target": "MOD", "result": "EQUAL",
                "mod_revision": revision.to_string(),
            }),
        }
    }
}

/// The end of the range of all keys that begin with `prefix`: the first key after them. The byte zero,
/// which means "to the last key", if there is none.
#[must_use]
pub fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if let Some(next) = last.checked_add(1) {
            end.push(next);
            return end;
        }
    }
    vec![0]
}

/// A key with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The key.
    pub key: Vec<u8>,
    /// The value; empty if only keys were asked for.
    pub value: Vec<u8>,
    /// The revision of the cluster that wrote it last.
    pub mod_revision: i64,
}

/// The answer to [`Operation::Range`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeAnswer {
    /// The pairs, in the order of their keys.
    pub pairs: Vec<Pair>,
    /// The limit of the request left some out.
    pub more: bool,
}

/// The answer to one step of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OperationAnswer {
    /// It was written.
    Put,
    /// What was read.
    Range(RangeAnswer),
    /// How many keys were deleted.
    Delete(u64),
}

/// The answer to [`Request::Txn`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TxnAnswer {
    /// Whether all conditions held.
    pub succeeded: bool,
    /// One for each step of the branch that was taken.
    pub answers: Vec<OperationAnswer>,
}

/// The answer to [`Request::LeaseGrant`] and [`Request::LeaseKeepAlive`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseAnswer {
    /// The lease.
    pub id: LeaseId,
    /// Seconds it lives from now on; zero: there is no such lease.
    pub ttl_s: u64,
}

/// Why an answer cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EtcdError {
    /// Not JSON, not whole, or nested too deeply.
    NotJson,
    /// This field has another type or form than the gateway writes.
    Field(&'static str),
}

impl fmt::Display for EtcdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EtcdError::NotJson => f.write_str("the answer of etcd is not a whole JSON object"),
            EtcdError::Field(name) => {
                write!(f, "the field {name} in the answer of etcd is malformed")
            }
        }
    }
}

impl std::error::Error for EtcdError {}

impl RangeAnswer {
    /// Reads the body of an answer.
    ///
    /// # Errors
    /// If it is not what the gateway writes.
    pub fn decode(body: &[u8]) -> Result<RangeAnswer, EtcdError> {
        range_answer(&object(body)?)
    }
}

impl TxnAnswer {
    /// Reads the body of an answer.
    ///
    /// # Errors
    /// If it is not what the gateway writes.
    pub fn decode(body: &[u8]) -> Result<TxnAnswer, EtcdError> {
        let answer = object(body)?;
        let steps = list(&answer, "responses")?.iter().map(|step| {
            let step = step.as_object().ok_or(EtcdError::Field("responses"))?;
            let part = |name| step.get(name).and_then(Value::as_object);
            if let Some(range) = part("response_range") {
                range_answer(range).map(OperationAnswer::Range)
            } else if let Some(deleted) = part("response_delete_range") {
                count(deleted, "deleted").map(OperationAnswer::Delete)
            } else if part("response_put").is_some() {
                Ok(OperationAnswer::Put)
            } else {
                Err(EtcdError::Field("responses"))
            }
        });
        let answers = steps.collect::<Result<_, _>>()?;
        Ok(TxnAnswer { succeeded: flag(&answer, "succeeded")?, answers })
    }
}

impl LeaseAnswer {
    /// Reads the body of an answer. That to a keep-alive is a stream of one: it stands in `result`.
    ///
    /// # Errors
    /// If it is not what the gateway writes.
    pub fn decode(body: &[u8]) -> Result<LeaseAnswer, EtcdError> {
        let answer = object(body)?;
        let answer = match answer.get("result") {
            Some(result) => result.as_object().ok_or(EtcdError::Field("result"))?,
            None => &answer,
        };
        let id = integer(answer, "ID")?;
        if id == 0 {
            return Err(EtcdError::Field("ID"));
        }
        Ok(LeaseAnswer { id: LeaseId(id), ttl_s: count(answer, "TTL")? })
    }
}

/// How many keys the answer to [`Operation::Delete`] says were deleted.
///
/// # Errors
/// If it is not what the gateway writes.
pub fn decode_deleted(body: &[u8]) -> Result<u64, EtcdError> {
    count(&object(body)?, "deleted")
}

/// Reads an answer of which nothing is needed but that it is whole.
///
/// # Errors
/// If it is not what the gateway writes.
pub fn decode_done(body: &[u8]) -> Result<(), EtcdError> {
    object(body).map(drop)
}

/// The token in the answer to [`Request::Authenticate`]: printable ASCII, ready for a header.
///
/// # Errors
/// If it is not what the gateway writes.
pub fn decode_token(body: &[u8]) -> Result<String, EtcdError> {
    let answer = object(body)?;
    let token = answer.get("token").and_then(Value::as_str).unwrap_or_default();
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(EtcdError::Field("token"));
    }
    Ok(token.to_owned())
}

/// What etcd says when it does not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The status of gRPC: 14 is "unavailable".
    pub code: u64,
    /// The words of etcd, shortened, on one line.
    pub message: String,
}

/// The most characters of [`Refusal::message`].
const MESSAGE_LEN_MAX: usize = 200;

impl Refusal {
    /// Reads the body of an answer whose HTTP status is not 200, or the error inside a stream. Never
    /// fails: a body of another form is a refusal of unknown code.
    #[must_use]
    pub fn decode(body: &[u8]) -> Refusal {
        let answer = object(body).unwrap_or_default();
        // Calls name it beside the code; streams put both into `error`.
        let inner = answer.get("error").and_then(Value::as_object);
        let (place, code) = inner.map_or((&answer, "code"), |inner| (inner, "grpc_code"));
        let text = place.get("message").and_then(Value::as_str).unwrap_or("no message");
        let plain = |c: char| if c.is_control() { ' ' } else { c };
        Refusal {
            code: count(place, code).unwrap_or(0),
            message: text.chars().map(plain).take(MESSAGE_LEN_MAX).collect(),
        }
    }

    /// The error inside the answer to a stream, whose HTTP status is 200 all the same.
    #[must_use]
    pub fn in_stream(body: &[u8]) -> Option<Refusal> {
        object(body).ok()?.contains_key("error").then(|| Refusal::decode(body))
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (code {})", self.message, self.code)
    }
}

fn object(body: &[u8]) -> Result<Map<String, Value>, EtcdError> {
    match serde_json::from_slice(body) {
        Ok(Value::Object(object)) => Ok(object),
        _ => Err(EtcdError::NotJson),
    }
}

fn range_answer(answer: &Map<String, Value>) -> Result<RangeAnswer, EtcdError> {
    let pairs = list(answer, "kvs")?.iter().map(|pair| {
        let pair = pair.as_object().ok_or(EtcdError::Field("kvs"))?;
        Ok(Pair {
            key: bytes(pair, "key")?,
            value: bytes(pair, "value")?,
            mod_revision: integer(pair, "mod_revision")?,
        })
    });
    Ok(RangeAnswer { pairs: pairs.collect::<Result<_, _>>()?, more: flag(answer, "more")? })
}

fn list<'a>(from: &'a Map<String, Value>, name: &'static str) -> Result<&'a [Value], EtcdError> {
    match from.get(name) {
        None => Ok(&[]),
        Some(Value::Array(items)) => Ok(items),
        Some(_) => Err(EtcdError::Field(name)),
    }
}

fn flag(from: &Map<String, Value>, name: &'static str) -> Result<bool, EtcdError> {
    match from.get(name) {
        None => Ok(false),
        Some(Value::Bool(flag)) => Ok(*flag),
        Some(_) => Err(EtcdError::Field(name)),
    }
}

fn bytes(from: &Map<String, Value>, name: &'static str) -> Result<Vec<u8>, EtcdError> {
    match from.get(name) {
        None => Ok(Vec::new()),
        Some(Value::String(text)) => base64::decode(text).ok_or(EtcdError::Field(name)),
        Some(_) => Err(EtcdError::Field(name)),
    }
}

fn integer(from: &Map<String, Value>, name: &'static str) -> Result<i64, EtcdError> {
    match from.get(name) {
        None => Ok(0),
        Some(Value::String(text)) => text.parse().map_err(|_| EtcdError::Field(name)),
        Some(Value::Number(number)) => number.as_i64().ok_or(EtcdError::Field(name)),
        Some(_) => Err(EtcdError::Field(name)),
    }
}

fn count(from: &Map<String, Value>, name: &'static str) -> Result<u64, EtcdError> {
    u64::try_from(integer(from, name)?).map_err(|_| EtcdError::Field(name))
}
