#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| torrent_cache_fuzz::laws_http::manifest(input));
