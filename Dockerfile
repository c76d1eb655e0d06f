# An image of the one static binary and nothing else.
#
#   docker build -t latchkey .
#   docker run -p 127.0.0.1:8080:8080 -p 127.0.0.1:8081:8081 -v latchkey:/data latchkey

FROM golang:1.26 AS build
ARG VERSION=unknown
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags "-s -w -X main.version=$VERSION" -o /latchkey .
RUN mkdir -m 0700 /data

FROM scratch
# For webhooks and certificates by ACME; scratch has no authorities of its own.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /latchkey /latchkey
# A number and no name: scratch has no /etc/passwd, and Kubernetes can check it.
COPY --from=build --chown=65532:65532 /data /data
USER 65532:65532
# Within a container every address is the container's own; who may reach it is
# decided where its ports are published. Publish to 127.0.0.1, or set TLS.
ENV LATCHKEY_SERVER_LISTEN=0.0.0.0:8080
ENV LATCHKEY_SERVER_INSECURE_HTTP=true
ENV LATCHKEY_ADMIN_LISTEN=0.0.0.0:8081
ENV LATCHKEY_ADMIN_INSECURE_HTTP=true
ENV LATCHKEY_SERVER_DATA=/data
ENV TMPDIR=/data
VOLUME /data
EXPOSE 8080 8081
# Asks over the control socket in /data, so it holds with TLS too.
HEALTHCHECK --interval=30s --timeout=6s --start-period=10s CMD ["/latchkey", "healthcheck"]
ENTRYPOINT ["/latchkey"]
CMD ["serve"]
