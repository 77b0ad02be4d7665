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
    /// Whether it may change a value; `None`: it is about no values.
    #[must_use]
    pub fn writes(&self) -> Option<bool> {
        let reads = |operation: &Operation<'_>| matches!(operation, Operation::Range(_));
        match self {
            Request::Single(operation) => Some(!reads(operation)),
            Request::Txn { success, failure, .. } => {
                Some(!success.iter().chain(*failure).all(reads))
            }
            _ => None,
        }
    }

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
                "key": base64::encode(key), "target": "CREATE", "result": "EQUAL",
                "create_revision": "0",
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

/// The end of the range of all keys that begin with `prefix`: the first key after them. The byte
/// zero, which means "to the last key", if there is none.
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
    /// Reads the body of an answer whose HTTP status is not 200, or the error inside a stream.
    /// Never fails: a body of another form is a refusal of unknown code.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rng::Rng;

    // Answers of etcd 3.4.23, as they came.
    const HEADER: &str = r#""header":{"cluster_id":"10144879847569953045","revision":"3"}"#;
    const RANGE: &str = concat!(
        r#","kvs":[{"key":"L3AvMQ==","create_revision":"2","mod_revision":"2","version":"1","#,
        r#""value":"b25l"}],"more":true,"count":"2""#
    );
    const DELETED: &str =
        r#","succeeded":true,"responses":[{"response_delete_range":{"header":{"revision":"3"}}}]"#;
    const CLAIMED: &str = concat!(
        r#","responses":[{"response_range":{"header":{"revision":"8"},"kvs":[{"key":"L3AvMQ==","#,
        r#""mod_revision":"7","value":"b25l","lease":"7668"}],"count":"1"}},"#,
        r#"{"response_put":{"header":{"revision":"9"}}}]"#
    );
    const LEASE: &str = r#","ID":"1418812038212145675","TTL":"60""#;

    fn answer(rest: &str) -> Vec<u8> {
        format!("{{{HEADER}{rest}}}").into_bytes()
    }

    fn pair(mod_revision: i64) -> Pair {
        Pair { key: b"/p/1".to_vec(), value: b"one".to_vec(), mod_revision }
    }

    /// Decodes `body` as everything; says whether anything took it.
    fn decode_as_all(body: &[u8]) -> bool {
        let _ = (Refusal::decode(body), Refusal::in_stream(body));
        let tokens = [decode_token(body).is_ok(), decode_deleted(body).is_ok()];
        let range = RangeAnswer::decode(body).is_ok();
        let txn = TxnAnswer::decode(body).is_ok();
        tokens.contains(&true) || range || txn || LeaseAnswer::decode(body).is_ok()
    }

    #[test]
    fn answers_of_a_real_etcd_are_read() {
        let found = RangeAnswer { pairs: vec![pair(2)], more: true };
        assert_eq!(RangeAnswer::decode(&answer(RANGE)), Ok(found));
        assert_eq!(RangeAnswer::decode(&answer("")), Ok(RangeAnswer::default()), "no such key");
        let deleted = TxnAnswer { succeeded: true, answers: vec![OperationAnswer::Delete(0)] };
        assert_eq!(TxnAnswer::decode(&answer(DELETED)), Ok(deleted));
        let range = OperationAnswer::Range(RangeAnswer { pairs: vec![pair(7)], more: false });
        let claimed = TxnAnswer { succeeded: false, answers: vec![range, OperationAnswer::Put] };
        assert_eq!(TxnAnswer::decode(&answer(CLAIMED)), Ok(claimed));
        let id = LeaseId(1_418_812_038_212_145_675);
        assert_eq!(LeaseAnswer::decode(&answer(LEASE)), Ok(LeaseAnswer { id, ttl_s: 60 }));
        let gone = format!("{{\"result\":{{{HEADER},\"ID\":\"1\"}}}}\n");
        let expired = LeaseAnswer { id: LeaseId(1), ttl_s: 0 };
        assert_eq!(LeaseAnswer::decode(gone.as_bytes()), Ok(expired));
        assert_eq!(decode_deleted(&answer(r#","deleted":"1""#)), Ok(1));
        assert_eq!(decode_deleted(&answer("")), Ok(0));
        assert_eq!(decode_token(&answer(r#","token":"bPmF.43""#)), Ok("bPmF.43".to_owned()));
    }

    #[test]
    fn refusals_are_read_in_both_forms_and_never_fail() {
        let call = concat!(
            r#"{"error":"etcdserver: authentication is not enabled","#,
            r#""message":"etcdserver: authentication is not enabled","code":9}"#
        );
        let told = Refusal::decode(call.as_bytes());
        assert_eq!((told.code, &told.message[12..]), (9, "authentication is not enabled"));
        let stream = concat!(
            r#"{"error":{"grpc_code":14,"http_code":503,"#,
            r#""message":"etcdserver: no leader","http_status":"Service Unavailable"}}"#
        );
        let told = Refusal::in_stream(stream.as_bytes()).expect("it is an error");
        assert_eq!((told.code, told.message.as_str()), (14, "etcdserver: no leader"));
        assert_eq!(Refusal::in_stream(&answer(LEASE)), None);
        for other in [&b"Method Not Allowed"[..], b"", b"[]", br#"{"code":-1,"message":7}"#] {
            assert_eq!(Refusal::decode(other).code, 0);
        }
        let long = format!("{{\"message\":\"a\\nb{}\"}}", "x".repeat(1000));
        let told = Refusal::decode(long.as_bytes());
        assert!(told.message.starts_with("a b") && told.message.len() == MESSAGE_LEN_MAX);
    }

    #[test]
    fn an_answer_that_is_cut_is_refused() {
        for rest in [RANGE, DELETED, CLAIMED, LEASE] {
            let whole = answer(rest);
            assert!(decode_as_all(&whole));
            for end in 0..whole.len() {
                assert!(
                    !decode_as_all(&whole[..end]),
                    "{}",
                    String::from_utf8_lossy(&whole[..end])
                );
            }
        }
    }

    #[test]
    fn no_answer_panics() {
        let seed = 13;
        println!("seed {seed}");
        let mut rng = Rng::seeded(seed);
        let tokens: [&[u8]; 8] =
            [b"\"", b"{", b"}", b"[", b"null", b"-1", b"\"99999999999999999999\"", b"\xff"];
        for _ in 0..20_000 {
            let mut body = answer([RANGE, DELETED, CLAIMED, LEASE][rng.index(4)]);
            for _ in 0..=rng.index(3) {
                let at = rng.index(body.len());
                let until = (at + rng.index(8)).min(body.len());
                body.splice(at..until, tokens[rng.index(tokens.len())].iter().copied());
            }
            decode_as_all(&body);
        }
        let deep = [b"{\"kvs\":".as_slice(), &b"[".repeat(1 << 20)].concat();
        assert!(!decode_as_all(&deep));
    }

    #[test]
    fn fields_of_another_type_are_named() {
        for (rest, field) in [
            (r#","kvs":{}"#, "kvs"),
            (r#","kvs":[1]"#, "kvs"),
            (r#","kvs":[{"key":"not base64"}]"#, "key"),
            (r#","kvs":[{"mod_revision":"x"}]"#, "mod_revision"),
            (r#","kvs":[{"mod_revision":1.5}]"#, "mod_revision"),
            (r#","more":"true""#, "more"),
        ] {
            let found = RangeAnswer::decode(&answer(rest));
            assert_eq!(found, Err(EtcdError::Field(field)), "{rest}");
        }
        assert_eq!(decode_deleted(&answer(r#","deleted":"-1""#)), Err(EtcdError::Field("deleted")));
        assert_eq!(LeaseAnswer::decode(&answer("")), Err(EtcdError::Field("ID")));
        let split = answer(r#","token":"a\r\nb""#);
        assert_eq!(decode_token(&split), Err(EtcdError::Field("token")), "it stands in a header");
    }

    #[test]
    fn requests_are_what_the_gateway_takes() {
        let (key, value) = (&b"/p/1"[..], &b"one"[..]);
        let txn = Request::Txn {
            compare: &[Compare::Absent { key }, Compare::ModRevision { key, revision: 7 }],
            success: &[Operation::Put { key, value, lease: Some(LeaseId(5)) }],
            failure: &[Operation::Delete { key }],
        };
        assert_eq!(txn.path(), "/v3/kv/txn");
        let wanted = json!({
            "compare": [
                {"key": "L3AvMQ==", "target": "CREATE", "result": "EQUAL", "create_revision": "0"},
                {"key": "L3AvMQ==", "target": "MOD", "result": "EQUAL", "mod_revision": "7"},
            ],
            "success": [{"requestPut": {"key": "L3AvMQ==", "value": "b25l", "lease": "5"}}],
            "failure": [{"requestDeleteRange": {"key": "L3AvMQ=="}}],
        });
        assert_eq!(serde_json::from_slice::<Value>(&txn.encode()).ok(), Some(wanted));
        let range = Range { serializable: true, limit: 2, ..Range::of_key(key) };
        let encoded = Request::Single(Operation::Range(range)).encode();
        let wanted = json!({"key": "L3AvMQ==", "limit": "2", "serializable": true});
        assert_eq!(serde_json::from_slice::<Value>(&encoded).ok(), Some(wanted));
    }

    #[test]
    fn the_end_of_a_prefix_is_the_first_key_after_it() {
        assert_eq!(prefix_end(b"tc/p/"), b"tc/p0");
        assert_eq!(prefix_end(b"a\xff\xff"), b"b");
        assert_eq!(prefix_end(b"\xff"), [0]);
        assert_eq!(prefix_end(b""), [0]);
    }
}
