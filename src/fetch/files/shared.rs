//! Large objects that hosts share, if `OSTREE_SHARE_OBJECTS` is set.
//!
//! A `.filez` is named for what is packed in it, so its own digest has to be found first: in the
//! catalog, by the hash of its URL ([`Pointer`]). With the digest it is a blob like any other. The
//! host that had it from the upstream puts it there.
//!
//! **Invariant:** the catalog is not believed. What it points at is fetched whole and held against
//! the object's name before a byte of it leaves, and it opens nothing to anybody: who may have the
//! object is asked for the object.

use std::fmt;
use std::sync::Arc;

use crate::base::clock::Time;
use crate::base::figures;
use crate::base::hash::{Algorithm, ContentHasher};
use crate::base::mailbox::{Receiver, mailbox};
use crate::base::thread::{self, Role};
use crate::fetch::blob_body::BlobBody;
use crate::fetch::files::check::Check;
use crate::fetch::files::{Asker, FileBody, FileKind, FileReader, FileRequest, Verdict, meta_of};
use crate::fetch::open::Part;
use crate::fetch::pieces::Pieces;
use crate::fetch::reader::Source;
use crate::fetch::{BlobRequest, Fetcher, Reader};
use crate::limits;
use crate::log_limited;
use crate::proto::blob::{BlobName, Digest};
use crate::proto::geometry::Span;
use crate::proto::http1::Headers;
use crate::proto::metainfo::Metainfo;
use crate::store::{FileMeta, SeedEntry, StoreError, StoredFile};

/// The status of a file that only says which blob the object is.
const POINTS: u16 = 303;

/// Which blob an object is: `sha256:<64 hex> <length in bytes>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pointer {
    name: BlobName,
    len: u64,
}

impl Pointer {
    fn parse(bytes: &[u8]) -> Option<Pointer> {
        let (name, len) = std::str::from_utf8(bytes).ok()?.split_once(' ')?;
        let name = BlobName::parse(name).ok()?;
        let len = len.parse().ok().filter(|len| *len <= limits::BLOB_LEN_MAX)?;
        matches!(name, BlobName::Content(Digest::Sha256(_))).then_some(Pointer { name, len })
    }
}

impl fmt::Display for Pointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.len)
    }
}

/// What came of a look at what a pointer points at.
enum Found {
    Right,
    /// Something else. The catalog was wrong.
    Other,
    /// It could not be had.
    Nothing,
}

impl FileReader {
    fn of_blob(reader: Reader, headers: Headers, source: &'static str) -> FileReader {
        let len = reader.total();
        let body = FileBody::Blob(Box::new(BlobBody::new(reader)));
        FileReader { status: 200, headers, len, source, body }
    }
}

/// Objects on this host.
impl Fetcher {
    /// A reader of an object that is here, as a file or as a blob; `None`: the blob is gone.
    pub(super) fn kept_object(
        &self,
        asker: &Asker<'_>,
        file: StoredFile,
        source: &'static str,
    ) -> Result<Option<FileReader>, StoreError> {
        if file.meta().status != POINTS {
            return Ok(Some(FileReader::stored(file, source)));
        }
        let FileMeta { url, headers, .. } = file.meta().clone();
        let pointer = Pointer::parse(&file.whole()?);
        let Some(blob) = pointer.and_then(|pointer| self.store().blob(&pointer.name)) else {
            self.store().forget_file(&url);
            return Ok(None);
        };
        let len = blob.len();
        let part = Part { base: 0, total: Some(len), at: 0, end: Some(len) };
        let name = blob.name();
        let stored = self.stored_at(blob, &asker.request.origin);
        let reader = part.reader(name, Source::Stored(stored), None);
        Ok(Some(FileReader::of_blob(reader, headers, source)))
    }
}

/// Objects of other hosts.
impl Fetcher {
    /// The object, if other hosts have it and it came right before the client would lose patience.
    pub(super) fn object_of_network(self: &Arc<Self>, asker: &Asker<'_>) -> Option<FileReader> {
        if !self.share_objects || !matches!(asker.request.kind, FileKind::Packed(_)) {
            return None;
        }
        let pointer = self.pointer_to(&asker.url)?;
        if !matches!(self.may_have(asker, false), Ok(Verdict::Give(_))) {
            return None;
        }
        let (fetcher, request) = (Arc::clone(self), asker.request.clone());
        let (sender, answer) = mailbox(1);
        let spawned = thread::spawn("object", Role::Connection, move || {
            let _ = sender.send(fetcher.take_object(&request, pointer));
        });
        self.keep(spawned.ok()?);
        // The thread goes on for those who come later.
        if !answer.recv_until(Time::now() + limits::PART_HELD).unwrap_or(false) {
            return None;
        }
        let reader = self.open(&blob_request(asker.request, pointer)).ok()?;
        figures::FILES_SWARM.add(1);
        let source = reader.source();
        Some(FileReader::of_blob(reader, Headers::new(), source))
    }

