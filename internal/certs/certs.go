// Package certs supplies TLS certificates: from PEM files that may change while
// they are in use, and from an ACME authority (RFC 8555).
package certs

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/acme"
	"golang.org/x/crypto/acme/autocert"

	"latchkey/internal/clock"
)

// Certificates are a certificate with its chain and key in two PEM files that
// may change while they are used. It is safe for concurrent use.
type Certificates struct {
	CertFile string // path of the certificate and its chain; never changes

	keyFile string
	log     *slog.Logger
	current atomic.Pointer[tls.Certificate]

	mu   sync.Mutex
	seen []byte // what the files held when they were looked at last
}

// OpenCertificates reads the pair. It fails where that cannot be used.
func OpenCertificates(certFile, keyFile string, now time.Time, log *slog.Logger) (*Certificates, error) {
	c := &Certificates{CertFile: certFile, keyFile: keyFile, log: log}
	if _, err := c.Reload(now); err != nil {
		return nil, err
	}
	return c, nil
}

// Get is for tls.Config.GetCertificate. It never waits for a disk.
func (c *Certificates) Get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return c.current.Load(), nil
}

// Reload takes the files into use if they have changed. Where they cannot be
// used, the pair that was good stays, and the error is given once: not again
// before the files change again. Connections that stand keep theirs.
func (c *Certificates) Reload(now time.Time) (changed bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	cert, err1 := os.ReadFile(c.CertFile)
	key, err2 := os.ReadFile(c.keyFile)
	unread := errors.Join(err1, err2)
	// The contents and not the times of change: those may stay the same where
	// the file is a link into a mounted folder, or was copied with its time.
	found := joined(cert, key, unread)
	if bytes.Equal(found, c.seen) {
		return false, nil
	}
	c.seen = found
	if unread != nil {
		return false, fmt.Errorf("read the certificate: %w", unread)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return false, fmt.Errorf("%s and %s are no usable pair: %w; the first must hold the certificate and then its chain, the other its private key, both as PEM", c.CertFile, c.keyFile, err)
	}
	c.current.Store(&pair)
	if now.After(pair.Leaf.NotAfter) || now.Before(pair.Leaf.NotBefore) {
		c.log.Warn("the certificate is out of its time, so clients refuse it", "file", c.CertFile, "from", pair.Leaf.NotBefore, "until", pair.Leaf.NotAfter)
	}
	return true, nil
}

// joined puts what was read into one value to compare; the parts are kept
// apart by a byte that no PEM file has.
func joined(cert, key []byte, err error) []byte {
	all := bytes.Join([][]byte{cert, key}, []byte{0})
	if err != nil {
		all = fmt.Append(append(all, 0), err)
	}
	return all
}

// After an attempt that failed the next one is made no sooner than after the
// least pause, doubled each time up to the longest: authorities block who
// fails more than about five times an hour.
const (
	leastPause   = 2 * time.Minute
	longestPause = time.Hour
)

// IssuerOptions are what an Issuer is made of.
type IssuerOptions struct {
	Domains   []string
	Email     string
	Directory string // URL of the directory of the authority (RFC 8555 section 7.1.1)
	CAFile    string // PEM of who vouches for the directory's own certificate, "" for the system's
	Folder    string // where certificates and the account's key are kept
	Clock     *clock.Clock
	Log       *slog.Logger
}

// Issuer gets certificates from an authority by ACME (RFC 8555), keeps them and
// renews them. It is safe for concurrent use.
type Issuer struct {
	o       IssuerOptions
	manager *autocert.Manager

	mu     sync.Mutex
	failed map[string]failedIssue // by domain
}

// failedIssue is how the attempts for a domain went that has no certificate.
type failedIssue struct {
	err   error
	pause time.Duration
	until time.Time
}

