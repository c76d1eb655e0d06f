package program

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"
)

// EtcdFiles are the files of a client.
type EtcdFiles struct{ CA, Cert, Key string }

// EtcdAuthority issues certificates for etcd servers and their clients.
type EtcdAuthority struct {
	File string // the PEM file of its certificate

	t      testing.TB
	cert   *x509.Certificate
	key    *ecdsa.PrivateKey
	serial atomic.Int64
}

// NewEtcdAuthority returns a new authority. Its certificate expires in an hour.
func NewEtcdAuthority(t testing.TB) *EtcdAuthority {
	t.Helper()
	a := &EtcdAuthority{t: t, File: filepath.Join(t.TempDir(), "ca.pem")}
	der, key := a.sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: "Test authority " + rand.Text()}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	})
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	a.cert, a.key = cert, key
	a.write(a.File, "CERTIFICATE", der)
	return a
}

// IssueEtcd says which certificate to issue. Zero values mean one for servers and clients at localhost that is valid now.
type IssueEtcd struct {
	From, Until time.Time
	Usage       []x509.ExtKeyUsage
	Names       []string // of servers
}

// Issue creates a certificate and its key, and returns the files of a client with them.
func (a *EtcdAuthority) Issue(o IssueEtcd) EtcdFiles {
	a.t.Helper()
	if o.From.IsZero() {
		o.From = time.Now().Add(-time.Hour)
	}
	if o.Until.IsZero() {
		o.Until = time.Now().Add(time.Hour)
	}
	if o.Usage == nil {
		o.Usage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	}
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: "latchkey"}, NotBefore: o.From, NotAfter: o.Until, ExtKeyUsage: o.Usage, DNSNames: o.Names,
	}
	if o.Names == nil {
		template.DNSNames, template.IPAddresses = []string{"localhost"}, []net.IP{net.IPv4(127, 0, 0, 1)}
	}
	der, key := a.sign(template)
	pkcs, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	dir := a.t.TempDir()
	f := EtcdFiles{CA: a.File, Cert: filepath.Join(dir, "cert.pem"), Key: filepath.Join(dir, "key.pem")}
	a.write(f.Cert, "CERTIFICATE", der)
	a.write(f.Key, "PRIVATE KEY", pkcs)
	return f
}

// sign creates a key and a certificate for it in DER. Before the authority has a certificate, the key signs its own.
func (a *EtcdAuthority) sign(template *x509.Certificate) ([]byte, *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template.SerialNumber = big.NewInt(a.serial.Add(1))
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		a.t.Fatal(err)
	}
	return der, key
}

// write writes a PEM file.
func (a *EtcdAuthority) write(file, kind string, der []byte) {
	a.t.Helper()
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		a.t.Fatal(err)
	}
}