    /// What the catalog has for the object at `url`, unless that has led astray.
    fn pointer_to(&self, url: &str) -> Option<Pointer> {
        let deadline = Time::now() + limits::CATALOG_LOOKUP;
        let value = self.catalog().lookup_object(url, deadline).ok()??;
        let pointer = Pointer::parse(&value);
        if pointer.is_none() {
            log_limited!(warn, "{url}: the catalog's entry is no pointer to a blob");
        }
        let now = Time::now();
        let misleading = self.misleading.lock();
        pointer.filter(|pointer| {
            let key = (url.to_owned(), pointer.name);
            misleading.get(&key).is_none_or(|until| *until < now)
        })
    }

    /// Fetches the blob and holds it against the object's name; whether it is the object, which is
    /// then remembered.
    fn take_object(self: &Arc<Self>, request: &FileRequest, pointer: Pointer) -> bool {
        let asker = Asker::of(request);
        match self.look_at(request, pointer) {
            Found::Right => {
                let meta = FileMeta { status: POINTS, ..meta_of(&asker, 200, &Headers::new()) };
                self.put(&meta, pointer.to_string().as_bytes());
                true
            }
            Found::Other => {
                figures::OBJECTS_WRONG.add(1);
                log_limited!(warn, "{}: the catalog's entry is of another object", asker.url);
                self.catalog().withdraw_object(&asker.url, pointer.to_string());
                self.mislead(asker.url, pointer.name);
                false
            }
            Found::Nothing => {
                self.mislead(asker.url, pointer.name);
                false
            }
        }
    }

    /// Passes over an entry of the catalog for some time.
    fn mislead(&self, url: String, name: BlobName) {
        let now = Time::now();
        let mut misleading = self.misleading.lock();
        if misleading.len() >= limits::POINTERS_MISLEADING_MAX {
            misleading.retain(|_, until| *until > now);
        }
        if misleading.len() < limits::POINTERS_MISLEADING_MAX {
            misleading.insert((url, name), now + limits::DISTRUST);
        }
    }

    fn look_at(self: &Arc<Self>, request: &FileRequest, pointer: Pointer) -> Found {
        let Some(mut check) = Check::of(request.kind) else { return Found::Nothing };
        let reader = match self.open(&blob_request(request, pointer)) {
            // What is not kept here would have to come twice.
            Ok(reader) if matches!(reader.source, Source::Passing(_)) => return Found::Nothing,
            Ok(reader) if reader.total().is_some_and(|len| len != pointer.len) => {
                return Found::Other;
            }
            Ok(reader) => reader,
            Err(_) => return Found::Nothing,
        };
        let mut body = BlobBody::new(reader);
        loop {
            match body.next_part() {
                Ok([]) => return if check.ends_right() { Found::Right } else { Found::Other },
                Ok(part) => check.update(part),
                Err(_) => return Found::Nothing,
            }
        }
    }
}

/// A request for the blob that an object is said to be. It says nothing of who may have that blob.
fn blob_request(request: &FileRequest, pointer: Pointer) -> BlobRequest {
    let origin = request.origin.clone();
    let name = pointer.name;
    BlobRequest { name, origin, range: None, file: None, is_granted: true, told_len: None }
}

/// Objects for other hosts.
impl Fetcher {
    /// Notes that an object came from the upstream, was found right, and is kept.
    pub(super) fn came(&self, kind: FileKind, url: &str, len: u64) {
        let is_large = len >= limits::FILEZ_SHARED_LEN_MIN;
        if self.share_objects && is_large && matches!(kind, FileKind::Packed(_)) {
            // A full queue: they come faster than they can be hashed, and some are not shared.
            let _ = self.to_share.try_send(url.to_owned());
        }
    }

