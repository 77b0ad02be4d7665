#!/usr/bin/python3
"""Makes the files of this folder again, from what other BitTorrent software writes. See README.md.

Needs (Debian) python3-libtorrent, transmission-cli, aria2 and opentracker; and root, for opentracker
changes its root directory. Uses the loopback interface alone.
"""

import os
import pathlib
import shutil
import socket
import struct
import subprocess
import tempfile
import threading
import time
import urllib.parse

import libtorrent as lt

HERE = pathlib.Path(__file__).resolve().parent
WORK = pathlib.Path(tempfile.mkdtemp(prefix="vectors-"))
PEER_ID = b"-XX0001-abcdefghijkl"
QUIET = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


def content(length):
    """The bytes of the test files; tests/vectors.rs has the same function."""
    return bytes((n * n + (n >> 8)) & 0xFF for n in range(length))


def free_port(kind=socket.SOCK_STREAM):
    with socket.socket(socket.AF_INET, kind) as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def make_torrent(name, paths, piece_len, flags, tracker=None):
    files = lt.file_storage()
    for path in paths:
        files.add_file(str(path.relative_to(WORK)), path.stat().st_size)
    creator = lt.create_torrent(files, piece_len, flags)
    if tracker:
        creator.add_tracker(tracker)
    creator.set_creator("libtorrent " + lt.version)
    lt.set_piece_hashes(creator, str(WORK))
    torrent = lt.bencode(creator.generate())
    (HERE / name).write_bytes(torrent)
    return lt.torrent_info(lt.bdecode(torrent))


def torrents():
    one = WORK / "content"
    one.write_bytes(content(600_000))
    several = [WORK / "several" / "a", WORK / "several" / "b"]
    several[0].parent.mkdir()
    for path in several:
        path.write_bytes(content(20_000))
    piece_len = 256 << 10
    v1 = make_torrent("libtorrent-v1.torrent", [one], piece_len, lt.create_torrent.v1_only)
    hybrid = make_torrent("libtorrent-hybrid.torrent", [one], piece_len, 0)
    make_torrent("libtorrent-v2.torrent", [one], piece_len, lt.create_torrent.v2_only)
    make_torrent("libtorrent-several.torrent", several, 1 << 14, lt.create_torrent.v1_only)
    target = HERE / "transmission.torrent"
    target.unlink(missing_ok=True)
    command = ["transmission-create", "-p", "-s", "256", "-c", "a comment"]
    command += ["-t", "http://tracker.example/announce", "-o", str(target), str(one)]
    subprocess.run(command, check=True, **QUIET)
    shown = subprocess.run(["transmission-show", str(target)], check=True, capture_output=True)
    by_transmission = next(line for line in shown.stdout.decode().splitlines() if "Hash:" in line)
    print("libtorrent says: v1", v1.info_hashes().v1, "hybrid", hybrid.info_hashes().v1)
    print("transmission says:", by_transmission.strip())


def lt_session(port):
    return lt.session({
        "listen_interfaces": f"127.0.0.1:{port}",
        "enable_dht": False, "enable_lsd": False, "enable_upnp": False, "enable_natpmp": False,
        "allow_multiple_connections_per_ip": True, "enable_outgoing_utp": False,
        "enable_incoming_utp": False, "out_enc_policy": 2, "in_enc_policy": 2,
    })


def pump(source, target, log):
    while data := source.recv(65536):
        log.append(data)
        target.sendall(data)
    target.shutdown(socket.SHUT_WR)


def libtorrent_streams():
    """Both directions of a whole transfer between two libtorrent sessions."""
    info = small_torrent(None)
    seeder_port, leecher_port = free_port(), free_port()
    seeder, leecher = lt_session(seeder_port), lt_session(leecher_port)
    add(seeder, info, WORK, lt.torrent_flags.seed_mode)
    into = WORK / "leech"
    into.mkdir()
    handle = add(leecher, info, into, 0)
    listener = socket.create_server(("127.0.0.1", 0))
    handle.connect_peer(listener.getsockname())
    near, _ = listener.accept()
    far = socket.create_connection(("127.0.0.1", seeder_port))
    from_leecher, from_seeder = [], []
    for source, target, log in [(near, far, from_leecher), (far, near, from_seeder)]:
        threading.Thread(target=pump, args=(source, target, log), daemon=True).start()
    deadline = time.time() + 30
    while not handle.status().is_seeding and time.time() < deadline:
        time.sleep(0.1)
    time.sleep(2)
    (HERE / "libtorrent-leecher.bin").write_bytes(b"".join(from_leecher))
    (HERE / "libtorrent-seeder.bin").write_bytes(b"".join(from_seeder))


