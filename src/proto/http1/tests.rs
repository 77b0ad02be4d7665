use super::*;
use crate::base::rng::Rng;

fn decode(text: &str) -> Result<Option<(RequestHead, usize)>, HeadError> {
    RequestHead::decode(text.as_bytes())
}

fn whole(text: &str) -> RequestHead {
    let (head, used) = decode(text).expect("a good head").expect("a whole head");
    assert_eq!(used, text.len());
    head
}

/// The error of a request with these lines after its request line, wherever it is found.
fn refused(fields: &str) -> HeadError {
    let text = format!("POST / HTTP/1.1\r\n{fields}\r\n\r\n");
    match decode(&text) {
        Err(error) => error,
        Ok(Some((head, _))) => head.framing().expect_err(fields),
        Ok(None) => panic!("{fields:?} waits for more"),
    }
}

#[test]
fn heads_keep_case_order_and_bytes() {
    let text =
        b"GET /v2/x?n=1 HTTP/1.1\r\nhOST: a:1\r\nAccept: b\r\nX: \xe9\r\naccept: c\r\n\r\nrest";
    let (head, used) = RequestHead::decode(text).unwrap().unwrap();
    assert_eq!(used, text.len() - 4);
    assert_eq!(head.method, Method::Get);
    assert_eq!(head.target, Target::Origin("/v2/x?n=1".to_owned()));
    assert_eq!(head.version, Version::Http11);
    let names: Vec<&str> = head.headers.iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["hOST", "Accept", "X", "accept"]);
    assert_eq!(head.headers.get("x"), Some(&b"\xe9"[..]));
    assert_eq!(head.headers.get_all("ACCEPT").collect::<Vec<_>>(), [b"b", b"c"]);
    assert_eq!(head.framing(), Ok(BodyLen::None));
}