    /// Makes the object at `url`, which is kept as a file, a blob, and tells the others.
    fn share_object(&self, url: &str) -> Result<(), StoreError> {
        let Some(file) = self.large_object(url) else { return Ok(()) };
        let (meta, len) = (file.meta().clone(), file.body_len());
        let mut hasher = ContentHasher::new(Algorithm::Sha256);
        each_part(file, |part| {
            hasher.update(part);
            Ok(())
        })?;
        let digest = hasher.finish().try_into().map(Digest::Sha256);
        let Ok(name) = digest.map(BlobName::Content) else { return Ok(()) };
        let pointer = Pointer { name, len };
        if self.store().blob(&name).is_some() {
            self.catalog().publish_object(url, pointer.to_string());
        } else if !self.make_blob(url, pointer)? {
            return Ok(());
        }
        figures::OBJECTS_SHARED.add(1);
        // Its bytes are the blob's now.
        self.put(&FileMeta { status: POINTS, ..meta }, pointer.to_string().as_bytes());
        Ok(())
    }

    /// The URLs of the objects that this host shares, and what the catalog should have for each.
    pub(in crate::fetch) fn shared_objects(&self) -> impl Iterator<Item = (String, String)> {
        let files = self.share_objects.then(|| self.store().files_with_status(POINTS));
        files.into_iter().flatten().filter_map(|file| {
            let url = file.meta().url.clone();
            let pointer = Pointer::parse(&file.whole().ok()?)?;
            self.store().contains(&pointer.name).then(|| (url, pointer.to_string()))
        })
    }

    fn large_object(&self, url: &str) -> Option<StoredFile> {
        self.store().file(url).filter(|file| file.meta().status == 200)
    }

    /// Copies an object into a blob, which is then seeded, and published when the tracker knows of
    /// it; false: it is no more the same.
    fn make_blob(&self, url: &str, pointer: Pointer) -> Result<bool, StoreError> {
        let Pointer { name, len } = pointer;
        let (Some(file), Some(mut pieces)) = (self.large_object(url), Pieces::new(len)) else {
            return Ok(false);
        };
        let partial = self.store().begin(&name, Some(len))?;
        let mut hasher = ContentHasher::new(Algorithm::Sha256);
        let mut at = 0;
        let copied = each_part(file, |part| {
            hasher.update(part);
            pieces.update(part);
            partial.write(at, &[part])?;
            at += part.len() as u64;
            Ok(())
        });
        if let Err(error) = copied {
            self.store().discard(&partial);
            return Err(error);
        }
        let metainfo = Metainfo::of_blob(&name, len, pieces.finish());
        let is_same = at == len && hasher.finish() == name.digest().value();
        let (true, Ok(metainfo)) = (is_same, metainfo) else {
            self.store().discard(&partial);
            return Ok(false);
        };
        partial.feed().mark(Span { offset: 0, len });
        partial.feed().finish();
        let metainfo = Arc::new(metainfo);
        let blob = self.seal(&partial, &metainfo)?;
        let entry = SeedEntry { name, info_hash: blob.info_hash(), len };
        let (catalog, url) = (Arc::clone(&self.parts.catalog), url.to_owned());
        self.engine().introduce(&entry, move || {
            catalog.publish(&name, metainfo.encode());
            catalog.publish_object(&url, pointer.to_string());
        });
        Ok(true)
    }
}

fn each_part(
    mut file: StoredFile,
    mut act: impl FnMut(&[u8]) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    loop {
        match file.next_part()? {
            [] => return Ok(()),
            part => act(part)?,
        }
    }
}

/// Starts the thread that shares what came, if any is to be.
pub(in crate::fetch) fn start(fetcher: &Arc<Fetcher>, queue: Receiver<String>) {
    if !fetcher.share_objects {
        return;
    }
    let worker = Arc::clone(fetcher);
    let spawned = thread::spawn("share", Role::Connection, move || {
        while let Ok(url) = queue.recv() {
            if worker.is_stopping() {
                return;
            }
            if let Err(error) = worker.share_object(&url) {
                log_limited!(warn, "an object is not shared: {error}");
            }
        }
    });
    match spawned {
        Ok(handle) => fetcher.keep(handle),
        Err(error) => log::warn!("objects are not shared: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pointer_round_trips_and_other_text_is_none() {
        let text = format!("sha256:{} 262144", "ab".repeat(32));
        let pointer = Pointer::parse(text.as_bytes()).unwrap();
        assert_eq!((pointer.len, pointer.to_string()), (262_144, text.clone()));
        let hex = "ab".repeat(32);
        for other in [
            String::new(),
            format!("sha256:{hex}"),
            format!("sha256:{hex} "),
            format!("sha256:{hex} -1"),
            format!("sha256:{hex} 99999999999999999999"),
            format!("sha256:{hex} 5 6"),
            format!("ostree:{hex} 5"),
            format!("sha256:{} 5", &hex[1..]),
        ] {
            assert_eq!(Pointer::parse(other.as_bytes()), None, "{other}");
        }
        assert_eq!(Pointer::parse(b"\xff 5"), None);
    }
}
