package main

import (
	"fmt"
	"net"
	"net/netip"
)

// DoorTLS is how a door gets its certificate.
type DoorTLS struct {
	ACME              bool // from an authority, else from the files
	CertFile, KeyFile string
}

// On says whether the door speaks TLS at all.
func (t DoorTLS) On() bool { return t.ACME || t.CertFile != "" }

// Missing gives the key of a section of the config that asks for TLS where
// something is missing for it, and what that is. The key is "" where all is
// there. The rest is as in the section acme.
func (t DoorTLS) Missing(section string, domains []string, accepted bool, directory string) (key, problem string) {
	switch {
	case t.ACME && len(domains) == 0:
		return section + ".tls", fmt.Sprintf(`%s.tls is "acme" and acme.domains is empty; name there what clients call this server`, section)
	case t.ACME && !accepted:
		return section + ".tls", fmt.Sprintf(`%s.tls is "acme", which needs your agreement to the terms of the authority at %s; read them and set acme.accept_terms = true`, section, directory)
	case !t.ACME && t.CertFile == "" && t.KeyFile != "":
		return section + ".tls_key_file", fmt.Sprintf("%s.tls_key_file needs %[1]s.tls_cert_file beside it", section)
	case !t.ACME && t.CertFile != "" && t.KeyFile == "":
		return section + ".tls_cert_file", fmt.Sprintf("%s.tls_cert_file needs %[1]s.tls_key_file beside it", section)
	}
	return "", ""
}

// IsLocalAddress tells whether host:port is reachable from this machine alone.
func IsLocalAddress(listen string) bool {
	host, _, _ := net.SplitHostPort(listen)
	ip, _ := netip.ParseAddr(host)
	return host == "localhost" || ip.IsLoopback()
}
