# latente for the CPU.
#
#   docker build -t latente .
#   docker run --rm -p 127.0.0.1:8080:8080 -v latente-data:/data latente

FROM rust:1-bookworm AS builder

# The script that fetches libtorch asks for pip; the compiler is in the image.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 python3-pip \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /build

# Three layers, from what changes seldom to what changes often. First libtorch: half a gigabyte. The script reads the
# wanted Rust version out of Cargo.toml.
COPY Cargo.toml ./
COPY scripts/libtorch.py scripts/
RUN python3 scripts/libtorch.py --cpu

# Then the dependencies, built with an empty program in place of this one. .cargo points the build at .libtorch.
COPY Cargo.lock build.rs ./
COPY .cargo .cargo
COPY native native
RUN mkdir src \
    && echo '//! Empty.' > src/lib.rs \
    && echo 'fn main() {}' > src/main.rs \
    && cargo build --release --locked \
    && rm -r src

# Then the program. Files keep the times they had outside, so cargo is told that these two are newer than the empty ones.
COPY migrations migrations
COPY src src
RUN touch src/lib.rs src/main.rs \
    && cargo build --release --locked

FROM debian:bookworm-slim

RUN groupadd --gid 10001 latente \
    && useradd --uid 10001 --gid latente --home-dir /data --no-create-home --shell /usr/sbin/nologin latente \
    && install --directory --owner=latente --group=latente /data

# The program looks for its libraries in ../lib/latente beside its own directory (see build.rs). libtorch.so itself is only
# needed to link.
COPY --from=builder \
    /build/.libtorch/lib/libtorch_cpu.so \
    /build/.libtorch/lib/libc10.so \
    /build/.libtorch/lib/libgomp.so.1 \
    /build/.libtorch/lib/libcudart.so.13 \
    /build/.libtorch/lib/libcupti.so.13 \
    /usr/local/lib/latente/
COPY --from=builder /build/target/release/latente /usr/local/bin/latente

USER latente
VOLUME /data
EXPOSE 8080

# The image has no curl; bash can open a connection by itself. Ready means status 200.
HEALTHCHECK --interval=30s --timeout=5s --start-period=15s --retries=3 \
    CMD ["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/8080 && printf 'GET /readyz HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: close\\r\\n\\r\\n' >&3 && read -r -t 4 _ status _ <&3 && [ \"$status\" = 200 ]"]

# Inside a container, loopback cannot be reached from outside, so the server must listen on every address of the container.
# It refuses that without --insecure, because this version has no keys. What keeps strangers out is how the port is
# published: on 127.0.0.1 only, as above.
ENTRYPOINT ["latente"]
CMD ["serve", "--listen", "0.0.0.0:8080", "--insecure", "--data", "/data"]
