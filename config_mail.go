package main

import (
	"net"
	"strconv"
	"strings"

	"latchkey/internal/smtpmail"
)

// MailConfig has the settings of mails to operators, see Mailer.
type MailConfig struct {
	Server       string   `toml:"server" example:"mail.example.com:587" check:"mailserver"` // "": no mails
	TLS          string   `toml:"tls" default:"auto" in:"auto,starttls,implicit"`
	CAFile       string   `toml:"ca_file" example:"/etc/latchkey/mail-ca.pem" check:"file"` // "": the authorities of the system
	Username     string   `toml:"username" example:"latchkey@example.com" check:"text"`     // "": no login
	Password     string   `toml:"password" example:"the-password-at-the-mail-server" check:"text" secret:"true"`
	PasswordFile string   `toml:"password_file" example:"/etc/latchkey/mail-password" check:"file"`
	From         string   `toml:"from" example:"latchkey@example.com" check:"email"`
	To           []string `toml:"to" example:"ops@example.com" check:"email"`
	Events       []string `toml:"events" default:"key.expiring,key.in_url,limit.reached,token.expiring,operator.factor_reset,owner.storage_warning,disk.low" in:"key.created,key.rotated,key.revoked,key.paused,key.resumed,key.expiring,key.new_network,key.in_url,key.unused,limit.warning,limit.reached,token.expiring,operator.factor_reset,owner.storage_warning,disk.low"`
}

// Security returns how the connection is protected. Only a server on this machine needs no TLS.
func (c MailConfig) Security() smtpmail.Security {
	host, port, _ := net.SplitHostPort(c.Server)
	switch {
	case c.TLS == "implicit" || c.TLS == "auto" && port == "465":
		return smtpmail.Implicit
	case c.TLS == "auto" && IsLocalHost(host):
		return smtpmail.Clear
	}
	return smtpmail.StartTLS
}

// checkMail records a problem if the settings of mails are incomplete.
func (l *configLoader) checkMail(c MailConfig) {
	for _, rule := range []struct {
		name, problem string
		bad           bool
	}{
		{"server", "needs mail.from, the address from which the mails come", c.Server != "" && c.From == ""},
		{"server", "needs mail.to, the addresses of the operators", c.Server != "" && len(c.To) == 0},
		{"server", "needs mail.events, the events that are mailed", c.Server != "" && len(c.Events) == 0},
		{"username", "needs mail.password_file or mail.password", c.Username != "" && c.Password == "" && c.PasswordFile == ""},
		{"password", "is set and mail.username is not", c.Username == "" && c.Password != ""},
		{"password_file", "is set and mail.username is not", c.Username == "" && c.PasswordFile != ""},
		{"to", "is set and mail.server is not, so nothing would be sent", c.Server == "" && len(c.To) > 0},
		{"from", "is set and mail.server is not, so nothing would be sent", c.Server == "" && c.From != ""},
		{"to", "has more than 20 addresses; use the address of a mailing list", len(c.To) > 20},
	} {
		if rule.bad {
			l.fail(l.sources["mail."+rule.name], "mail.%s %s", rule.name, rule.problem)
		}
	}
}

// readMailServer reads the address of a mail server, a host with a port.
func readMailServer(text string) (value, fix string, ok bool) {
	host, port, err := net.SplitHostPort(text)
	if err != nil {
		if bare, _, known := readHost(text); known && !strings.Contains(bare, ":") {
			fix = strconv.Quote(bare + ":587")
		}
		return "", fix, false
	}
	host, fix, ok = readHost(host)
	if !ok && fix != "" {
		fix = strconv.Quote(net.JoinHostPort(strings.Trim(fix, `"`), port))
	}
	n, err := strconv.ParseUint(port, 10, 16)
	return net.JoinHostPort(host, strconv.FormatUint(n, 10)), fix, ok && err == nil && n > 0
}
