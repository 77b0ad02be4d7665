//! The catalog against the real etcd, alone and as a cluster of three.

mod support;

use std::time::{Duration, Instant};

use serde_json::json;
use support::etcd::Etcd;
use support::faults::{Fault, FaultProxy};
use support::image::Blob;
use support::origin::{Origin, Request as Asked, Step, answer, whole};
use support::torrent_cache::Program;
use support::{get, loopback, wait_for};
use torrent_cache::base::clock::Time;
use torrent_cache::base::hash::Sha1Hash;
use torrent_cache::catalog::etcd::Client;
use torrent_cache::catalog::lease::Lease;
use torrent_cache::catalog::{
    Catalog, CatalogConfig, CatalogError, CatalogStatus, Claim, Claimed, Entry, claim_key, key,
};
use torrent_cache::limits;
use torrent_cache::net::tls::Roots;
use torrent_cache::proto::blob::BlobName;
use torrent_cache::proto::etcd::{
    Compare, LeaseAnswer, Operation, Range, RangeAnswer, Request, TxnAnswer, decode_deleted,
    prefix_end,
};
use torrent_cache::proto::http1::Url;

fn config(members: &[Etcd]) -> CatalogConfig {
    let endpoints = members.iter().map(Etcd::url).collect();
    CatalogConfig { endpoints, login: None, roots: Roots(Vec::new()) }
}

fn start(members: &[Etcd]) -> Catalog {
    Catalog::start(config(members)).expect("a thread can be started")
}

fn name(digit: char) -> BlobName {
    BlobName::parse(&format!("sha256:{}", digit.to_string().repeat(64))).expect("a name")
}

/// Longer than any call needs, shorter than the test's patience.
fn soon() -> Time {
    Time::now() + limits::CATALOG_CALL
}

fn lookup(catalog: &Catalog, name: &BlobName) -> Option<Vec<u8>> {
    catalog.lookup(name, soon()).ok()?.torrent
}

fn knows_nothing(catalog: &Catalog, name: &BlobName) -> bool {
    catalog.lookup(name, soon()).is_ok_and(|entry| entry == Entry::default())
}

fn claim_of(holder: u64) -> Claim {
    Claim { swarm: Sha1Hash::of(b"early"), blob_len: 1 << 20, holder }
}

fn claim(catalog: &Catalog, name: &BlobName, claim: &Claim) -> Claimed {
    catalog.claim(name, claim, soon()).expect("etcd answers")
}

fn take_over(catalog: &Catalog, name: &BlobName, from: &Claim, to: &Claim) -> Claimed {
    catalog.take_over(name, from, to, soon()).expect("etcd answers")
}

/// Every lease that etcd knows, in hexadecimal.
fn leases(etcd: &Etcd) -> Vec<String> {
    let listed = etcd.ctl(&["lease", "list"]);
    assert!(listed.status.success(), "{}", listed.output);
    let is_id = |line: &&str| line.len() == 16 && line.bytes().all(|b| b.is_ascii_hexdigit());
    listed.output.lines().map(str::trim).filter(is_id).map(str::to_owned).collect()
}

/// The only lease, which ends now.
fn end_lease(etcd: &Etcd) -> String {
    let [lease] = leases(etcd).try_into().expect("one lease");
    let ended = etcd.ctl(&["lease", "revoke", &lease]);
    assert!(ended.status.success(), "{}", ended.output);
    lease
}

