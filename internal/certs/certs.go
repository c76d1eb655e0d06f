// Package certs supplies TLS certificates. It reads them from PEM files that may change while they
// are in use, or obtains them from an authority by ACME (RFC 8555).
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
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/acme"
	"golang.org/x/crypto/acme/autocert"

	"latchkey/internal/clock"
	"latchkey/internal/durable"
)

// Certificates holds a certificate with its chain and private key. It reads them from two PEM files,
// which may change while they are in use. It is safe for concurrent use.
type Certificates struct {
	CertFile string // path of the file with the certificate and its chain; never changes

	keyFile string
	log     *slog.Logger
	current atomic.Pointer[tls.Certificate]

	mu   sync.Mutex
	seen []byte // contents of the files at the last Reload, in the form of joined
}

// ErrKeyFile is an error about reading the file of the private key.
var ErrKeyFile = errors.New("read the private key")

// OpenCertificates reads a certificate and its private key from two PEM files. It returns an error
// if they cannot be read or do not belong together. If the certificate is not valid at now, it only
// logs that.
func OpenCertificates(certFile, keyFile string, now time.Time, log *slog.Logger) (*Certificates, error) {
	c := &Certificates{CertFile: certFile, keyFile: keyFile, log: log}
	if _, err := c.Reload(now); err != nil {
		return nil, err
	}
	return c, nil
}

// Get returns the current certificate. Use it as GetCertificate of tls.Config. It does not read from
// disk and never returns an error.
func (c *Certificates) Get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return c.current.Load(), nil
}

// End returns the time until which the current certificate is valid.
func (c *Certificates) End() time.Time { return c.current.Load().Leaf.NotAfter }

// Reload reads the files. If they have changed, it uses them for new connections and returns true.
// If they have changed but cannot be used, the previous certificate stays in use and Reload returns
// an error. It does not return an error again until the files change again.
func (c *Certificates) Reload(now time.Time) (changed bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	cert, err1 := os.ReadFile(c.CertFile)
	key, err2 := os.ReadFile(c.keyFile)
	unread := errors.Join(err1, err2)
	// Compare the contents and not the modification times. The modification time may stay the same if
	// the file is a link into a mounted folder, or if it was copied with its modification time.
	found := joined(cert, key, unread)
	if bytes.Equal(found, c.seen) {
		return false, nil
	}
	c.seen = found
	switch {
	case err1 != nil:
		return false, fmt.Errorf("read the certificate: %w", unread)
	case err2 != nil:
		return false, fmt.Errorf("%w: %w", ErrKeyFile, err2)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return false, fmt.Errorf("%s and %s cannot be used together: %w; the first file must contain the certificate and then its chain, the second its private key, both as PEM", c.CertFile, c.keyFile, err)
	}
	c.current.Store(&pair)
	if now.After(pair.Leaf.NotAfter) || now.Before(pair.Leaf.NotBefore) {
		c.log.Warn("certificate not valid now, clients will refuse it", "file", c.CertFile, "from", pair.Leaf.NotBefore, "until", pair.Leaf.NotAfter)
	}
	return true, nil
}

// joined returns cert, key and the text of err as one value for comparisons. A zero byte separates
// them, because no PEM file contains one.
func joined(cert, key []byte, err error) []byte {
	all := bytes.Join([][]byte{cert, key}, []byte{0})
	if err != nil {
		all = fmt.Append(append(all, 0), err)
	}
	return all
}

// An Issuer pauses for leastPause after a failed attempt. With each further failure the pause
// doubles, up to longestPause, because authorities block clients that fail more than about five
// times an hour.
const (
	leastPause   = 2 * time.Minute
	longestPause = time.Hour
)

// ErrElsewhere means that another server obtains a certificate, which all servers have then.
var ErrElsewhere = errors.New("another node of the cluster obtains the certificate; try again shortly")

// elsewherePause is the time after which an Issuer looks whether another server has obtained a certificate.
const elsewherePause = time.Second

// IssuerOptions are the options of NewIssuer.
type IssuerOptions struct {
	Domains   []string // domains to obtain a certificate for, in lower case
	Email     string   // sent to the authority as the contact; may be ""
	Directory string   // URL of the authority's ACME directory (RFC 8555 section 7.1.1)
	CAFile    string   // PEM file with the roots to trust at Directory; "" for the roots of the system
	Folder    string   // folder for the certificates and the key of the ACME account
	// Cache replaces Folder if several servers share their certificates; nil: the server is alone. Its Get returns ErrElsewhere
	// for a certificate that another server obtains.
	Cache autocert.Cache
	Clock *clock.Clock
	Log   *slog.Logger
}

// Issuer obtains certificates from an authority by ACME (RFC 8555), stores them and renews them. It
// is safe for concurrent use.
type Issuer struct {
	o       IssuerOptions
	manager *autocert.Manager

	mu     sync.Mutex
	failed map[string]failedIssue // by domain
}

