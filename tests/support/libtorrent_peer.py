#!/usr/bin/python3
"""A BitTorrent peer made of python3-libtorrent: one .torrent, one tracker, one address.

    libtorrent_peer.py download|seed TORRENT FOLDER TRACKER IP:PORT

Downloads into FOLDER and ends when every byte is on disk, or seeds what is there until it is ended.
Prints the info-hash first.
"""

import sys

import libtorrent as lt

SHOWN = (
    lt.alert.category_t.tracker_notification
    | lt.alert.category_t.connect_notification
    | lt.alert.category_t.error_notification
)

act, torrent, folder, tracker, interface = sys.argv[1:]
session = lt.session({
    "listen_interfaces": interface,
    "enable_dht": False,
    "enable_lsd": False,
    "enable_upnp": False,
    "enable_natpmp": False,
    # Every peer of the test has the same address.
    "allow_multiple_connections_per_ip": True,
    "alert_mask": lt.alert.category_t.all_categories,
})
parameters = lt.add_torrent_params()
parameters.ti = lt.torrent_info(torrent)
parameters.save_path = folder
parameters.trackers = [tracker]
print("info hash", parameters.ti.info_hash(), flush=True)
handle = session.add_torrent(parameters)
is_whole = False
while True:
    session.wait_for_alert(100)
    for alert in session.pop_alerts():
        if isinstance(alert, lt.cache_flushed_alert) and is_whole:
            sys.exit()
        elif alert.category() & SHOWN:
            print(alert, flush=True)
    if act == "download" and not is_whole and handle.status().is_seeding:
        is_whole = True
        handle.flush_cache()
