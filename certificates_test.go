package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// authority is a certificate authority of a test's own.
type authority struct {
	t      testing.TB
	cert   *x509.Certificate
	key    *ecdsa.PrivateKey
	serial int64
	file   string // its certificate as PEM
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	a := &authority{t: t, file: filepath.Join(t.TempDir(), "ca.pem")}
	der := a.sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: "Test authority"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}, &a.key)
	var err error
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	writePEM(t, a.file, "CERTIFICATE", der)
	return a
}

// sign makes a key and a certificate of it, signed by the authority, or by the
// key itself where the authority has none yet.
func (a *authority) sign(template *x509.Certificate, into **ecdsa.PrivateKey) []byte {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	a.serial++
	template.SerialNumber = big.NewInt(a.serial)
	*into = key
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		a.t.Fatal(err)
	}
	return der
}

// issue puts a certificate for this machine and its key into two files, and
// gives the serial number.
func (a *authority) issue(certFile, keyFile string, until time.Time) int64 {
	a.t.Helper()
	var key *ecdsa.PrivateKey
	der := a.sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: "localhost"}, DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: until, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, &key)
	pkcs, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	writePEM(a.t, certFile, "CERTIFICATE", der)
	writePEM(a.t, keyFile, "PRIVATE KEY", pkcs)
	return a.serial
}

func writePEM(t testing.TB, file, kind string, der []byte) {
	t.Helper()
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}

func serialOf(t testing.TB, c *Certificates) int64 {
	t.Helper()
	cert, err := c.Get(nil)
	if err != nil {
		t.Fatal(err)
	}
	return cert.Leaf.SerialNumber.Int64()
}

func TestCertificates_Reload(t *testing.T) {
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	ca, log := newAuthority(t), &lockedBuffer{}
	first := ca.issue(cert, key, time.Now().Add(time.Hour))
	c, err := OpenCertificates(cert, key, time.Now(), slog.New(slog.NewJSONHandler(log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	read := func(file string) string {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	write := func(file, text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	oldKey := read(key)
	second := ca.issue(cert, key, time.Now().Add(time.Hour))
	newCert, newKey := read(cert), read(key)
	for _, step := range []struct {
		name    string
		do      func()
		changed bool
		want    string // in the error
		serial  int64
	}{
		{"the key is still the old one", func() { write(key, oldKey) }, false, "no usable pair", first},
		{"the same again is told once", func() {}, false, "", first},
		{"the certificate is half written", func() { write(cert, newCert[:len(newCert)/2]) }, false, "no usable pair", first},
		{"it is empty", func() { write(cert, "") }, false, "no usable pair", first},
		{"it is gone", func() { _ = os.Remove(cert) }, false, "read the certificate", first},
		{"still gone", func() {}, false, "", first},
		{"both are new", func() { write(cert, newCert); write(key, newKey) }, true, "", second},
		{"nothing changed", func() {}, false, "", second},
	} {
		step.do()
		changed, err := c.Reload(time.Now())
		if changed != step.changed || (err != nil) != (step.want != "") || err != nil && !strings.Contains(err.Error(), step.want) {
			t.Errorf("%s: got %v, %v; want %v and an error with %q", step.name, changed, err, step.changed, step.want)
		}
		if err != nil && strings.Contains(err.Error(), "PRIVATE") {
			t.Errorf("%s: the error shows the key", step.name)
		}
		if got := serialOf(t, c); got != step.serial {
			t.Errorf("%s: got certificate %d, want %d", step.name, got, step.serial)
		}
	}
	if got := log.String(); got != "" {
		t.Errorf("got log %q, want none", got)
	}
	ca.issue(cert, key, time.Now().Add(-time.Minute))
	if changed, err := c.Reload(time.Now()); !changed || err != nil || !strings.Contains(log.String(), "out of its time") {
		t.Errorf("one that is over: got %v, %v and log %q, want it used and told", changed, err, log)
	}
}

func TestOpenCertificates_bad(t *testing.T) {
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	ca := newAuthority(t)
	if _, err := OpenCertificates(cert, key, time.Now(), slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), cert) || !strings.Contains(err.Error(), key) {
		t.Errorf("no files: got %v, want both named", err)
	}
	ca.issue(cert, filepath.Join(dir, "other.key"), time.Now().Add(time.Hour))
	ca.issue(filepath.Join(dir, "other.crt"), key, time.Now().Add(time.Hour))
	if c, err := OpenCertificates(cert, key, time.Now(), slog.New(slog.DiscardHandler)); c != nil || err == nil || !strings.Contains(err.Error(), "as PEM") {
		t.Errorf("files of two pairs: got %v, %v; want an error that says what they must be", c, err)
	}
}
