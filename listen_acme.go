package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/acme/autocert"

	"latchkey/internal/certs"
	"latchkey/internal/clock"
)

// acmeBucket has the files of autocert in the store of a cluster: certificates with their keys, the key of the account, and answers to
// challenges of the authority. The key of each is the SHA-256 of its name, which may come from a request. The contents are encrypted by
// Peppers.Encrypt and bound to the key.
const acmeBucket = "acme_files"

// acmePurpose is the purpose that Peppers.Encrypt and Peppers.Decrypt bind the files to.
const acmePurpose = "acme file"

// SharedACME keeps the certificates of a cluster in its store, so that all nodes have the same and any node can answer the challenge
// of another one. It implements autocert.Cache and is safe for concurrent use.
type SharedACME struct {
	Store   *Store
	Peppers Peppers
	// Folder is where this server kept its certificates before it was a node. What the store lacks is taken from there.
	Folder string
	Turn   func() bool // reports whether this node obtains what all lack, see maxACMEWait
	Clock  *clock.Clock

	mu    sync.Mutex
	since map[string]time.Time // when this node first waited for a certificate
}

// maxACMEWait is for how long a node leaves it to another one to obtain a certificate that all lack. The other may be unable to.
const maxACMEWait = 10 * time.Minute

// acmeKey returns the key of a file.
func acmeKey(name string) []byte {
	sum := sha256.Sum256([]byte(name))
	return sum[:]
}

// isChallenge reports whether a file is the answer to a challenge.
func isChallenge(name string) bool {
	return strings.HasSuffix(name, "+token") || strings.HasSuffix(name, "+http-01")
}

// isAccount reports whether a file is the key of the account at the authority.
func isAccount(name string) bool { return strings.HasPrefix(name, "acme_account") }

// Get returns a file. For a certificate that all nodes lack it returns certs.ErrElsewhere if another node obtains it.
func (c *SharedACME) Get(ctx context.Context, name string) (data []byte, err error) {
	key := acmeKey(name)
	err = c.Store.View(func(tx *Tx) (err error) {
		data, err = tx.Get(acmeBucket, key)
		return err
	})
	switch {
	case err != nil:
		return nil, err
	case data != nil:
		text, err := c.Peppers.Decrypt(acmePurpose, key, data)
		return []byte(text), err
	case isChallenge(name):
		return nil, autocert.ErrCacheMiss
	}
	if data, err := c.adopt(ctx, name); err != nil || data != nil {
		return data, err
	}
	// A certificate without elliptic curves is obtained for the client that needs it, by the node that it has asked.
	if isAccount(name) || strings.HasSuffix(name, "+rsa") || c.Turn() || !c.waits(name) {
		return nil, autocert.ErrCacheMiss
	}
	return nil, certs.ErrElsewhere
}

// waits reports whether this node leaves it to another one to obtain a certificate.
func (c *SharedACME) waits(name string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.since == nil {
		c.since = map[string]time.Time{}
	}
	now := c.Clock.Steady(c.Clock.Now())
	if c.since[name].IsZero() {
		c.since[name] = now
	}
	return now.Sub(c.since[name]) < maxACMEWait
}

// adopt moves a file from Folder to the store, and returns its contents. It returns nil if there is none.
func (c *SharedACME) adopt(ctx context.Context, name string) ([]byte, error) {
	data, err := autocert.DirCache(c.Folder).Get(ctx, name)
	if errors.Is(err, autocert.ErrCacheMiss) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return data, c.put(name, data)
}

// Put stores a file. It returns once all nodes have it, so that the authority may ask any of them.
func (c *SharedACME) Put(_ context.Context, name string, data []byte) error { return c.put(name, data) }

func (c *SharedACME) put(name string, data []byte) error {
	key := acmeKey(name)
	sealed, err := c.Peppers.Encrypt(acmePurpose, key, string(data))
	if err != nil {
		return err
	}
	return c.Store.Update(func(tx *Tx) error {
		tx.Secure() // waits for the other nodes
		return tx.Put(acmeBucket, key, sealed)
	})
}

// Delete deletes a file.
func (c *SharedACME) Delete(_ context.Context, name string) error {
	return c.Store.Update(func(tx *Tx) error { return tx.Delete(acmeBucket, acmeKey(name)) })
}
