package main

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// Traefik cannot check keys. This configuration checks only the form of a key, and limits requests by
// the header field with the key.
const traefikStatic = `global: { checkNewVersion: false, sendAnonymousUsage: false }
log: { level: ERROR }
entryPoints: { web: { address: %q } }
providers: { file: { filename: %q, watch: false } }
`

const traefikDynamic = `http:
  routers:
    things: { entryPoints: [web], rule: "Path(` + "`%s`) && HeaderRegexp(`X-API-Key`, `^klen_[0-9A-Za-z]{36}$`)" + `", middlewares: [limit], service: up }
  middlewares:
    limit: { rateLimit: { average: 1000000, burst: 1000000, period: 1m, sourceCriterion: { requestHeaderName: X-API-Key } } }
  services:
    up: { loadBalancer: { servers: [ { url: %q } ] } }
`

// traefik returns a function that starts Traefik in front of an upstream and waits until it answers a
// request for path with key.
func (b *bench) traefik(path, upstream, key string) func() (*server, error) {
	return func() (*server, error) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		address := l.Addr().String()
		if err := l.Close(); err != nil {
			return nil, err
		}
		static, dynamic := filepath.Join(b.dir, "traefik.yml"), filepath.Join(b.dir, "dynamic.yml")
		if err := os.WriteFile(static, fmt.Appendf(nil, traefikStatic, address, dynamic), 0o600); err != nil {
			return nil, err
		}
		if err := os.WriteFile(dynamic, fmt.Appendf(nil, traefikDynamic, path, upstream), 0o600); err != nil {
			return nil, err
		}
		s := &server{command: exec.Command("taskset", "-c", serverCore, b.traefikFile, "--configFile="+static), url: "http://" + address}
		s.command.Stdout, s.command.Stderr = os.Stderr, os.Stderr
		if err := s.command.Start(); err != nil {
			return nil, err
		}
		r, err := http.NewRequest("GET", s.url+path, nil)
		if err != nil {
			return nil, s.stop(err)
		}
		r.Header.Set("X-API-Key", key)
		for range 600 {
			answer, err := http.DefaultClient.Do(r)
			if err == nil && answer.Body.Close() == nil && answer.StatusCode == http.StatusOK {
				return s, nil
			}
			time.Sleep(100 * time.Millisecond)
		}
		return nil, s.stop(fmt.Errorf("traefik did not accept the key within a minute"))
	}
}
