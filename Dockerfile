# Builds an image that contains only the static binary and root certificates.
#
#   docker build -t latchkey .
#   docker run -p 127.0.0.1:8080:8080 -p 127.0.0.1:8081:8081 -v latchkey:/data latchkey

# The Dockerfile of a release names this image by its digest, and has the version: see
# packaging/release.sh.
ARG GO_IMAGE=golang:1.26
FROM ${GO_IMAGE} AS build
ARG VERSION=
# "cluster" builds the program with a client of etcd, see docs/cluster.md.
ARG TAGS=
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN CGO_ENABLED=0 go build -trimpath -buildvcs=false -tags "$TAGS" -ldflags "-s -w -X main.version=$VERSION" -o /latchkey .
RUN mkdir -m 0700 /data

FROM scratch
# Webhooks and ACME need root certificates, and scratch has none.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /latchkey /latchkey
# The user is a number, because scratch has no /etc/passwd. Kubernetes can check from
# the number that it is not root.
COPY --from=build --chown=65532:65532 /data /data
USER 65532:65532
# The listeners accept connections on every address of the container. The published
# ports decide which clients can reach them. Publish the ports to 127.0.0.1, or set
# up TLS.
ENV LATCHKEY_SERVER_LISTEN=0.0.0.0:8080
ENV LATCHKEY_SERVER_INSECURE_HTTP=true
ENV LATCHKEY_ADMIN_LISTEN=0.0.0.0:8081
ENV LATCHKEY_ADMIN_INSECURE_HTTP=true
ENV LATCHKEY_SERVER_DATA=/data
ENV TMPDIR=/data
VOLUME /data
EXPOSE 8080 8081
# The health check uses the control socket in /data, so it also works with TLS.
HEALTHCHECK --interval=30s --timeout=6s --start-period=10s CMD ["/latchkey", "healthcheck"]
ENTRYPOINT ["/latchkey"]
CMD ["serve"]