#[test]
fn what_is_published_is_found_replaced_and_withdrawn() {
    let members = [Etcd::start()];
    let catalog = start(&members);
    assert!(knows_nothing(&catalog, &name('1')));
    // Any bytes, and as many as the largest blob needs.
    let torrent: Vec<u8> = (0..=250).cycle().take(limits::TORRENT_LEN_MAX).collect();
    catalog.publish(&name('1'), torrent.clone());
    wait_for("publication", || lookup(&catalog, &name('1')).filter(|found| *found == torrent));
    catalog.publish(&name('1'), b"other".to_vec());
    wait_for("replacement", || lookup(&catalog, &name('1')).filter(|found| found == b"other"));
    catalog.withdraw(&name('1'), torrent);
    catalog.publish(&name('2'), b"later".to_vec());
    wait_for("the next task", || lookup(&catalog, &name('2')));
    assert_eq!(lookup(&catalog, &name('1')).as_deref(), Some(&b"other"[..]), "another value stays");
    catalog.withdraw(&name('1'), b"other".to_vec());
    wait_for("withdrawal", || knows_nothing(&catalog, &name('1')).then_some(()));
    catalog.stop();
}

#[test]
fn etcdctl_reads_what_was_published() {
    let members = [Etcd::start()];
    let catalog = start(&members);
    catalog.publish(&name('a'), b"d4:infodee".to_vec());
    wait_for("publication", || lookup(&catalog, &name('a')));
    let found = members[0].ctl(&["get", "--print-value-only", &key(&name('a'))]);
    assert!(found.status.success(), "{}", found.output);
    assert_eq!(found.output.trim_end(), "d4:infodee");
    catalog.stop();
}

#[test]
fn transactions_leases_and_prefixes_work_as_the_codec_says() {
    let members = [Etcd::start()];
    let client = Client::new(config(&members));
    let call = |request: &Request<'_>| client.call(request, soon()).expect("etcd answers");
    let put = |key, lease| Request::Single(Operation::Put { key, value: b"v", lease });
    let lease = LeaseAnswer::decode(&call(&Request::LeaseGrant { ttl_s: 60 })).expect("a lease");
    call(&put(b"/p/1", Some(lease.id)));
    call(&put(b"/p/2", None));
    call(&put(b"/q/1", None));
    let end = prefix_end(b"/p/");
    let all = Range { end: Some(&end), ..Range::of_key(b"/p/") };
    let count = || {
        let body = call(&Request::Single(Operation::Range(all)));
        RangeAnswer::decode(&body).expect("a range").pairs.len()
    };
    assert_eq!(count(), 2);
    let alive = LeaseAnswer::decode(&call(&Request::LeaseKeepAlive(lease.id))).expect("a lease");
    assert_eq!(alive.ttl_s, 60);
    call(&Request::LeaseRevoke(lease.id));
    assert_eq!(count(), 1, "the key went with its lease");
    let claim = Request::Txn {
        compare: &[Compare::Absent { key: b"/claim" }],
        success: &[Operation::Put { key: b"/claim", value: b"mine", lease: None }],
        failure: &[Operation::Range(Range::of_key(b"/claim"))],
    };
    assert!(TxnAnswer::decode(&call(&claim)).expect("a transaction").succeeded);
    assert!(!TxnAnswer::decode(&call(&claim)).expect("a transaction").succeeded);
    let delete = Request::Single(Operation::Delete { key: b"/claim" });
    assert_eq!(decode_deleted(&call(&delete)), Ok(1));
}

