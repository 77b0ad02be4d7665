# The program alone:                    docker build --target client -t torrent-cache .
# With etcd, for `torrent-cache tracker`:   docker build -t torrent-cache-tracker .
FROM rust:1-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --release --locked

FROM debian:bookworm-slim AS client
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /src/target/release/torrent-cache /usr/local/bin/
VOLUME /storage /etc/torrent-proxy/ssl
EXPOSE 8888 6881-6891
ENTRYPOINT ["torrent-cache"]
CMD ["client"]

FROM client AS tracker
RUN apt-get update \
    && apt-get install -y --no-install-recommends etcd-server \
    && rm -rf /var/lib/apt/lists/*
EXPOSE 6969/tcp 6969/udp 2378
CMD ["tracker"]
