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

// Certificates holds a certificate with its chain and key, read from two PEM files
// that may change while they are in use. It is safe for concurrent use.
type Certificates struct {
	CertFile string // path of the certificate and its chain; never changes

	keyFile string
	log     *slog.Logger
	current atomic.Pointer[tls.Certificate]

	mu   sync.Mutex
	seen []byte // contents of the files at the last Reload (see joined)
}

// OpenCertificates reads a certificate and its key from two PEM files. It fails if
// they cannot be used together. An expired certificate is only logged.
func OpenCertificates(certFile, keyFile string, now time.Time, log *slog.Logger) (*Certificates, error) {
	c := &Certificates{CertFile: certFile, keyFile: keyFile, log: log}
	if _, err := c.Reload(now); err != nil {
		return nil, err
	}
	return c, nil
}

// Get returns the current certificate and never an error. Use it as GetCertificate
// of tls.Config. It never reads from disk.
func (c *Certificates) Get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return c.current.Load(), nil
}

// Reload reads the files and, if they have changed, uses them for new connections.
// It reports whether it did. If they cannot be used, the previous pair stays in
// use, and Reload returns the error once, until the files change again.
func (c *Certificates) Reload(now time.Time) (changed bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	cert, err1 := os.ReadFile(c.CertFile)
	key, err2 := os.ReadFile(c.keyFile)
	unread := errors.Join(err1, err2)
	// Compare the contents and not the modification times. Those may stay the
	// same if the file is a link into a mounted folder, or was copied with its
	// time.
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

// joined returns cert, key and the text of err as one value to compare. They are
// separated by a zero byte, which no PEM file contains.
func joined(cert, key []byte, err error) []byte {
	all := bytes.Join([][]byte{cert, key}, []byte{0})
	if err != nil {
		all = fmt.Append(append(all, 0), err)
	}
	return all
}

// After a failed attempt the next one waits for leastPause. The pause doubles with
// each failure, up to longestPause: authorities block clients that fail more than
// about five times an hour.
const (
	leastPause   = 2 * time.Minute
	longestPause = time.Hour
)

// IssuerOptions are the options of NewIssuer.
type IssuerOptions struct {
	Domains   []string
	Email     string
	Directory string // URL of the directory of the authority (RFC 8555 section 7.1.1)
	CAFile    string // PEM file of the roots for the directory's TLS; "" for the system's
	Folder    string // stores the certificates and the account's key
	Clock     *clock.Clock
	Log       *slog.Logger
}

// Issuer obtains certificates from an authority by ACME (RFC 8555), stores them and
// renews them. It is safe for concurrent use.
type Issuer struct {
	o       IssuerOptions
	manager *autocert.Manager

	mu     sync.Mutex
	failed map[string]failedIssue // by domain
}

// failedIssue is the last failed attempt for a domain, and the pause until the next.
type failedIssue struct {
	err   error
	pause time.Duration
	until time.Time
}

// NewIssuer returns an issuer and creates its folder. It sends nothing to the
// authority yet. The issuer agrees to the authority's terms of service.
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

// ReadRoots returns the certificates in a PEM file. It fails if there are none.
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

// Get returns the certificate of the requested domain. Use it as GetCertificate of
// tls.Config. If there is no certificate yet, Get waits for the authority. After
// a failure it returns the same error until the pause is over.
func (i *Issuer) Get(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	name := strings.ToLower(strings.TrimSuffix(hello.ServerName, "."))
	if !slices.Contains(i.o.Domains, name) || slices.Contains(hello.SupportedProtos, acme.ALPNProto) {
		// The manager refuses the name or answers the authority's challenge.
		return i.manager.GetCertificate(hello)
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

// note records the result of an attempt for a domain. It logs a failure.
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
		return // several callers waited for this attempt; another has recorded it
	}
	pause := min(max(2*earlier.pause, leastPause), longestPause)
	i.failed[name] = failedIssue{err: err, pause: pause, until: now.Add(pause)}
	i.o.Log.Error("no certificate by ACME; check that the authority reaches this server by the name", "domain", name, "error", err, "again_in", pause.String())
}

// Run obtains a certificate for every domain, so that no client has to wait for the
// first one. It returns when every domain has one, or when ctx ends. Later
// renewals need no Run.
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
		// This suite makes autocert issue an ECDSA certificate. All clients accept
		// those by now.
		hello := &tls.ClientHelloInfo{ServerName: domain, CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256}}
		_, failed := i.Get(hello)
		err = errors.Join(err, failed)
	}
	return err
}

// Handler returns the handler for the authority's challenges over plain HTTP (RFC
// 8555 section 8.3). Other requests get 404. It does not redirect clients to
// HTTPS: then nobody would notice that a key was sent in plaintext.
func (i *Issuer) Handler() http.Handler {
	answers := i.manager.HTTPHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "This port is for certificates alone. Use https.", http.StatusNotFound)
	}))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// A test authority uses a port other than 80.
		if host, _, err := net.SplitHostPort(r.Host); err == nil {
			r.Host = host
		}
		answers.ServeHTTP(w, r)
	})
}
