package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"latchkey/internal/certs"
	"latchkey/internal/clock"
)

// ConfigCheck is a check of a configuration that LoadConfig has returned, against the files and
// folders that it names and the endpoints of the service. It is the same for serve, for a reload and
// for "latchkey config check", so that a configuration that the last accepts can be used.
type ConfigCheck struct {
	Config  Config
	Sources Sources
	Pepper  string // the pepper itself; "" if it is in a file
	Now     time.Time
	// WayIn reports whether an admin has logged in without a password before, see WayIn. It is called
	// only if the configuration allows no passwords.
	WayIn func() (bool, error)

	problems, warnings []string
}

// Run makes the check. It changes no file. warnings are texts about values that are probably
// mistakes. The error lists all problems in the form of LoadConfig. Call Run once.
func (k *ConfigCheck) Run() (warnings []string, err error) {
	c := k.Config
	k.warnings = c.Warnings()
	k.certificate("server", c.ServerTLS(), c.Server.BaseURL)
	k.certificate("admin", c.AdminTLS(), c.Admin.BaseURL)
	if c.ACME.CAFile != "" {
		_, err := certs.ReadRoots(c.ACME.CAFile)
		k.fail("acme.ca_file", err)
	}
	k.fail("server.data", CheckFolder(c.Server.Data))
	if c.Backup.Dir != "" {
		k.fail("backup.dir", CheckFolder(c.Backup.Dir))
	}
	k.fail("cluster.endpoints", CheckCluster(c.Cluster))
	k.peppers()
	k.otherUser()
	k.mail()
	k.routes()
	k.logins()
	slices.Sort(k.problems)
	if k.problems != nil {
		err = errors.New(strings.Join(k.problems, "\n"))
	}
	return k.warnings, err
}

// fail records each line of err as a problem of the setting key, unless err is nil.
func (k *ConfigCheck) fail(key string, err error) {
	if err == nil {
		return
	}
	if errors.Is(err, os.ErrPermission) && !strings.Contains(err.Error(), AskAsOwner) {
		err = fmt.Errorf("%w; %s", err, AskAsOwner)
	}
	for line := range strings.SplitSeq(err.Error(), "\n") {
		k.problems = append(k.problems, fmt.Sprintf("%s: %s: %s", k.Sources[key], key, line))
	}
}

// peppers checks that the peppers can be loaded.
func (k *ConfigCheck) peppers() {
	from, key := PeppersOf(k.Config, k.Pepper), "keys.pepper_file"
	err := CheckPeppers(k.Config.Server.Data, from)
	if from.Retired = nil; CheckPeppers(k.Config.Server.Data, from) == nil {
		key = "keys.retired_pepper_files"
	}
	k.fail(key, err)
}

// otherUser warns about files that root can use, but not the user of the service, to whom the data folder belongs.
func (k *ConfigCheck) otherUser() {
	c := k.Config
	data, err := os.Stat(c.Server.Data)
	if err != nil {
		return
	}
	for _, use := range []struct {
		key, path string
		writes    bool
	}{
		{"backup.dir", c.Backup.Dir, true},
		{"server.tls_cert_file", c.Server.TLSCertFile, false},
		{"server.tls_key_file", c.Server.TLSKeyFile, false},
		{"admin.tls_cert_file", c.Admin.TLSCertFile, false},
		{"admin.tls_key_file", c.Admin.TLSKeyFile, false},
		{"admin.oidc.client_secret_file", c.Admin.OIDC.ClientSecretFile, false},
		{"acme.ca_file", c.ACME.CAFile, false},
		{"mail.password_file", c.Mail.PasswordFile, false},
		{"mail.ca_file", c.Mail.CAFile, false},
	} {
		if use.path == "" || strings.HasPrefix(use.path, "/run/credentials/") || UsableByOwner(data, use.path, use.writes) {
			continue
		}
		fix := "let the user of the service read it, or pass it with LoadCredential= of systemd, see docs/install.md"
		if use.writes {
			fix = fmt.Sprintf("let the user of the service write there, or use %s", filepath.Join(c.Server.Data, "backups"))
		}
		k.warnings = append(k.warnings, fmt.Sprintf("%s: the data folder belongs to another user, who cannot use %s; %s", use.key, use.path, fix))
	}
}

