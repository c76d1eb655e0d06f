package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/acme/autocert"

	"latchkey/internal/certs"
	"latchkey/internal/certs/certstest"
	"latchkey/internal/clock"
	"latchkey/internal/cluster/fake"
)

// acmeNode returns the certificates of a node.
func acmeNode(t *testing.T, log *fake.Log, name string, turn func() bool) *SharedACME {
	return &SharedACME{Store: newTestNode(t, log, name, fake.Faults{}).Store, Peppers: testPeppers, Folder: t.TempDir(), Turn: turn, Clock: clock.NewClock()}
}

// yes and no are SharedACME.Turn.
func yes() bool { return true }
func no() bool  { return false }

// TestSharedACME_nodes has an authority that asks another node than the one that orders. All nodes serve the same certificate, for
// which there was one order, also one that starts later.
func TestSharedACME_nodes(t *testing.T) {
	for _, kind := range []string{"by TLS", "by HTTP"} {
		t.Run(kind, func(t *testing.T) {
			log := fake.New(1, 0)
			first, _ := listenHere(t)
			second, secondPort := listenHere(t)
			plain, plainPort := listenHere(t)
			other, _ := listenHere(t)
			sockets := []map[string][]net.Listener{{"api": {first}}, {"api": {second}}}
			authority, want := startACME(t, 1, secondPort), 1
			if kind == "by HTTP" {
				authority, want = startACME(t, plainPort, 1), 2 // the challenge by TLS comes first, and fails
				sockets[0]["acme"], sockets[1]["acme"] = []net.Listener{other}, []net.Listener{plain}
			} else {
				_, _ = plain.Close(), other.Close()
			}
			start := func(name string, turn func() bool, sockets map[string][]net.Listener) (*Listeners, *SharedACME) {
				shared := acmeNode(t, log, name, turn)
				sameViews(t, log, shared.Store) // before, a node does not serve, and is not the first
				return openDoors(t, func(o *ListenerOptions) {
					c := &o.Config.ACME
					o.Config.Server.TLS, c.Domains, c.AcceptTerms = "acme", []string{acmeDomain}, true
					c.Directory, c.CAFile, o.Sockets, o.ACME = authority.directory, authority.caFile, sockets, shared
				}), shared
			}
			serial := func(d *Listeners) string {
				client := certstest.Client(t, authority.roots, func(c *tls.Config) { c.ServerName = acmeDomain })
				for end := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
					r, err := client.Get("https://" + d.API().String())
					if err == nil {
						_ = r.Body.Close()
						return r.TLS.PeerCertificates[0].SerialNumber.String()
					}
					if time.Now().After(end) {
						t.Fatal(err)
					}
				}
			}
			b, cacheB := start("b", no, sockets[1])
			a, cacheA := start("a", yes, sockets[0])
			if serialA, serialB := serial(a), serial(b); serialA != serialB {
				t.Errorf("the nodes serve the certificates %s and %s", serialA, serialB)
			}
			late, _ := listenHere(t)
			c, _ := start("c", yes, map[string][]net.Listener{"api": {late}})
			if serial(c) != serial(a) {
				t.Error("a node that starts later has another certificate")
			}
			if got := authority.orders.of("/order-plz"); got != want {
				t.Errorf("got %d orders, want %d: %s", got, want, authority.orders.paths.String())
			}
			for _, name := range []string{acmeDomain, "acme_account+key"} {
				x, err1 := cacheA.Get(t.Context(), name)
				y, err2 := cacheB.Get(t.Context(), name)
				if err := errors.Join(err1, err2); err != nil || !bytes.Equal(x, y) || !bytes.Contains(x, []byte("PRIVATE KEY")) {
					t.Errorf("%s: got %v, the same on both: %t", name, err, bytes.Equal(x, y))
				}
			}
			raw, err := os.ReadFile(cacheB.Store.path)
			if err != nil || bytes.Contains(raw, []byte("PRIVATE KEY")) || bytes.Contains(raw, []byte(acmeDomain)) {
				t.Errorf("the database shows what it keeps encrypted: %v", err)
			}
		})
	}
}

// TestSharedACME_order finds out which node obtains what all lack, and that the certificates of a server that was alone stay in use.
func TestSharedACME_order(t *testing.T) {
	log := fake.New(1, 0)
	var turn atomic.Bool
	now := clock.Reading{Wall: epoch, Boot: time.Hour, BootID: "one"}
	c := acmeNode(t, log, "a", turn.Load)
	c.Clock = clock.NewClockFrom(func() clock.Reading { return now })
	ctx := context.Background()
	want := func(what, name, data string, wanted error) {
		t.Helper()
		if got, err := c.Get(ctx, name); string(got) != data || !errors.Is(err, wanted) {
			t.Errorf("%s: got %q, %v; want %q, %v", what, got, err, data, wanted)
		}
	}
	want("not the first node", acmeDomain, "", certs.ErrElsewhere)
	want("the key of the account", "acme_account+key", "", autocert.ErrCacheMiss)
	want("the key of the account, by its earlier name", "acme_account.key", "", autocert.ErrCacheMiss)
	want("a certificate that a client asks this node for", acmeDomain+"+rsa", "", autocert.ErrCacheMiss)
	want("a challenge", acmeDomain+"+token", "", autocert.ErrCacheMiss)
	want("a long path", string(bytes.Repeat([]byte("x"), 100_000))+"+http-01", "", autocert.ErrCacheMiss)
	turn.Store(true)
	want("the first node", acmeDomain, "", autocert.ErrCacheMiss)
	turn.Store(false)
	now.Wall, now.Boot = now.Wall.Add(maxACMEWait-time.Second), now.Boot+maxACMEWait-time.Second
	want("the first node tries", acmeDomain, "", certs.ErrElsewhere)
	now.Wall, now.Boot = now.Wall.Add(time.Second), now.Boot+time.Second
	want("the first node does not get it", acmeDomain, "", autocert.ErrCacheMiss)

	// What this server had before it was a node is used by all.
	for name, data := range map[string]string{acmeDomain: "certificate", "acme_account+key": "key", acmeDomain + "+token": "old"} {
		if err := os.WriteFile(filepath.Join(c.Folder, name), []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want("a file of before", acmeDomain, "certificate", nil)
	want("the account of before", "acme_account+key", "key", nil)
	want("an answer of before", acmeDomain+"+token", "", autocert.ErrCacheMiss)
	other := acmeNode(t, log, "b", no)
	sameViews(t, log, c.Store, other.Store)
	if got, err := other.Get(ctx, acmeDomain); err != nil || string(got) != "certificate" {
		t.Errorf("another node: got %q, %v", got, err)
	}
	if err := errors.Join(c.Put(ctx, acmeDomain, []byte("renewed")), c.Delete(ctx, "nothing"), c.Put(ctx, "x+token", nil), c.Delete(ctx, "x+token")); err != nil {
		t.Fatal(err)
	}
	want("a new certificate", acmeDomain, "renewed", nil)
	other.Peppers = Peppers{list: [][]byte{slices.Repeat([]byte("x"), pepperSize)}}
	if got, err := other.Get(ctx, acmeDomain); err == nil || len(got) > 0 {
		t.Errorf("under another pepper: got %q, %v", got, err)
	}
}
