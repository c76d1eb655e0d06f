package etcd

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

const (
	dialTime    = 3 * time.Second // timeout for a connection, with its TLS handshake
	minVersion  = "3.4"           // oldest version of etcd
	probeRanges = 4100            // reads in a transaction that etcd accepts only if it accepts the largest Sets as well
)

// ErrUnreachable means that none of the etcd servers can be reached now.
var ErrUnreachable = errors.New("none of the etcd servers in cluster.endpoints can be reached")

// checkEndpoints checks the list of the URLs.
func (o *Options) checkEndpoints() error {
	if len(o.Endpoints) == 0 {
		return errors.New("cluster.endpoints is empty: list the client URLs of the etcd servers, such as https://10.0.0.1:2379")
	}
	scheme := ""
	for i, text := range o.Endpoints {
		u, err := url.Parse(text)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.Port() == "" || u.User != nil ||
			strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
			return fmt.Errorf("cluster.endpoints: %q is not the client URL of an etcd server, such as https://10.0.0.1:2379", text)
		}
		if u.Scheme == "http" && !loopback(u.Hostname()) {
			return fmt.Errorf("cluster.endpoints: %s would send all records over the network unencrypted: start etcd with --cert-file and --key-file, "+
				"and write https:// (http:// is possible only on loopback addresses)", text)
		}
		if scheme != "" && u.Scheme != scheme {
			return fmt.Errorf("cluster.endpoints: %s and %s have different schemes: write https:// for all, or http:// for all", o.Endpoints[0], text)
		}
		if slices.Contains(o.Endpoints[:i], text) {
			return fmt.Errorf("cluster.endpoints: %s appears twice", text)
		}
		scheme = u.Scheme
	}
	return nil
}

// loopback reports whether a host is this machine, whatever its network is.
func loopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.IsLoopback() || host == "localhost"
}

// security returns the settings of TLS, or nil for http URLs.
func (o *Options) security() (*tls.Config, error) {
	if strings.HasPrefix(o.Endpoints[0], "http:") {
		if o.CAFile != "" || o.CertFile != "" || o.KeyFile != "" {
			return nil, errors.New("cluster.endpoints: the URLs begin with http://, so that cluster.ca_file, cluster.cert_file and cluster.key_file are not used: " +
				"write https://, or remove the files")
		}
		return nil, nil
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if o.CAFile != "" {
		roots, err := authorities(o.CAFile)
		if err != nil {
			return nil, err
		}
		config.RootCAs = roots
	}
	if o.CertFile == "" && o.KeyFile == "" {
		return config, nil
	}
	if _, err := o.certificate(time.Now()); err != nil {
		return nil, err
	}
	config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		return o.certificate(time.Now()) // read each time, so that a renewed one is used without a restart
	}
	return config, nil
}

// authorities reads a PEM file of certificates.
func authorities(file string) (*x509.CertPool, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("cluster.ca_file: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("cluster.ca_file: %s has no certificate in PEM", file)
	}
	return roots, nil
}

// certificate reads the certificate of this node and its key, and checks that they can be used at a time.
func (o *Options) certificate(now time.Time) (*tls.Certificate, error) {
	if o.CertFile == "" || o.KeyFile == "" {
		return nil, errors.New("cluster.cert_file and cluster.key_file belong together: set both")
	}
	cert, err := os.ReadFile(o.CertFile)
	if err != nil {
		return nil, fmt.Errorf("cluster.cert_file: %w", err)
	}
	key, err := os.ReadFile(o.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("cluster.key_file: %w", err)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("cluster.cert_file and cluster.key_file: %s and %s are not a certificate and its key in PEM: %w", o.CertFile, o.KeyFile, err)
	}
	const shown = "2006-01-02 15:04:05 MST"
	switch leaf := pair.Leaf; {
	case now.Before(leaf.NotBefore):
		return nil, fmt.Errorf("cluster.cert_file: the certificate is valid only from %s on: check the clock of this machine", leaf.NotBefore.Format(shown))
	case now.After(leaf.NotAfter):
		return nil, fmt.Errorf("cluster.cert_file: the certificate expired at %s: replace it and its key", leaf.NotAfter.Format(shown))
	case len(leaf.ExtKeyUsage) > 0 && !slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageClientAuth) && !slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageAny):
		return nil, errors.New("cluster.cert_file: the certificate is not for clients: issue one with the extended key usage clientAuth")
	}
	return &pair, nil
}

