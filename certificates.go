package main

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"
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