#[test]
fn a_hostile_etcd_gives_errors_and_cannot_fill_the_memory() {
    let ok = "HTTP/1.1 200 OK";
    let pair = br#"{"kvs":[{"key":"a","value":"!"}]}"#;
    for steps in [
        vec![answer(&[ok, "Transfer-Encoding: chunked"], b""), Step::Repeat(chunk())],
        vec![answer(&[ok], b"{"), Step::Repeat(vec![b' '; 64 << 10])],
        vec![answer(&[ok, "Content-Length: 50"], br#"{"header":{}"#), Step::Close],
        vec![whole(br#"{"header":{}"#)],
        vec![whole(pair)],
        vec![whole(b"")],
        vec![answer(&["HTTP/1.1 301 Moved", "Location: /x", "Content-Length: 0"], b"")],
        vec![Step::Reset],
        vec![Step::Stall],
    ] {
        let origin = Origin::always(steps.clone());
        let endpoints = vec![origin.url("/")];
        let config = CatalogConfig { endpoints, login: None, roots: Roots(Vec::new()) };
        let catalog = Catalog::start(config).expect("a thread can be started");
        let before = Instant::now();
        let answer = catalog.lookup(&name('1'), Time::now() + limits::CATALOG_LOOKUP);
        assert!(answer.is_err(), "{:?}", steps.first());
        let claimed = catalog.claim(&name('1'), &claim_of(1), Time::now() + limits::CATALOG_LOOKUP);
        assert!(claimed.is_err(), "{:?}", steps.first());
        assert!(before.elapsed() < Duration::from_secs(2), "{:?}", before.elapsed());
        catalog.stop();
    }
}

fn chunk() -> Vec<u8> {
    [b"10000\r\n", &[b' '; 0x1_0000][..], b"\r\n"].concat()
}

#[test]
fn a_paused_etcd_costs_a_lookup_its_deadline_and_the_next_nothing() {
    let mut members = [Etcd::start()];
    let catalog = start(&members);
    assert!(knows_nothing(&catalog, &name('1')));
    members[0].process().pause();
    let before = Instant::now();
    let answer = catalog.lookup(&name('1'), Time::now() + limits::CATALOG_LOOKUP);
    assert!(answer.is_err());
    // The machine may be slow, but nothing here may wait for etcd's own seven seconds.
    assert!(before.elapsed() < Duration::from_secs(2), "{:?}", before.elapsed());
    // Unless the machine is so slow that the pause after it is over: the next is longer.
    wait_for("a look-up that asks nobody", || {
        let answer = catalog.lookup(&name('1'), Time::now() + limits::CATALOG_LOOKUP);
        matches!(answer, Err(CatalogError::Away)).then_some(())
    });
    assert!(catalog.status().unreachable.is_some());
    members[0].process().resume();
    wait_for("the catalog to be back", || catalog.lookup(&name('1'), soon()).ok());
    assert_eq!(catalog.status(), CatalogStatus::default());
    catalog.stop();
}

#[test]
fn publication_waits_for_an_etcd_that_is_away() {
    let mut members = [Etcd::start()];
    let catalog = start(&members);
    members[0].process().kill();
    catalog.publish(&name('1'), b"torrent".to_vec());
    wait_for("a failed call", || catalog.status().unreachable);
    members[0].start_again();
    wait_for("publication", || lookup(&catalog, &name('1')));
    catalog.stop();
}

#[test]
fn a_cluster_serves_with_one_member_dead_and_reads_without_a_quorum() {
    let mut members = Etcd::cluster(3);
    let catalog = start(&members);
    catalog.publish(&name('1'), b"one".to_vec());
    wait_for("publication", || lookup(&catalog, &name('1')));
    members[0].process().kill();
    assert_eq!(lookup(&catalog, &name('1')).as_deref(), Some(&b"one"[..]), "fails over at once");
    catalog.publish(&name('2'), b"two".to_vec());
    wait_for("publication by two of three", || lookup(&catalog, &name('2')));
    members[1].process().kill();
    let found = wait_for("a member without a quorum", || lookup(&catalog, &name('1')));
    assert_eq!(found, b"one");
    // It takes no claim, and says what it knows all the same.
    let before = Instant::now();
    let claimed = catalog.claim(&name('3'), &claim_of(1), Time::now() + limits::CATALOG_LOOKUP);
    assert!(claimed.is_err(), "{claimed:?}");
    assert!(before.elapsed() < Duration::from_secs(2), "{:?}", before.elapsed());
    wait_for("claims to be given up", || {
        let deadline = Time::now() + limits::CATALOG_LOOKUP;
        let claimed = catalog.claim(&name('3'), &claim_of(1), deadline);
        matches!(claimed, Err(CatalogError::Away)).then_some(())
    });
    assert_eq!(lookup(&catalog, &name('1')).as_deref(), Some(&b"one"[..]));
    catalog.stop();
}

#[test]
fn a_catalog_logs_in_and_logs_in_again() {
    let mut members = [Etcd::start()];
    for arguments in [
        &["user", "add", "root:secret"][..],
        &["user", "grant-role", "root", "root"],
        &["auth", "enable"],
    ] {
        let done = members[0].ctl(arguments);
        assert!(done.status.success(), "{arguments:?}: {}", done.output);
    }
    let nameless = start(&members);
    assert!(matches!(nameless.lookup(&name('1'), soon()), Err(CatalogError::Refused(_))));
    nameless.stop();
    let login = Some(("root".to_owned(), "secret".to_owned()));
    let catalog = Catalog::start(CatalogConfig { login, ..config(&members) }).expect("a thread");
    catalog.publish(&name('1'), b"one".to_vec());
    wait_for("publication", || lookup(&catalog, &name('1')));
    // Its simple tokens die with the process.
    members[0].process().kill();
    members[0].start_again();
    wait_for("a new log-in", || lookup(&catalog, &name('1')));
    catalog.stop();
}

#[test]
fn the_first_claim_wins_and_others_see_it() {
    let members = [Etcd::start()];
    let (first, second) = (start(&members), start(&members));
    let (ours, theirs) = (claim_of(1), claim_of(2));
    assert_eq!(claim(&first, &name('1'), &ours), Claimed::Ours);
    assert_eq!(claim(&second, &name('1'), &theirs), Claimed::Others(ours));
    assert_eq!(claim(&first, &name('1'), &ours), Claimed::Ours, "it may be repeated");
    let found = second.lookup(&name('1'), soon()).expect("etcd answers");
    assert_eq!(found, Entry { torrent: None, claim: Some(ours) });
    assert_eq!(claim(&second, &name('2'), &theirs), Claimed::Ours, "of another blob");
    first.publish(&name('1'), b"torrent".to_vec());
    wait_for("publication", || lookup(&second, &name('1')));
    let found = second.lookup(&name('1'), soon()).expect("etcd answers");
    assert_eq!(found, Entry { torrent: Some(b"torrent".to_vec()), claim: Some(ours) });
    assert_eq!(claim(&second, &name('1'), &theirs), Claimed::Known);
    assert_eq!(take_over(&second, &name('1'), &ours, &theirs), Claimed::Known);
    first.release(&name('1'), &ours);
    wait_for("the release", || {
        second.lookup(&name('1'), soon()).ok().filter(|entry| entry.claim.is_none())
    });
    assert_eq!(claim(&second, &name('1'), &theirs), Claimed::Known);
    first.stop();
    second.stop();
}

#[test]
fn of_many_that_claim_at_once_one_wins() {
    let members = [Etcd::start()];
    let catalogs = [start(&members), start(&members)];
    let claimed: Vec<Claimed> = std::thread::scope(|scope| {
        let claim = |holder: u64| {
            let catalog = &catalogs[usize::from(holder.is_multiple_of(2))];
            scope.spawn(move || claim(catalog, &name('1'), &claim_of(holder)))
        };
        let threads: Vec<_> = (0..8).map(claim).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    let winners: Vec<usize> = (0..8).filter(|&n| claimed[n] == Claimed::Ours).collect();
    let [winner] = winners[..] else { panic!("{claimed:?}") };
    let theirs = Claimed::Others(claim_of(winner as u64));
    assert_eq!(claimed.iter().filter(|&&other| other == theirs).count(), 7, "{claimed:?}");
    catalogs.iter().for_each(Catalog::stop);
}

#[test]
fn of_two_that_take_a_claim_over_one_wins() {
    let members = [Etcd::start()];
    let (first, second) = (start(&members), start(&members));
    let (gone, ours, theirs) = (claim_of(1), claim_of(2), claim_of(3));
    assert_eq!(take_over(&first, &name('1'), &gone, &ours), Claimed::Gone);
    assert_eq!(claim(&first, &name('1'), &gone), Claimed::Ours);
    assert_eq!(take_over(&second, &name('1'), &gone, &ours), Claimed::Ours);
    assert_eq!(take_over(&first, &name('1'), &gone, &theirs), Claimed::Others(ours));
    assert_eq!(take_over(&second, &name('1'), &gone, &ours), Claimed::Ours, "it may be repeated");
    // Only one's own is released. The next task says that the one before is done.
    first.release(&name('1'), &gone);
    first.publish(&name('2'), b"later".to_vec());
    wait_for("the next task", || lookup(&first, &name('2')));
    let found = first.lookup(&name('1'), soon()).expect("etcd answers");
    assert_eq!(found.claim, Some(ours));
    second.release(&name('1'), &ours);
    wait_for("the release", || knows_nothing(&first, &name('1')).then_some(()));
    assert_eq!(take_over(&first, &name('1'), &ours, &theirs), Claimed::Gone);
    first.stop();
    second.stop();
}

#[test]
fn claims_end_with_their_lease_and_the_next_has_another() {
    let members = [Etcd::start()];
    let catalog = start(&members);
    let names = ['1', '2'].map(name);
    for name in &names {
        assert_eq!(claim(&catalog, name, &claim_of(1)), Claimed::Ours);
    }
    let lease = end_lease(&members[0]);
    // Too early to do anything: that it is gone is noticed by the next claim.
    catalog.renew(soon());
    assert!(names.iter().all(|name| knows_nothing(&catalog, name)));
    assert_eq!(claim(&catalog, &names[0], &claim_of(2)), Claimed::Ours);
    let lives = leases(&members[0]);
    assert!(lives.len() == 1 && lives[0] != lease, "{lives:?} after {lease}");
    // Also a claim that is taken over lies under the lease of who took it.
    let other = start(&members);
    assert_eq!(take_over(&other, &names[0], &claim_of(2), &claim_of(3)), Claimed::Ours);
    let ended = members[0].ctl(&["lease", "revoke", &lives[0]]);
    assert!(ended.status.success(), "{}", ended.output);
    let found = catalog.lookup(&names[0], soon()).expect("etcd answers");
    assert_eq!(found.claim, Some(claim_of(3)));
    catalog.stop();
    other.stop();
}

#[test]
fn a_lease_is_renewed_when_it_is_due_and_granted_anew_when_it_is_gone() {
    let members = [Etcd::start()];
    let client = Client::new(config(&members));
    let lease = Lease::new();
    let start = Time::now();
    let id = |now| lease.id(&client, now, soon()).expect("etcd answers");
    let renew = |id, now| lease.keep_alive(&client, id, now, soon()).expect("etcd answers");
    assert_eq!(lease.due(start), None, "there is none");
    let first = id(start);
    assert_eq!(lease.due(start), None, "it is new");
    let later = start + limits::CLAIM_RENEW;
    assert_eq!(lease.due(later), Some(first));
    assert_eq!(lease.due(later), None, "somebody renews it");
    lease.not_renewed(first);
    assert_eq!(lease.due(later), Some(first), "and failed");
    assert!(renew(first, later));
    assert_eq!(lease.due(later), None);
    // One that is old is used after a keep-alive, one that must have ended is not.
    assert_eq!(id(later + limits::CLAIM_TTL.mul_f32(0.9)), first);
    let second = id(later + 3 * limits::CLAIM_TTL);
    assert_ne!(second, first);
    // One that has ended is noticed by the keep-alive.
    client.call(&Request::LeaseRevoke(second), soon()).expect("etcd answers");
    let late = later + 4 * limits::CLAIM_TTL;
    assert!(!renew(second, late));
    assert_eq!(lease.due(late), None);
    let third = id(late);
    assert_ne!(third, second);
    client.call(&Request::LeaseRevoke(third), soon()).expect("etcd answers");
    assert_ne!(id(late + limits::CLAIM_TTL.mul_f32(0.9)), third);
}

/// The answer is lost: who made the claim does not know of it, and others would wait in vain.
#[test]
fn a_claim_that_was_made_unheard_is_given_up() {
    let members = [Etcd::start()];
    let proxy = FaultProxy::start(loopback(members[0].client_port()));
    proxy.fail("/v3/kv/txn", 1, Fault::Stall { after: 0 });
    let url = Url::parse(&proxy.url()).expect("a URL");
    let config = CatalogConfig { endpoints: vec![url], ..config(&members) };
    let catalog = Catalog::start(config).expect("a thread can be started");
    let others = start(&members);
    let (name, ours) = (name('1'), claim_of(1));
    std::thread::scope(|scope| {
        let unheard = scope.spawn(|| catalog.claim(&name, &ours, soon()));
        wait_for("the claim", || {
            let seen = others.lookup(&name, soon()).ok()?.claim;
            (seen == Some(ours)).then_some(())
        });
        assert!(unheard.join().expect("no panic").is_err());
    });
    wait_for("it to be given up", || knows_nothing(&others, &name).then_some(()));
    assert_eq!(leases(&members[0]).len(), 1, "it did not end with its lease");
    catalog.stop();
    others.stop();
}

#[test]
fn what_is_no_claim_is_replaced() {
    let members = [Etcd::start()];
    let catalog = start(&members);
    let put = members[0].ctl(&["put", &claim_key(&name('1')), "nonsense"]);
    assert!(put.status.success(), "{}", put.output);
    assert!(knows_nothing(&catalog, &name('1')));
    let (ours, theirs) = (claim_of(1), claim_of(2));
    assert_eq!(take_over(&catalog, &name('1'), &theirs, &ours), Claimed::Gone);
    assert_eq!(claim(&catalog, &name('1'), &ours), Claimed::Ours);
    let found = members[0].ctl(&["get", "--print-value-only", &claim_key(&name('1'))]);
    assert_eq!(found.output.trim_end(), ours.encode());
    catalog.stop();
}

#[test]
fn an_etcd_that_never_takes_a_claim_is_not_asked_for_ever() {
    let no_lease = br#"{"message":"etcdserver: requested lease not found","code":5}"#;
    let len = format!("Content-Length: {}", no_lease.len());
    let neither = br#"{"header":{},"responses":[{"response_range":{}},{"response_range":{}}]}"#;
    for step in [answer(&["HTTP/1.1 404 Not Found", &len], no_lease), whole(neither)] {
        let script = move |asked: &Asked| {
            if asked.target() == "/v3/lease/grant" {
                vec![whole(br#"{"ID":"7","TTL":"30"}"#)]
            } else {
                vec![step.clone()]
            }
        };
        let origin = Origin::start(script);
        let config = CatalogConfig {
            endpoints: vec![origin.url("/")],
            login: None,
            roots: Roots(Vec::new()),
        };
        let catalog = Catalog::start(config).expect("a thread can be started");
        assert!(catalog.claim(&name('1'), &claim_of(1), soon()).is_err());
        let asked = origin.seen();
        let count = |path| asked.iter().filter(|asked| asked.target() == path).count();
        // What gives the claim up, in case that it was made, may have come already.
        let is_put = |asked: &&Asked| String::from_utf8_lossy(&asked.body).contains("requestPut");
        let puts = asked.iter().filter(is_put).count();
        assert!((2..=3).contains(&puts), "{asked:?}");
        assert!(count("/v3/lease/grant") <= 3, "{asked:?}");
        catalog.stop();
    }
}

#[test]
fn a_user_needs_two_prefixes_and_no_more() {
    let members = [Etcd::start()];
    for arguments in [
        &["role", "add", "cache"][..],
        &["role", "grant-permission", "cache", "--prefix=true", "readwrite", "/torrents/"],
        &["role", "grant-permission", "cache", "--prefix=true", "readwrite", "/torrent-cache/"],
        &["user", "add", "me:mine"],
        &["user", "grant-role", "me", "cache"],
        &["user", "add", "root:secret"],
        &["user", "grant-role", "root", "root"],
        &["auth", "enable"],
    ] {
        let done = members[0].ctl(arguments);
        assert!(done.status.success(), "{arguments:?}: {}", done.output);
    }
    let login = Some(("me".to_owned(), "mine".to_owned()));
    let config = CatalogConfig { login, ..config(&members) };
    let catalog = Catalog::start(config.clone()).expect("a thread");
    assert!(knows_nothing(&catalog, &name('1')));
    assert_eq!(claim(&catalog, &name('1'), &claim_of(1)), Claimed::Ours);
    assert_eq!(take_over(&catalog, &name('1'), &claim_of(1), &claim_of(2)), Claimed::Ours);
    let client = Client::new(config);
    let lease = Lease::new();
    let id = lease.id(&client, Time::now(), soon()).expect("a lease");
    assert!(lease.keep_alive(&client, id, Time::now(), soon()).expect("etcd answers"));
    catalog.publish(&name('1'), b"torrent".to_vec());
    catalog.release(&name('1'), &claim_of(2));
    let published = Entry { torrent: Some(b"torrent".to_vec()), claim: None };
    wait_for("both", || catalog.lookup(&name('1'), soon()).ok().filter(|e| *e == published));
    catalog.stop();
}

/// Has etcd ask who calls: `root`, who may do all, and `reader`, who may look.
fn ask_who_calls(member: &Etcd) {
    for arguments in [
        &["user", "add", "root:secret"][..],
        &["user", "grant-role", "root", "root"],
        &["role", "add", "reading"],
        &["role", "grant-permission", "reading", "--prefix=true", "read", "/torrents/"],
        &["role", "grant-permission", "reading", "--prefix=true", "read", "/torrent-cache/"],
        &["user", "add", "reader:secret"],
        &["user", "grant-role", "reader", "reading"],
        &["auth", "enable"],
    ] {
        let done = member.ctl(arguments);
        assert!(done.status.success(), "{arguments:?}: {}", done.output);
    }
}

fn login(user: &str, password: &str) -> Option<(String, String)> {
    Some((user.to_owned(), password.to_owned()))
}

#[test]
fn who_is_refused_everything_is_told_why() {
    let members = [Etcd::start()];
    ask_who_calls(&members[0]);
    for (login, why) in [
        (None, "user name is empty"),
        (login("root", "wrong"), "invalid user ID or password"),
        (login("nobody", "secret"), "invalid user ID or password"),
    ] {
        let config = CatalogConfig { login, ..config(&members) };
        let catalog = Catalog::start(config).expect("a thread");
        let refused = catalog.lookup(&name('1'), soon());
        assert!(matches!(refused, Err(CatalogError::Refused(_))), "{refused:?}");
        let status = catalog.status();
        assert_eq!(status.unreachable, None, "etcd itself answers");
        let failing = status.lookups_failing.expect("it was no use");
        assert!(failing.contains(why), "{failing}");
        catalog.publish(&name('1'), b"one".to_vec());
        let failing = wait_for("a refusal", || catalog.status().publications_failing);
        assert!(failing.contains(why), "{failing}");
        catalog.stop();
    }
}

#[test]
fn who_may_only_read_looks_up_and_is_told_why_nothing_is_published() {
    let members = [Etcd::start()];
    ask_who_calls(&members[0]);
    let login = login("reader", "secret");
    let catalog = Catalog::start(CatalogConfig { login, ..config(&members) }).expect("a thread");
    catalog.publish(&name('1'), b"one".to_vec());
    let failing = wait_for("a refusal", || catalog.status().publications_failing);
    assert!(failing.contains("permission denied"), "{failing}");
    assert!(knows_nothing(&catalog, &name('1')));
    let status = catalog.status();
    assert_eq!((status.unreachable, status.lookups_failing), (None, None));
    assert!(status.publications_failing.is_some(), "a look-up does not mend it");
    catalog.stop();
}

#[test]
fn a_full_etcd_is_read_and_the_status_says_that_it_is_full_until_it_has_room() {
    let members = [Etcd::start()];
    let alarm = |action: &str| {
        let url = format!("http://127.0.0.1:{}/v3", members[0].client_port());
        let agent = ureq::Agent::config_builder().proxy(None).build().new_agent();
        let post = |path: &str, body: String| {
            let mut answer = agent.post(format!("{url}{path}")).send(body).expect("it answers");
            answer.body_mut().read_to_string().expect("it is text")
        };
        let list = post("/cluster/member/list", "{}".to_owned());
        let member = list.split("\"ID\":\"").nth(1).and_then(|rest| rest.split('"').next());
        let member = member.expect("it has one");
        let of = format!(r#""memberID":"{member}","alarm":"NOSPACE""#);
        post("/maintenance/alarm", format!(r#"{{"action":"{action}",{of}}}"#));
    };
    alarm("ACTIVATE");
    let catalog = start(&members);
    catalog.publish(&name('1'), b"one".to_vec());
    let failing = wait_for("a refusal", || catalog.status().publications_failing);
    assert!(failing.contains("database space exceeded"), "{failing}");
    assert!(knows_nothing(&catalog, &name('1')));
    alarm("DEACTIVATE");
    wait_for("publication", || lookup(&catalog, &name('1')));
    wait_for("a good status", || (catalog.status() == CatalogStatus::default()).then_some(()));
    catalog.stop();
}

#[test]
fn where_no_etcd_is_none_is_reached_with_a_log_in_or_without() {
    let web = Origin::always(vec![whole(b"<html>It works!</html>")]);
    let gone = format!("http://127.0.0.1:{}/", support::free_port());
    let gone = Url::parse(&gone).expect("a URL");
    for endpoint in [web.url("/"), gone] {
        for login in [None, login("root", "secret")] {
            let endpoints = vec![endpoint.clone()];
            let config = CatalogConfig { endpoints, login, roots: Roots(Vec::new()) };
            let catalog = Catalog::start(config).expect("a thread");
            assert!(catalog.lookup(&name('1'), soon()).is_err());
            let status = catalog.status();
            assert!(status.unreachable.is_some(), "{endpoint:?}: {status:?}");
            catalog.stop();
        }
    }
}

#[test]
fn over_tls_a_client_publishes_if_it_trusts_etcd_and_says_why_if_not() {
    let (etcd, certificate) = Etcd::start_with_tls();
    let blob = Blob::new(b"some bytes".to_vec());
    let bytes = blob.bytes.clone();
    let registry = Origin::always(vec![whole(&bytes)]);
    let registry = format!("http://{}", registry.addr());
    let endpoint = format!("https://127.0.0.1:{}", etcd.client_port());
    let options = [("REGISTRY_LOCATION", registry.as_str()), ("ETCD_ENDPOINTS", &endpoint)];
    let pull = |client: &Program| {
        let url = format!("http://{}/v2/a/blobs/{}", client.addr(), blob.digest);
        let got = get(&url, &[]).expect("it comes");
        assert!(got.status == 200 && got.body == blob.bytes, "{}", client.log());
    };
    let stranger = Program::client("stranger", &options);
    pull(&stranger);
    let why = wait_for("a failure", || {
        let catalog = &stranger.status()["catalog"];
        assert!(catalog["reachable"] == false || catalog["lookups_failing"].is_null());
        catalog["publications_failing"].as_str().map(str::to_owned)
    });
    assert!(why.contains("ertificate"), "{why}");
    let certificate = certificate.display().to_string();
    let friend = Program::client("friend", &[&options[..], &[("ETCD_CA", &certificate)]].concat());
    pull(&friend);
    const PUBLISHED: &str = "torrent_cache_catalog_requests_total{outcome=\"published\"}";
    wait_for("publication", || (friend.metric(PUBLISHED) == 1).then_some(()));
    let good = json!({
        "reachable": true, "lookups_failing": null, "publications_failing": null,
    });
    assert_eq!(friend.status()["catalog"], good);
}