#[test]
fn an_address_in_the_host_field_may_lack_its_brackets() {
    for host in ["h:1", "[::1]:35179", "::1:35179", "::1:6969", "fd00::1"] {
        whole(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"));
    }
}

#[test]
fn the_four_forms_of_a_target_are_told_apart() {
    let target = |line: &str| whole(&format!("{line} HTTP/1.1\r\nHost: h\r\n\r\n")).target;
    let url = Url::parse("http://reg.example:5000/v2/x?ns=a").unwrap();
    assert_eq!(target("GET http://reg.example:5000/v2/x?ns=a"), Target::Absolute(url));
    assert_eq!(
        target("CONNECT [::1]:443"),
        Target::Authority { host: "::1".to_owned(), port: 443 }
    );
    assert_eq!(target("OPTIONS *"), Target::Asterisk);
    assert_eq!(target("GET //x"), Target::Origin("//x".to_owned()));
    for line in [
        "GET *",
        "GET x",
        "GET /x#y",
        "GET /\u{e9}",
        "GET ftp://a/",
        "GET http://u:p@a/",
        "CONNECT a",
        "CONNECT /x",
        "CONNECT http://a/",
        "GET  /",
        "GET /a b",
        "GET",
        "",
        " GET /",
    ] {
        let result = decode(&format!("{line} HTTP/1.1\r\nHost: h\r\n\r\n"));
        assert!(result.is_err(), "{line:?} gave {result:?}");
    }
}

#[test]
fn versions_other_than_1_0_and_1_1_are_505() {
    for version in ["HTTP/2.0", "HTTP/1.2", "HTTP/0.9"] {
        let result = decode(&format!("GET / {version}\r\nHost: h\r\n\r\n"));
        assert_eq!(result.unwrap_err().status(), 505, "{version}");
    }
    assert!(decode("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").is_err());
    assert_eq!(whole("GET / HTTP/1.0\r\n\r\n").version, Version::Http10);
}

#[test]
fn every_smuggling_input_is_refused() {
    for fields in [
        "Host: h\r\nContent-Length: 5\r\nContent-Length: 40",
        "Host: h\r\nContent-Length: 5\r\ncontent-length: 5",
        "Host: h\r\nContent-Length: 46, 46",
        "Host: h\r\nContent-Length: +5",
        "Host: h\r\nContent-Length: -5",
        "Host: h\r\nContent-Length: 0x5",
        "Host: h\r\nContent-Length: 5 5",
        "Host: h\r\nContent-Length:",
        "Host: h\r\nContent-Length: 18446744073709551616",
        "Host: h\r\nTransfer-Encoding: chunked\r\nContent-Length: 5",
        "Host: h\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "Host: h\r\nTransfer-Encoding : chunked",
        "Host: h\r\n Transfer-Encoding: chunked",
        "Host: h\r\nX: y\r\n folded",
        "Host: h\r\nX: y\r\n\tfolded",
        "Host: h\r\nX: y\nX-Injected: yes",
        "Host: h\r\nX: y\rX-Injected: yes",
        "Host: h\r\nX: y\0z",
        "Host: h\r\nX y: z",
        "Host: h\r\n: z",
        "Host: h\r\nnot a field",
        "Host: h\r\nHost: i",
        "Host: h i",
        "Host: h,i",
        "Host: user@h",
        "Host: ::1:x",
        "Host: ::1:+5",
        "Host: [::1",
        "X: no host",
    ] {
        assert_eq!(refused(fields).status(), 400, "{fields:?}");
    }
    for coding in ["gzip", "gzip, chunked", "chunked, chunked", "xchunked", "identity", ""] {
        let error = refused(&format!("Host: h\r\nTransfer-Encoding: {coding}"));
        assert_eq!(error, HeadError::TransferCoding, "{coding:?}");
    }
    let old = whole("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n");
    assert!(old.framing().is_err());
    let tunnel = whole("CONNECT a:1 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n");
    assert!(tunnel.framing().is_err());
}

#[test]
fn framing_is_what_the_fields_say() {
    let framing = |fields: &str| {
        whole(&format!("PUT / HTTP/1.1\r\nHost: h\r\n{fields}\r\n")).framing().unwrap()
    };
    assert_eq!(framing("Content-Length: 0\r\n"), BodyLen::None);
    assert_eq!(framing("Content-Length: 007\r\n"), BodyLen::Known(7));
    assert_eq!(framing("Content-Length: 100000000000000\r\n"), BodyLen::Known(100_000_000_000_000));
    assert_eq!(framing("Transfer-Encoding: Chunked\r\n"), BodyLen::Chunked);
}

#[test]
fn heads_are_bounded() {
    let endless_target = format!("GET /{}", "a".repeat(HTTP_HEAD_LEN_MAX));
    assert_eq!(decode(&endless_target), Err(HeadError::TargetTooLong));
    let endless_field = format!("GET / HTTP/1.1\r\nX: {}", "a".repeat(HTTP_HEAD_LEN_MAX));
    assert_eq!(decode(&endless_field), Err(HeadError::TooLarge));
    let fields =
        |count: usize| format!("GET / HTTP/1.1\r\nHost: h\r\n{}", "X: y\r\n".repeat(count - 1));
    assert!(decode(&(fields(HTTP_HEADERS_MAX) + "\r\n")).unwrap().is_some());
    assert_eq!(decode(&(fields(HTTP_HEADERS_MAX + 1) + "\r\n")), Err(HeadError::TooLarge));
    assert_eq!(decode(&fields(HTTP_HEADERS_MAX + 1)), Err(HeadError::TooLarge));
    assert!(decode("\r\n\r\nGET /").is_err());
}

#[test]
fn a_head_cut_anywhere_waits_for_more() {
    let text = "\r\nGET http://a/b HTTP/1.1\r\nHost: a\r\nRange: bytes=0-\r\nX:\r\n\r\n";
    for len in 0..text.len() {
        assert_eq!(decode(&text[..len]), Ok(None), "cut at {len}");
    }
    assert_eq!(whole(text).headers.get("x"), Some(&b""[..]));
}

#[test]
fn mutated_heads_never_panic_and_never_use_more_than_they_were_given() {
    let seed = 0x4854_5450;
    let mut rng = Rng::seeded(seed);
    let heads: [&[u8]; 3] = [
        b"POST http://[::1]:80/x?y HTTP/1.1\r\nHost: a:1\r\nContent-Length: 12\r\n\
            Connection: x\r\n\r\n",
        b"CONNECT a:443 HTTP/1.0\r\nTransfer-Encoding: chunked\r\nRange: bytes=0-1\r\n\r\n",
        b"HTTP/1.1 206 Partial\r\nContent-Range: bytes 0-1/2\r\nContent-Length: 2\r\n\r\n",
    ];
    let spice = b"\r\n\0 \t:;,#/%*[]\x7f\xff09aZ";
    for round in 0..30_000 {
        let mut bytes = heads[round % heads.len()].to_vec();
        for _ in 0..=rng.index(4) {
            let at = rng.index(bytes.len());
            match rng.index(3) {
                0 => bytes[at] = spice[rng.index(spice.len())],
                1 => bytes.insert(at, spice[rng.index(spice.len())]),
                _ => drop(bytes.remove(at)),
            }
        }
        if let Ok(Some((mut head, used))) = RequestHead::decode(&bytes) {
            assert!(used <= bytes.len(), "seed {seed}, round {round}");
            let _ = (head.framing(), head.keeps_alive(), head.expects_continue());
            head.headers.strip_hop_by_hop();
        }
        if let Ok(Some((head, used))) = ResponseHead::decode(&bytes) {
            assert!(used <= bytes.len(), "seed {seed}, round {round}");
            let mut out = Vec::new();
            head.encode(&mut out);
            let (again, used) = ResponseHead::decode(&out).unwrap().unwrap();
            assert_eq!((again.headers, used), (head.headers, out.len()), "seed {seed}");
        }
    }
}

#[test]
fn responses_round_trip() {
    let headers = [("Content-Length", &b"5"[..]), ("X", b"\xe9")].into_iter().collect();
    let mut head = ResponseHead::new(206, headers);
    let mut out = Vec::new();
    head.encode(&mut out);
    assert_eq!(out, b"HTTP/1.1 206 Partial Content\r\nContent-Length: 5\r\nX: \xe9\r\n\r\n");
    head.reason = "Partial Content".to_owned();
    assert_eq!(ResponseHead::decode(&out), Ok(Some((head.clone(), out.len()))));
    assert_eq!(head.framing(&Method::Get), Ok(BodyLen::Known(5)));
    assert_eq!(head.framing(&Method::Head), Ok(BodyLen::None));
    head.headers = Headers::new();
    assert_eq!(head.framing(&Method::Get), Ok(BodyLen::UntilClose));
    head.status = 304;
    assert_eq!(head.framing(&Method::Get), Ok(BodyLen::None));
}

#[test]
fn fields_cannot_inject_others() {
    let mut headers = Headers::new();
    headers.append("Location", "x\r\nSet-Cookie: y\0");
    headers.append("bad name", "z");
    headers.append("", "z");
    let mut out = Vec::new();
    headers.encode(|_| true, &mut out);
    assert_eq!(out, b"Location: x  Set-Cookie: y \r\n");
}

#[test]
fn fields_that_say_who_asks_are_told_by_their_names() {
    let mut headers = Headers::new();
    let secrets = ["AUTHORIZATION", "Cookie", "X-JFrog-Art-Api", "Private-Token", "X-API_KEY"];
    for name in secrets {
        headers.append(name, name);
    }
    let others = ["Accept", "Docker-Distribution-API-Version", "Flatpak-Ref", "Monkey"];
    for name in others.iter().chain(&["Proxy-Authorization"]) {
        headers.append(name, "x");
    }
    assert!(headers.secrets().eq(secrets.iter().map(|name| name.as_bytes())));
    headers.remove_secrets();
    assert_eq!(headers.iter().count(), 5);
}

#[test]
fn hop_by_hop_fields_are_stripped() {
    let text = "GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade, HTTP2-Settings, x-mine\r\n\
         connection: close\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMA\r\nX-Mine: 1\r\n\
         Proxy-Connection: Keep-Alive\r\nProxy-Authorization: Basic x\r\nKeep-Alive: 5\r\n\
         TE: gzip\r\nTrailer: X\r\nTransfer-Encoding: chunked\r\nAuthorization: Bearer y\r\n\
         Range: bytes=1-\r\n\r\n";
    let mut head = whole(text);
    assert!(!head.keeps_alive());
    head.headers.strip_hop_by_hop();
    let names: Vec<&str> = head.headers.iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["Host", "Authorization", "Range"]);
}
