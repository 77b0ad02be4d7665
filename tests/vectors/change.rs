//! Inputs near the known ones: cut at every byte, and changed at random from a seed.

use torrent_cache::base::rng::Rng;

/// Tries `law` on many changed forms of the vectors. `TEST_SEED` repeats a run.
pub fn try_changed(vectors: &[Vec<u8>], law: impl Fn(&[u8])) {
    let seed = match std::env::var("TEST_SEED") {
        Ok(seed) => seed.parse().expect("TEST_SEED is a number"),
        Err(_) => Rng::from_os().next_u64(),
    };
    println!("TEST_SEED={seed}");
    let mut rng = Rng::seeded(seed);
    for vector in vectors {
        law(vector);
        (0..vector.len().min(2000)).for_each(|cut| law(&vector[..cut]));
        (0..5000).for_each(|_| law(&changed(&mut rng, vector)));
    }
}

/// `vector` with one to four changes.
fn changed(rng: &mut Rng, vector: &[u8]) -> Vec<u8> {
    let mut bytes = vector.to_vec();
    for _ in 0..=rng.below(3) {
        let from = rng.index(bytes.len());
        let to = from + rng.index(bytes.len() - from + 1).min(40);
        match rng.below(5) {
            0 => bytes.truncate(from),
            1 => drop(bytes.drain(from..to)),
            2 => {
                let part = bytes[from..to].to_vec();
                let at = rng.index(bytes.len());
                bytes.splice(at..at, part);
            }
            3 => {
                let odd: &[&[u8]] =
                    &[b"i-0e", b"e", b"9999999999:", b"0", b"\xff\xff\xff\xff", b"%", b"\0\0\0\0"];
                bytes.splice(from..from, odd[rng.index(odd.len())].iter().copied());
            }
            _ => rng.fill(&mut bytes[from..to]),
        }
    }
    bytes
}
