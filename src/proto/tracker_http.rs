//! Announce and scrape over HTTP (BEP 3, 7, 23, 48), both directions.
