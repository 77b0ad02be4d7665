//! Container images made on the spot: real tar layers of random bytes, the same for the same seed.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use torrent_cache::base::hash::{hex, sha256};
use torrent_cache::base::rng::Rng;

const MANIFEST_TYPE: &str = "application/vnd.docker.distribution.manifest.v2+json";
const CONFIG_TYPE: &str = "application/vnd.docker.container.image.v1+json";
const LAYER_TYPE: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";

/// Bytes and their digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blob {
    pub digest: String,
    pub bytes: Vec<u8>,
}

impl Blob {
    pub fn new(bytes: Vec<u8>) -> Blob {
        Blob { digest: digest(&bytes), bytes }
    }

    /// Its length, as metrics count bytes.
    pub fn len(&self) -> i64 {
        i64::try_from(self.bytes.len()).expect("blobs of tests are small")
    }

    fn descriptor(&self, media_type: &str) -> Value {
        json!({ "mediaType": media_type, "size": self.bytes.len(), "digest": self.digest })
    }
}

/// An image: what a registry stores of it.
#[derive(Clone, Debug)]
pub struct Image {
    pub manifest: Blob,
    pub config: Blob,
    pub layers: Vec<Blob>,
}

/// `sha256:` and 64 digits.
pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(&sha256(bytes)))
}

impl Image {
    /// An image with one layer for each of `layer_lens`; each layer is a gzipped tar of one file of
    /// so many random bytes.
    pub fn random(seed: u64, layer_lens: &[usize]) -> Image {
        let mut rng = Rng::seeded(seed);
        let mut layers = Vec::new();
        let mut diff_ids = Vec::new();
        for (index, len) in layer_lens.iter().enumerate() {
            let mut content = vec![0; *len];
            rng.fill(&mut content);
            let tar = tar(&format!("random-{index}"), &content);
            diff_ids.push(digest(&tar));
            layers.push(Blob::new(gzip(&tar)));
        }
        let config = json!({
            "architecture": "amd64",
            "os": "linux",
            "config": {},
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        });
        let config = Blob::new(config.to_string().into_bytes());
        let layer_list: Vec<_> = layers.iter().map(|layer| layer.descriptor(LAYER_TYPE)).collect();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": config.descriptor(CONFIG_TYPE),
            "layers": layer_list,
        });
        Image { manifest: Blob::new(manifest.to_string().into_bytes()), config, layers }
    }

    /// The config and the layers.
    pub fn blobs(&self) -> impl Iterator<Item = &Blob> {
        std::iter::once(&self.config).chain(&self.layers)
    }

    /// What a host keeps of it, and shares: the manifest, the config and the layers.
    pub fn kept(&self) -> impl Iterator<Item = &Blob> {
        std::iter::once(&self.manifest).chain(self.blobs())
    }

    /// How many there are of these, and how many bytes, as metrics count them.
    pub fn blob_count(&self) -> i64 {
        i64::try_from(self.kept().count()).expect("images of tests are small")
    }

    pub fn blob_bytes(&self) -> i64 {
        self.kept().map(Blob::len).sum()
    }

    /// Writes it into `dir` in the layout of skopeo's `dir:`.
    pub fn write_to(&self, dir: &Path) {
        fs::create_dir_all(dir).expect("the folder can be made");
        let write = |name: PathBuf, bytes: &[u8]| fs::write(name, bytes).expect("disk has room");
        write(dir.join("version"), b"Directory Transport Version: 1.1\n");
        write(dir.join("manifest.json"), &self.manifest.bytes);
        for blob in self.blobs() {
            write(blob_path(dir, blob), &blob.bytes);
        }
    }

    /// Fails unless `dir`, in the layout of skopeo's `dir:`, holds exactly this image.
    pub fn assert_is_in(&self, dir: &Path) {
        let read = |path: PathBuf| {
            fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        };
        assert_eq!(digest(&read(dir.join("manifest.json"))), self.manifest.digest);
        for blob in self.blobs() {
            let bytes = read(blob_path(dir, blob));
            assert_eq!(bytes.len(), blob.bytes.len(), "length of {}", blob.digest);
            assert_eq!(digest(&bytes), blob.digest);
        }
    }
}

fn blob_path(dir: &Path, blob: &Blob) -> PathBuf {
    dir.join(blob.digest.trim_start_matches("sha256:"))
}

/// A tar archive (POSIX.1-1988 ustar) of one file.
fn tar(name: &str, content: &[u8]) -> Vec<u8> {
    let mut head = [0_u8; 512];
    let mut put =
        |at: usize, text: &str| head[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, name);
    put(100, "0000644");
    put(108, "0000000");
    put(116, "0000000");
    put(124, &format!("{:011o}", content.len()));
    put(136, "00000000000");
    // While the sum is taken, its own field is blank.
    put(148, "        ");
    put(156, "0");
    put(257, "ustar");
    put(263, "00");
    let sum: u32 = head.iter().map(|byte| u32::from(*byte)).sum();
    head[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    let mut archive = head.to_vec();
    archive.extend_from_slice(content);
    // Whole records, and two empty ones at the end.
    archive.resize(archive.len().next_multiple_of(512) + 1024, 0);
    archive
}

/// A gzip member (RFC 1952) of stored blocks (RFC 1951, 3.2.4): random bytes do not get smaller.
fn gzip(content: &[u8]) -> Vec<u8> {
    let mut member = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    let mut blocks = content.chunks(0xffff).peekable();
    while let Some(block) = blocks.next() {
        let len = u16::try_from(block.len()).expect("chunks of 0xffff");
        member.push(u8::from(blocks.peek().is_none()));
        member.extend_from_slice(&len.to_le_bytes());
        member.extend_from_slice(&(!len).to_le_bytes());
        member.extend_from_slice(block);
    }
    let len = u32::try_from(content.len()).expect("layers of tests are below 4 GiB");
    member.extend_from_slice(&crc32(content).to_le_bytes());
    member.extend_from_slice(&len.to_le_bytes());
    member
}

/// The CRC of RFC 1952, section 8.
fn crc32(bytes: &[u8]) -> u32 {
    let table: [u32; 256] = std::array::from_fn(|index| {
        let mut crc = u32::try_from(index).expect("below 256");
        for _ in 0..8 {
            crc = if crc & 1 == 1 { 0xedb8_8320 ^ (crc >> 1) } else { crc >> 1 };
        }
        crc
    });
    let step = |crc: u32, byte: &u8| table[usize::from(crc.to_le_bytes()[0] ^ byte)] ^ (crc >> 8);
    !bytes.iter().fold(u32::MAX, step)
}