// probe checks that the servers can be reached and are set up as Latchkey needs them. Servers that cannot be reached are allowed
// as long as there are others.
func (o *Options) probe(ctx context.Context, config clientv3.Config) error {
	errs := make([]error, len(o.Endpoints))
	var probing sync.WaitGroup
	for i, endpoint := range o.Endpoints {
		probing.Go(func() {
			one := config
			one.Endpoints = []string{endpoint}
			errs[i] = probeServer(ctx, one)
		})
	}
	probing.Wait()
	var reasons []string
	reached, temporary := false, true
	for i, err := range errs {
		var unset settingError
		switch {
		case err == nil:
			reached = true
		case errors.As(err, &unset) && unset.always:
			return fmt.Errorf("%s: %w", o.Endpoints[i], err)
		default:
			temporary = temporary && !errors.As(err, &unset)
			reasons = append(reasons, fmt.Sprintf("%s: %v", o.Endpoints[i], err))
		}
	}
	switch all := strings.Join(reasons, "; "); {
	case reached:
		for _, reason := range reasons {
			o.Log.Warn("an etcd server cannot be used now", "reason", reason)
		}
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("%w: %s (%w)", ErrUnreachable, all, ctx.Err())
	case temporary:
		return fmt.Errorf("%w: %s", ErrUnreachable, all)
	default:
		return fmt.Errorf("cluster.endpoints: no etcd server can be used: %s", all)
	}
}

// settingError is a reason that does not end without a change of the settings.
type settingError struct {
	error
	always bool // it is an error even if other servers can be used
}

// Unwrap returns the reason itself.
func (s settingError) Unwrap() error { return s.error }

// probeServer checks one server.
func probeServer(ctx context.Context, config clientv3.Config) error {
	ctx, cancel := context.WithTimeout(ctx, 2*dialTime)
	defer cancel()
	address := host(config.Endpoints[0])
	if err := greet(ctx, address, config.TLS); err != nil {
		return tlsError(err, address)
	}
	client, err := clientv3.New(config)
	if err != nil {
		return err
	}
	defer func() { _ = client.Close() }()
	status, err := client.Status(ctx, config.Endpoints[0])
	if err != nil {
		if refused := explain(err); refused != nil {
			return settingError{refused, true}
		}
		return unreachable(err)
	}
	if older(status.Version, minVersion) {
		return settingError{fmt.Errorf("this is etcd %s, and Latchkey needs %s or later", status.Version, minVersion), true}
	}
	if slices.ContainsFunc(status.Errors, func(text string) bool { return strings.Contains(text, "NOSPACE") }) {
		return settingError{explain(rpctypes.ErrNoSpace), true}
	}
	ranges := slices.Repeat([]clientv3.Op{clientv3.OpGet("lk/none", clientv3.WithCountOnly(), clientv3.WithSerializable())}, probeRanges)
	if _, err := client.Txn(ctx).Then(ranges...).Commit(); err != nil {
		if refused := explain(err); refused != nil {
			return settingError{refused, true}
		}
		return unreachable(err)
	}
	return nil
}

// older reports whether a version is before another one, by its first two numbers.
func older(version, than string) bool {
	numbers := func(text string) (n [2]int) {
		for i, part := range strings.SplitN(text, ".", 3)[:min(2, strings.Count(text, ".")+1)] {
			n[i], _ = strconv.Atoi(part)
		}
		return n
	}
	v, t := numbers(version), numbers(than)
	return slices.Compare(v[:], t[:]) < 0
}

// greet connects to a server as a client of HTTP/2 does, until the server has answered: only then it has seen the certificate of this node.
func greet(ctx context.Context, address string, config *tls.Config) error {
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		return err
	}
	if config != nil {
		config = config.Clone()
		config.ServerName, _, _ = net.SplitHostPort(address)
		config.NextProtos = []string{"h2"}
		conn = tls.Client(conn, config)
	}
	if _, err := io.WriteString(conn, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"); err != nil { // with empty settings
		return err
	}
	_, err = io.ReadFull(conn, make([]byte, 9)) // the header of the server's settings
	return err
}

// tlsError says what to do about an error of greet.
func tlsError(err error, address string) error {
	var alert *net.OpError
	var authority x509.UnknownAuthorityError
	var name x509.HostnameError
	var invalid x509.CertificateInvalidError
	var record tls.RecordHeaderError
	switch {
	case errors.As(err, &alert) && alert.Op == "remote error": // as crypto/tls names what the other side says
		return settingError{fmt.Errorf("etcd refuses the certificate of this node: cluster.cert_file must have one that etcd's --trusted-ca-file has signed (%w)", err), false}
	case errors.As(err, &authority):
		return settingError{fmt.Errorf("its certificate is not signed by an authority in cluster.ca_file (%w)", err), false}
	case errors.As(err, &name):
		return settingError{fmt.Errorf("its certificate is for other names: cluster.endpoints must have a name that it contains (%w)", err), false}
	case errors.As(err, &invalid):
		return settingError{fmt.Errorf("its certificate is not valid (%w)", err), false}
	case errors.As(err, &record):
		return settingError{fmt.Errorf("%s does not speak TLS: write http://, or start etcd with --cert-file and --key-file", address), false}
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("%s closes connections: check that etcd listens there, and whether the URL should begin with https:// (%w)", address, err)
	default:
		return err
	}
}