// failedIssue describes the last failed attempt to obtain a certificate for a domain.
type failedIssue struct {
	err   error
	pause time.Duration // length of the pause before the next attempt
	until time.Time     // end of the pause
}

// NewIssuer returns an Issuer and creates its folder if it needs one. It does not send requests to the authority.
// When the Issuer creates an ACME account, it agrees to the authority's terms of service.
func NewIssuer(o IssuerOptions) (*Issuer, error) {
	cache := o.Cache
	if cache == nil {
		if err := durable.MakeFolder(o.Folder); err != nil {
			return nil, fmt.Errorf("create the folder of certificates: %w", err)
		}
		cache = folderCache{autocert.DirCache(o.Folder)}
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
		Prompt: autocert.AcceptTOS, Cache: cache, HostPolicy: autocert.HostWhitelist(o.Domains...),
		Client: client, Email: o.Email,
	}}, nil
}

// folderCache is a folder for the files of autocert. They belong to the owner of the folder, also if
// root runs the program (see internal/durable).
type folderCache struct{ autocert.DirCache }

// Put creates or replaces the file of a name, as DirCache does.
func (c folderCache) Put(_ context.Context, name string, data []byte) error {
	return durable.WriteFile(filepath.Join(string(c.DirCache), filepath.Clean("/"+name)), string(data))
}

// ReadRoots returns the certificates in a PEM file. It returns an error if the file contains none.
func ReadRoots(file string) (*x509.CertPool, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(data) {
		return nil, fmt.Errorf("%s contains no certificate in PEM form", file)
	}
	return roots, nil
}

// Get returns the certificate for the domain that a client has requested. Use it as GetCertificate
// of tls.Config. If there is no certificate yet, Get waits until the authority has issued one. After
// a failure, Get returns the same error without an attempt until the pause is over.
func (i *Issuer) Get(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	name := strings.ToLower(strings.TrimSuffix(hello.ServerName, "."))
	if !slices.Contains(i.o.Domains, name) || slices.Contains(hello.SupportedProtos, acme.ALPNProto) {
		// The manager refuses the name or answers the authority's challenge.
		return i.manager.GetCertificate(hello)
	}
	now := i.o.Clock.Now()
	i.mu.Lock()
	last, ok := i.failed[name]
	i.mu.Unlock()
	if ok && now.Before(last.until) {
		return nil, last.err
	}
	cert, err := i.manager.GetCertificate(hello)
	if !errors.Is(err, ErrElsewhere) {
		i.note(name, err)
	}
	return cert, err
}

// note records the result of an attempt to obtain a certificate for domain. err is nil if the attempt
// succeeded. note logs a failure.
func (i *Issuer) note(domain string, err error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	last, ok := i.failed[domain]
	if err == nil {
		delete(i.failed, domain)
		return
	}
	now := i.o.Clock.Now()
	if ok && now.Before(last.until) {
		return // several callers waited for this attempt, and another caller has recorded it
	}
	pause := min(max(2*last.pause, leastPause), longestPause)
	i.failed[domain] = failedIssue{err: err, pause: pause, until: now.Add(pause)}
	i.o.Log.Error("certificate not obtained by ACME; check that the authority can reach this server under the domain", "domain", domain, "error", err, "again_in", pause.String())
}

// Run obtains a certificate for every domain, so that the first client of a domain does not have to
// wait. It tries again until every domain has a certificate or ctx ends. Certificates are renewed
// even when Run has returned.
func (i *Issuer) Run(ctx context.Context) {
	for {
		err := i.obtain(ctx)
		if err == nil {
			return
		}
		pause := leastPause
		if errors.Is(err, ErrElsewhere) {
			pause = elsewherePause
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// obtain makes one attempt for each domain. It returns the errors of all attempts, joined.
func (i *Issuer) obtain(ctx context.Context) (err error) {
	for _, domain := range i.o.Domains {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		// This cipher suite makes autocert obtain an ECDSA certificate, which all current clients
		// accept.
		hello := &tls.ClientHelloInfo{ServerName: domain, CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256}}
		_, failed := i.Get(hello)
		err = errors.Join(err, failed)
	}
	return err
}

// Handler returns a handler that answers the authority's HTTP challenges (RFC 8555 section 8.3), and
// any other request with 404. It does not redirect clients to HTTPS, because then nobody would
// notice that a client sends its key in plaintext first.
func (i *Issuer) Handler() http.Handler {
	answers := i.manager.HTTPHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "This port is only for obtaining certificates. Use https.", http.StatusNotFound)
	}))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// A test authority uses a port other than 80.
		if host, _, err := net.SplitHostPort(r.Host); err == nil {
			r.Host = host
		}
		answers.ServeHTTP(w, r)
	})
}
