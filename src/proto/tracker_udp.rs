//! Announce and scrape over UDP (BEP 15), both directions.
