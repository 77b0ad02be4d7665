# The images `client` and `tracker`: one static program, and for the tracker an etcd.
#
# From the sources alone:
#   docker build --target client -t client .
#   docker build --target tracker -t tracker .
#
# From programs that are there already, with no base image to pull: `make image`.

# Where the files of the images come from: `built`, or `given` in target/image.
ARG FILES=built

FROM rust:1-bookworm AS built
RUN apt-get update \
    && apt-get install -y --no-install-recommends etcd-server musl-tools \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN make image-files

FROM scratch AS given
COPY target/image /src/target/image

FROM ${FILES} AS files

FROM scratch AS program
COPY --from=files /src/target/image/client /
ENV PATH=/bin
VOLUME /storage
ENTRYPOINT ["torrent-cache"]

FROM program AS client
EXPOSE 8888 6881-6891
HEALTHCHECK --start-period=30s CMD ["torrent-cache", "health", "client"]
CMD ["client"]

FROM program AS tracker
COPY --from=files /src/target/image/tracker /
EXPOSE 2378 6969/tcp 6969/udp
HEALTHCHECK --start-period=30s CMD ["torrent-cache", "health", "tracker"]
CMD ["tracker"]