// certificate checks that the certificate and the key of a listener can be used together. It warns
// if clients will refuse the certificate, because of its dates or because it is not for baseURL.
func (k *ConfigCheck) certificate(section string, t ListenerTLS, baseURL string) {
	if t.ACME || t.CertFile == "" {
		return
	}
	pair, err := certs.OpenCertificates(t.CertFile, t.KeyFile, k.Now, slog.New(slog.DiscardHandler))
	if err != nil {
		k.fail(TLSSetting(section, err), err)
		return
	}
	cert, _ := pair.Get(nil)
	warn := func(format string, args ...any) {
		k.warnings = append(k.warnings, fmt.Sprintf("%s.tls_cert_file: %s", section, fmt.Sprintf(format, args...)))
	}
	if info, err := os.Stat(t.KeyFile); err == nil && runtime.GOOS != "windows" && info.Mode().Perm()&0o004 != 0 {
		k.warnings = append(k.warnings, fmt.Sprintf("%s.tls_key_file: every user of this machine can read %s (mode %04o); take that away with chmod o-rwx", section, t.KeyFile, info.Mode().Perm()))
	}
	if leaf := cert.Leaf; k.Now.Before(leaf.NotBefore) || k.Now.After(leaf.NotAfter) {
		warn("the certificate is valid from %s to %s only, so clients refuse it now", leaf.NotBefore.Format(time.RFC3339), leaf.NotAfter.Format(time.RFC3339))
	}
	if u, err := url.Parse(baseURL); err == nil && u.Scheme == "https" {
		if err := cert.Leaf.VerifyHostname(u.Hostname()); err != nil {
			warn("the certificate is not for the host of %s.base_url: %v", section, err)
		}
	}
}

// mail checks the files for mails.
func (k *ConfigCheck) mail() {
	_, err := MailPassword(k.Config)
	k.fail("mail.password_file", err)
	if k.Config.Mail.CAFile != "" {
		_, err := certs.ReadRoots(k.Config.Mail.CAFile)
		k.fail("mail.ca_file", err)
	}
}

// MailPassword returns the password at the mail server, "" if there is none.
func MailPassword(c Config) (string, error) {
	return SecretSetting{"mail.password", c.Mail.Password, c.Mail.PasswordFile}.Read()
}

// logins checks the secret of single sign-on, and that operators can log in at all.
func (k *ConfigCheck) logins() {
	_, err := ProviderOf(k.Config).ReadSecret()
	k.fail("admin.oidc.client_secret_file", err)
	if k.Config.Admin.PasswordLogin {
		return
	}
	found, err := k.WayIn()
	if err == nil && !found {
		err = errors.New("false would lock everybody out, because no operator with the role admin has logged in without a password yet; " +
			"start with true, log in as an admin by single sign-on, and then set it to false")
	}
	k.fail("admin.password_login", err)
}

// HasWayIn reports whether an admin has logged in without a password before, see WayIn. It reads the
// database, which no server may have open. pepper is the pepper itself, or "".
func HasWayIn(c Config, pepper string) (found bool, err error) {
	load := func() (Peppers, error) { return PeppersOf(c, pepper).Load(c.Server.Data) }
	err = ViewFolder(c.Server.Data, load, func(tx *Tx) error {
		found, err = WayIn(tx, c.Admin.OIDC.Issuer)
		return err
	})
	return found, err
}

// routes checks that no guarded route has a path of an endpoint of the service.
func (k *ConfigCheck) routes() {
	if len(k.Config.Routes) == 0 {
		return
	}
	own, err := ownEndpoints(k.Config)
	if err != nil {
		k.fail("route", err)
		return
	}
	rights := k.Config.Rights()
	list, _ := ReadProxyRoutes(k.Config.Routes, rights) // LoadConfig has checked them
	_, err = NewProxyRoutes(func() []string { return own }, nil).Make(list, rights)
	if err == nil {
		return
	}
	for line := range strings.SplitSeq(err.Error(), "\n") {
		k.problems = append(k.problems, k.Sources["route"]+": "+line)
	}
}

// ownEndpoints returns the method and path of each endpoint of the API listener. It creates the
// parts of the service for that, but opens no data folder.
func ownEndpoints(c Config) ([]string, error) {
	c.Routes = nil
	a := &App{
		config: c, cluster: alone{}, Store: &Store{}, folder: &DataDir{Path: c.Server.Data}, clock: clock.NewClock(), log: slog.New(slog.DiscardHandler),
		Keyring: NewEmptyKeyring(KeyringOptions{Prefix: c.Keys.Prefix, Policy: c.Rights(), Cache: 1}),
	}
	if err := a.connect(); err != nil {
		return nil, err
	}
	return a.Server.Own(), nil
}

// PasskeyHosts returns how many passkeys are in the database of a data folder, for each host name that
// they were made for. It returns an error if a server has the database open.
func PasskeyHosts(data string) (hosts map[string]int, err error) {
	f, err := OpenFile((&DataDir{Path: data}).Database(), ReadOnly)
	if err != nil {
		return nil, err
	}
	err = f.View(func(tx *Tx) error {
		hosts, err = StoredPasskeys(tx)
		return err
	})
	return hosts, errors.Join(err, f.Close())
}
