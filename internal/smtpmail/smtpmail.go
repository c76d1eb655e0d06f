// Package smtpmail sends plain text mails through a mail server, with TLS unless that is turned off.
package smtpmail

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/quotedprintable"
	"net"
	"strings"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"
)

// Security is how a connection is protected.
type Security int

// The ways to protect a connection. The certificate of the server must be valid for its name.
const (
	StartTLS Security = iota // TLS after the STARTTLS command; a server that does not offer it gets no mail
	Implicit                 // TLS from the first byte
	Clear                    // no TLS, for a server on the same machine
)

// Server is a mail server and how to log in there. It is safe for concurrent use.
type Server struct {
	Address  string // host:port
	Security Security
	Roots    *x509.CertPool // the authorities of its certificate; nil: those of the system
	Username string         // "": no login
	Password string
}

// Message is a mail.
type Message struct {
	From    string   // a plain address such as latchkey@example.com
	To      []string // plain addresses
	Subject string
	Text    string
	ID      string // the same in each attempt to send the mail; letters, digits, dots, - and _
	At      time.Time
}

// Refused is the error of a mail that the server took for some of its receivers alone.
type Refused struct{ error }

// Send hands m to the server. It returns a Refused if the server refuses some of the receivers, and another error if nobody
// gets the mail. It ends when ctx does. The error never contains the password.
func (s Server) Send(ctx context.Context, m Message) error {
	text, err := m.Bytes()
	if err != nil {
		return err
	}
	err = s.send(ctx, m, text)
	var some Refused
	switch {
	case errors.As(err, &some):
		return Refused{errors.New(s.scrub(some.Error()))}
	case err != nil && ctx.Err() != nil:
		return errors.New("the mail server did not answer in time")
	case err != nil:
		return errors.New(s.scrub(err.Error()))
	}
	return nil
}

func (s Server) send(ctx context.Context, m Message, text []byte) error {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", s.Address)
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	c, err := s.client(ctx, conn)
	if err != nil {
		_ = conn.Close()
		return err
	}
	defer func() { _ = c.Close() }()
	if err := s.login(c); err != nil {
		return err
	}
	if err := c.Mail(m.From, nil); err != nil {
		return fmt.Errorf("the mail server refused the sender %s: %w", m.From, err)
	}
	var refused []error
	for _, to := range m.To {
		if err := c.Rcpt(to, nil); err != nil {
			refused = append(refused, fmt.Errorf("the mail server refused the receiver %s: %w", to, err))
		}
	}
	if len(refused) == len(m.To) {
		return errors.Join(refused...)
	}
	w, err := c.Data()
	if err == nil {
		if _, err = w.Write(text); err == nil {
			err = w.Close()
		}
	}
	if err != nil {
		return fmt.Errorf("the mail server refused the mail: %w", err)
	}
	_ = c.Quit() // the server has the mail, whatever it answers
	if len(refused) > 0 {
		return Refused{errors.Join(refused...)}
	}
	return nil
}

// client returns a client on conn that has TLS, unless s.Security is Clear.
func (s Server) client(ctx context.Context, conn net.Conn) (*smtp.Client, error) {
	host, _, err := net.SplitHostPort(s.Address)
	if err != nil {
		return nil, err
	}
	config := &tls.Config{ServerName: host, RootCAs: s.Roots, MinVersion: tls.VersionTLS12}
	switch s.Security {
	case Implicit:
		secure := tls.Client(conn, config)
		if err := secure.HandshakeContext(ctx); err != nil {
			return nil, fmt.Errorf("TLS: %w", err)
		}
		return smtp.NewClient(secure), nil
	case Clear:
		return smtp.NewClient(conn), nil
	}
	c, err := smtp.NewClientStartTLS(conn, config)
	if err == nil {
		err = c.Noop() // makes the handshake, before a password is sent
	}
	if err != nil {
		return nil, fmt.Errorf("STARTTLS: %w", err)
	}
	return c, nil
}

// login logs in with the user name and the password, if there are any.
func (s Server) login(c *smtp.Client) error {
	if s.Username == "" {
		return nil
	}
	var way sasl.Client
	switch {
	case c.SupportsAuth(sasl.Plain):
		way = sasl.NewPlainClient("", s.Username, s.Password)
	case c.SupportsAuth(sasl.Login):
		way = sasl.NewLoginClient(s.Username, s.Password)
	default:
		return errors.New("the mail server offers neither of the logins PLAIN and LOGIN")
	}
	err := c.Auth(way)
	var refused *smtp.SMTPError
	if errors.As(err, &refused) { // without the text of the server, which may have what was sent
		return fmt.Errorf("the mail server refused the user name and the password (code %d)", refused.Code)
	}
	return err
}

// scrub returns a message for operators: one line without the password, of at most 300 bytes.
func (s Server) scrub(text string) string {
	if s.Password != "" {
		for _, secret := range []string{s.Password, "\x00" + s.Username + "\x00" + s.Password} {
			text = strings.ReplaceAll(text, base64.StdEncoding.EncodeToString([]byte(secret)), "***")
		}
		text = strings.ReplaceAll(text, s.Password, "***")
	}
	text = strings.Join(strings.FieldsFunc(text, func(c rune) bool { return c < ' ' || c == 0x7f }), " ")
	return strings.ToValidUTF8(text[:min(len(text), 300)], "")
}

// Bytes returns the mail as it is sent. It returns an error if an address or the id could end its line.
func (m Message) Bytes() ([]byte, error) {
	for _, word := range append([]string{m.From, m.ID}, m.To...) {
		if word == "" || strings.ContainsFunc(word, func(c rune) bool { return c <= ' ' || c > '~' || c == '<' || c == '>' }) {
			return nil, fmt.Errorf("%q cannot be in the head of a mail", word)
		}
	}
	domain := m.From[strings.LastIndexByte(m.From, '@')+1:]
	var b bytes.Buffer
	for _, field := range [][2]string{
		{"From", "Latchkey <" + m.From + ">"},
		{"To", strings.Join(m.To, ",\r\n ")},
		{"Subject", mime.QEncoding.Encode("utf-8", m.Subject)},
		{"Date", m.At.UTC().Format("Mon, 02 Jan 2006 15:04:05 -0700")},
		{"Message-ID", "<" + m.ID + "@" + domain + ">"},
		{"Auto-Submitted", "auto-generated"}, // so that no receiver answers, RFC 3834
		{"MIME-Version", "1.0"},
		{"Content-Type", "text/plain; charset=utf-8"},
		{"Content-Transfer-Encoding", "quoted-printable"},
	} {
		b.WriteString(field[0] + ": " + field[1] + "\r\n")
	}
	b.WriteString("\r\n")
	w := quotedprintable.NewWriter(&b)
	_, err := io.WriteString(w, m.Text)
	return b.Bytes(), errors.Join(err, w.Close())
}
