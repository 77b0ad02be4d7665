//! Standard base64 with padding (RFC 4648, section 4), as etcd's JSON gateway writes keys and
//! values.
//!
//! **Invariant:** [`decode`] takes only what [`encode`] writes: padded, no line breaks, unused bits
//! zero.

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const PAD: u8 = b'=';

/// The base64 of `bytes`.
#[must_use]
pub fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3).saturating_mul(4));
    for chunk in bytes.chunks(3) {
        let byte = |at: usize| u32::from(chunk.get(at).copied().unwrap_or(0));
        let word = (byte(0) << 16) | (byte(1) << 8) | byte(2);
        for (position, shift) in [18, 12, 6, 0].into_iter().enumerate() {
            // `n` bytes fill `n + 1` characters.
            let filled = position <= chunk.len();
            text.push(char::from(if filled { character(word >> shift) } else { PAD }));
        }
    }
    text
}

/// The bytes that `text` stands for; `None` if it is not the canonical base64 of any.
#[must_use]
pub fn decode(text: &str) -> Option<Vec<u8>> {
    let (groups, rest) = text.as_bytes().as_chunks::<4>();
    if !rest.is_empty() {
        return None;
    }
    let mut bytes = Vec::with_capacity(groups.len().saturating_mul(3));
    let mut padded = false;
    for &[a, b, c, d] in groups {
        if padded {
            return None;
        }
        let kept = match (c, d) {
            (PAD, PAD) => 1,
            (_, PAD) => 2,
            _ => 3,
        };
        padded = kept < 3;
        let third = if kept < 2 { 0 } else { value(c)? };
        let fourth = if kept < 3 { 0 } else { value(d)? };
        let word = (value(a)? << 18) | (value(b)? << 12) | (third << 6) | fourth;
        let [_, decoded @ ..] = word.to_be_bytes();
        let (kept, dropped) = decoded.split_at_checked(kept)?;
        if dropped.iter().any(|&byte| byte != 0) {
            return None;
        }
        bytes.extend_from_slice(kept);
    }
    Some(bytes)
}

fn character(word: u32) -> u8 {
    let index = usize::try_from(word & 63).unwrap_or(0);
    ALPHABET.get(index).copied().unwrap_or(PAD)
}

fn value(character: u8) -> Option<u32> {
    let value = match character {
        b'A'..=b'Z' => character.wrapping_sub(b'A'),
        b'a'..=b'z' => character.wrapping_sub(b'a').wrapping_add(26),
        b'0'..=b'9' => character.wrapping_sub(b'0').wrapping_add(52),
        b'+' => 62,
        b'/' => 63,
        _ => return None,
    };
    Some(u32::from(value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rng::Rng;

    /// RFC 4648, section 10.
    const VECTORS: [(&str, &str); 7] = [
        ("", ""),
        ("f", "Zg=="),
        ("fo", "Zm8="),
        ("foo", "Zm9v"),
        ("foob", "Zm9vYg=="),
        ("fooba", "Zm9vYmE="),
        ("foobar", "Zm9vYmFy"),
    ];

    #[test]
    fn the_vectors_of_the_rfc() {
        for (bytes, text) in VECTORS {
            assert_eq!(encode(bytes.as_bytes()), text);
            assert_eq!(decode(text).as_deref(), Some(bytes.as_bytes()), "{text}");
        }
        assert_eq!(encode(&[0xfb, 0xff]), "+/8=");
    }

    #[test]
    fn any_bytes_round_trip() {
        let mut rng = Rng::seeded(11);
        for len in 0..200 {
            let mut bytes = vec![0; len];
            rng.fill(&mut bytes);
            assert_eq!(decode(&encode(&bytes)), Some(bytes), "seed 11, length {len}");
        }
    }

    #[test]
    fn what_encode_does_not_write_is_refused() {
        for text in
            ["Z", "Zg", "Zg=", "Zh==", "Zm9=", "Z===", "====", "Zg==Zg==", "Zm9v\n", "Zm-v", "Zé"]
        {
            assert_eq!(decode(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_mutated_text_is_refused_or_decodes_to_what_encodes_back() {
        let seed = 12;
        let mut rng = Rng::seeded(seed);
        for round in 0..20_000 {
            let mut bytes = vec![0; rng.index(40)];
            rng.fill(&mut bytes);
            let mut text = encode(&bytes).into_bytes();
            if !text.is_empty() {
                let at = rng.index(text.len());
                text[at] = u8::try_from(rng.below(128)).expect("below 128");
            }
            let text = String::from_utf8(text).expect("ASCII");
            if let Some(decoded) = decode(&text) {
                assert_eq!(encode(&decoded), text, "seed {seed}, round {round}");
            }
        }
    }
}