def small_torrent(tracker):
    path = WORK / "small"
    path.write_bytes(content(40_000))
    name = WORK / "small.torrent"
    files = lt.file_storage()
    files.add_file("small", 40_000)
    creator = lt.create_torrent(files, 1 << 14, lt.create_torrent.v1_only)
    if tracker:
        creator.add_tracker(tracker)
    lt.set_piece_hashes(creator, str(WORK))
    name.write_bytes(lt.bencode(creator.generate()))
    return lt.torrent_info(str(name))


def add(session, info, path, flags):
    params = lt.add_torrent_params()
    params.ti, params.save_path = info, str(path)
    held = lt.torrent_flags.auto_managed | lt.torrent_flags.paused
    params.flags = (params.flags & ~held) | flags
    return session.add_torrent(params)


class HttpTracker(threading.Thread):
    """Records what is asked, and answers with one peer."""

    def __init__(self, peer_port):
        super().__init__(daemon=True)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = "http://127.0.0.1:%d/announce" % self.listener.getsockname()[1]
        peer = b"\x7f\0\0\1" + struct.pack(">H", peer_port)
        self.body = b"d8:intervali1800e5:peers6:" + peer + b"e"
        self.queries = []

    def run(self):
        while True:
            link, _ = self.listener.accept()
            head = b""
            while b"\r\n\r\n" not in head and (data := link.recv(65536)):
                head += data
            self.queries.append(head.split(b" ")[1].partition(b"?")[2])
            head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(self.body)
            link.sendall(head + self.body)
            link.close()


def aria2_streams(out):
    """What aria2 sends when it dials: an encrypted handshake first, a plain one after a refusal."""
    peer = socket.create_server(("127.0.0.1", 0))
    tracker = HttpTracker(peer.getsockname()[1])
    tracker.start()
    info = small_torrent(tracker.url)
    into = WORK / "aria2"
    into.mkdir()
    process = subprocess.Popen(
        ["aria2c", "--enable-dht=false", "--bt-enable-lpd=false", "--enable-peer-exchange=false",
         "--seed-time=0", "-d", str(into), "--listen-port=%d" % free_port(), "-T",
         str(WORK / "small.torrent")], **QUIET)
    encrypted, _ = peer.accept()
    (HERE / "aria2-encrypted.bin").write_bytes(encrypted.recv(65536))
    encrypted.close()
    link, _ = peer.accept()
    link.settimeout(3)
    (HERE / "aria2.bin").write_bytes(answer_as_seeder(link, info))
    process.terminate()
    process.wait()
    out += [("aria2", query) for query in tracker.queries]


def answer_as_seeder(link, info):
    """Says that we have everything, and unchokes; returns all that the other side says to it."""
    said = b""
    reserved = bytes([0, 0, 0, 0, 0, 0x10, 0, 4])
    link.sendall(b"\x13BitTorrent protocol" + reserved + info.info_hash().to_bytes() + PEER_ID)
    extension = b"d1:md11:ut_metadatai2ee1:v4:teste"
    link.sendall(struct.pack(">IBB", len(extension) + 2, 20, 0) + extension)
    link.sendall(bytes([0, 0, 0, 1, 14]) + bytes([0, 0, 0, 1, 1]))
    try:
        while data := link.recv(65536):
            said += data
    except TimeoutError:
        pass
    link.close()
    return said


def transmission_stream(out):
    """What transmission-cli sends to a leecher that dials it, and what it announces."""
    tracker = HttpTracker(free_port())
    tracker.start()
    info = small_torrent(tracker.url)
    port = free_port()
    process = subprocess.Popen(
        ["transmission-cli", "-w", str(WORK), "-p", str(port), "-g", str(WORK / "config"),
         "-et", "-M", str(WORK / "small.torrent")], **QUIET)
    deadline = time.time() + 30
    while not tracker.queries and time.time() < deadline:
        time.sleep(0.2)
    link = socket.create_connection(("127.0.0.1", port))
    link.settimeout(12)
    reserved = bytes([0, 0, 0, 0, 0, 0x10, 0, 4])
    link.sendall(b"\x13BitTorrent protocol" + reserved + info.info_hash().to_bytes() + PEER_ID)
    link.sendall(bytes([0, 0, 0, 1, 15]) + bytes([0, 0, 0, 1, 2]))
    said = b""
    try:
        while len(said) < 17000 and (data := link.recv(65536)):
            said += data
            if bytes([0, 0, 0, 1, 1]) in said and len(said) < 1000:
                link.sendall(struct.pack(">IBIII", 13, 6, 2, 0, 40_000 - 32768))
    except TimeoutError:
        pass
    (HERE / "transmission.bin").write_bytes(said)
    link.close()
    process.terminate()
    process.wait()
    out += [("transmission", query) for query in tracker.queries]