// NewIssuer makes an issuer. Nothing is asked of the authority yet. The terms
// of the authority count as agreed to.
func NewIssuer(o IssuerOptions) (*Issuer, error) {
	if err := os.MkdirAll(o.Folder, 0o700); err != nil {
		return nil, fmt.Errorf("make the folder of certificates: %w", err)
	}
	client := &acme.Client{DirectoryURL: o.Directory, UserAgent: "latchkey"}
	if o.CAFile != "" {
		roots, err := ReadRoots(o.CAFile)
		if err != nil {
			return nil, fmt.Errorf("acme.ca_file: %w", err)
		}
		transport := http.DefaultTransport.(*http.Transport).Clone()
		transport.TLSClientConfig = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
		client.HTTPClient = &http.Client{Transport: transport, Timeout: time.Minute}
	}
	return &Issuer{o: o, failed: map[string]failedIssue{}, manager: &autocert.Manager{
		Prompt: autocert.AcceptTOS, Cache: autocert.DirCache(o.Folder), HostPolicy: autocert.HostWhitelist(o.Domains...),
		Client: client, Email: o.Email,
	}}, nil
}

// ReadRoots reads the certificates of authorities from a PEM file.
func ReadRoots(file string) (*x509.CertPool, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(data) {
		return nil, fmt.Errorf("%s has no certificate in PEM form", file)
	}
	return roots, nil
}

// Get is for tls.Config.GetCertificate. The first time for a domain it waits
// for the authority; while that fails it does not ask it again at once.
func (i *Issuer) Get(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	name := strings.ToLower(strings.TrimSuffix(hello.ServerName, "."))
	if !slices.Contains(i.o.Domains, name) || slices.Contains(hello.SupportedProtos, acme.ALPNProto) {
		return i.manager.GetCertificate(hello) // which refuses it, or answers the authority's question
	}
	now := i.o.Clock.Now()
	i.mu.Lock()
	earlier, again := i.failed[name]
	i.mu.Unlock()
	if again && now.Before(earlier.until) {
		return nil, earlier.err
	}
	cert, err := i.manager.GetCertificate(hello)
	i.note(name, err)
	return cert, err
}

// note remembers and logs how an attempt for a domain went.
func (i *Issuer) note(name string, err error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	earlier, again := i.failed[name]
	if err == nil {
		delete(i.failed, name)
		return
	}
	now := i.o.Clock.Now()
	if again && now.Before(earlier.until) {
		return // of those who waited for the same attempt, one has told
	}
	pause := min(max(2*earlier.pause, leastPause), longestPause)
	i.failed[name] = failedIssue{err: err, pause: pause, until: now.Add(pause)}
	i.o.Log.Error("no certificate by ACME; check that the authority reaches this server by the name", "domain", name, "error", err, "again_in", pause.String())
}

// Run sees to it that every domain has a certificate, so that no client has to
// wait for the first. It returns when they have, or when the context ends: what
// is there is renewed by itself.
func (i *Issuer) Run(ctx context.Context) {
	tick := time.NewTicker(leastPause)
	defer tick.Stop()
	for i.obtain(ctx) != nil {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (i *Issuer) obtain(ctx context.Context) (err error) {
	for _, domain := range i.o.Domains {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		// The suite says that the client takes ECDSA, as all do by now.
		hello := &tls.ClientHelloInfo{ServerName: domain, CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256}}
		_, failed := i.Get(hello)
		err = errors.Join(err, failed)
	}
	return err
}

// Handler answers what the authority asks by plain HTTP (RFC 8555 section
// 8.3), and nothing else. It does not send clients on to HTTPS: a key that was
// sent in clear would go unnoticed.
func (i *Issuer) Handler() http.Handler {
	answers := i.manager.HTTPHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "This port is for certificates alone. Use https.", http.StatusNotFound)
	}))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if host, _, err := net.SplitHostPort(r.Host); err == nil { // a test authority asks at another port than 80
			r.Host = host
		}
		answers.ServeHTTP(w, r)
	})
}