def libtorrent_queries(out):
    tracker = HttpTracker(free_port())
    tracker.start()
    session = lt_session(free_port())
    handle = add(session, small_torrent(tracker.url), WORK / "leech", 0)
    time.sleep(3)
    session.remove_torrent(handle)
    time.sleep(3)
    out += [("libtorrent", query) for query in tracker.queries]


def http_get(port, target):
    with socket.create_connection(("127.0.0.1", port)) as link:
        link.sendall(b"GET " + target.encode() + b" HTTP/1.1\r\nHost: t\r\n\r\n")
        answer = b""
        while data := link.recv(65536):
            answer += data
    return answer.partition(b"\r\n\r\n")[2]


def opentracker(http, udp):
    known, unknown = bytes(range(20)), bytes(range(20, 40))
    port, root = free_port(), WORK / "opentracker"
    root.mkdir(mode=0o755)
    WORK.chmod(0o755)
    (root / "white").write_text(known.hex() + "\n")
    process = subprocess.Popen(
        ["opentracker", "-i", "127.0.0.1", "-p", str(port), "-P", str(port), "-d", str(root), "-u",
         "nobody", "-w", "white"], **QUIET)
    time.sleep(1)
    escaped = "".join("%%%02x" % byte for byte in known)
    rest = f"&peer_id={urllib.parse.quote(PEER_ID)}&uploaded=0&downloaded=0&compact=1"
    ask = f"/announce?info_hash={escaped}{rest}"
    http.append(("announce", http_get(port, ask + "&port=7001&left=0&event=started")))
    http.append(("announce-second", http_get(port, ask + "&port=7002&left=9&event=started")))
    http.append(("scrape", http_get(port, f"/scrape?info_hash={escaped}")))
    http.append(("stopped", http_get(port, ask + "&port=7002&left=9&event=stopped")))
    http.append(("refused", http_get(port, ask.replace("%00", "%99", 1) + "&port=7001&left=0")))
    link = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    link.connect(("127.0.0.1", port))
    link.settimeout(5)

    def exchange(name, datagram):
        link.send(datagram)
        udp.append((name, link.recv(65536)))
        return udp[-1][1]

    connection = exchange("connect", struct.pack(">QII", 0x41727101980, 0, 0x11111111))[8:]

    def announce(info_hash):
        head = connection + struct.pack(">II", 1, 0x22222222) + info_hash + PEER_ID
        return head + struct.pack(">QQQIIIiH", 0, 0, 0, 2, 0, 0xABCD, 50, 7003)

    exchange("announce", announce(known))
    exchange("announce-refused", announce(unknown))
    exchange("scrape", connection + struct.pack(">II", 2, 0x33333333) + known + unknown)
    exchange("bad-connection", b"\1" * 8 + struct.pack(">II", 1, 0x44444444) + announce(known)[16:])
    process.terminate()
    process.wait()


def udp_requests(out):
    """What libtorrent and aria2 ask a UDP tracker."""
    for name in ["libtorrent", "aria2"]:
        link = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        link.bind(("127.0.0.1", 0))
        link.settimeout(20)
        info = small_torrent("udp://127.0.0.1:%d/announce" % link.getsockname()[1])
        if name == "libtorrent":
            session = lt_session(free_port())
            add(session, info, WORK / "leech", 0)
        else:
            into = WORK / "aria2-udp"
            into.mkdir()
            process = subprocess.Popen(
                ["aria2c", "--enable-dht=true", "--bt-enable-lpd=false", "-d", str(into),
                 "--dht-listen-port=%d" % free_port(socket.SOCK_DGRAM),
                 "--listen-port=%d" % free_port(), "--dht-file-path=" + str(into / "dht"),
                 "-T", str(WORK / "small.torrent")], **QUIET)
        while True:
            datagram, source = link.recvfrom(65536)
            if datagram[:8] == struct.pack(">Q", 0x41727101980):
                out.append((name + "-connect", datagram))
                link.sendto(struct.pack(">I", 0) + datagram[12:16] + b"connecti", source)
            else:
                out.append((name + "-announce", datagram))
                break
        if name == "aria2":
            process.terminate()
            process.wait()


def write(name, entries):
    lines = [f"{key} {value.hex()}\n" for key, value in entries]
    (HERE / name).write_text("".join(lines))


if __name__ == "__main__":
    queries, http, udp_answers, udp_asked = [], [], [], []
    torrents()
    libtorrent_streams()
    libtorrent_queries(queries)
    aria2_streams(queries)
    transmission_stream(queries)
    opentracker(http, udp_answers)
    udp_requests(udp_asked)
    write("http-queries.hex", queries)
    write("http-answers-opentracker.hex", http)
    write("udp-requests.hex", udp_asked)
    write("udp-answers-opentracker.hex", udp_answers)
    shutil.rmtree(WORK)
    os._exit(0)  # libtorrent sessions would wait for their trackers
