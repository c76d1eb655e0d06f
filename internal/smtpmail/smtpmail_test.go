package smtpmail

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"io"
	"log"
	"mime"
	"mime/quotedprintable"
	"net"
	"net/http/httptest"
	"net/mail"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"
)

const password = "hunter2 is the password"

// mailServer is a mail server that keeps what it gets.
type mailServer struct {
	address string
	roots   *x509.CertPool
	tls     *tls.Config
	logins  []string // the mechanisms that it offers
	echo    bool     // it repeats in its answers what was sent

	mu    sync.Mutex
	mails []string
	users []string // those that have logged in
}

// newServer starts a mail server on this machine.
func newServer(t *testing.T, security Security, change func(*mailServer, *smtp.Server)) *mailServer {
	t.Helper()
	https := httptest.NewTLSServer(nil) // for its certificate
	https.Close()
	s := &mailServer{roots: x509.NewCertPool(), tls: &tls.Config{Certificates: https.TLS.Certificates}, logins: []string{sasl.Plain}}
	s.roots.AddCert(https.Certificate())
	server := smtp.NewServer(s)
	server.Domain, server.AllowInsecureAuth, server.ErrorLog = "localhost", security == Clear, log.New(io.Discard, "", 0)
	if security != Clear {
		server.TLSConfig = s.tls
	}
	if change != nil {
		change(s, server)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.address = l.Addr().String()
	if security == Implicit {
		l = tls.NewListener(l, s.tls)
	}
	var ended sync.WaitGroup
	ended.Go(func() { _ = server.Serve(l) })
	t.Cleanup(func() { _ = server.Close(); _ = l.Close(); ended.Wait() })
	return s
}

// NewSession implements smtp.Backend.
func (s *mailServer) NewSession(*smtp.Conn) (smtp.Session, error) { return &session{s: s}, nil }

// all returns the mails so far.
func (s *mailServer) all() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mails
}

type session struct{ s *mailServer }

func (c *session) AuthMechanisms() []string { return c.s.logins }

func (c *session) Auth(way string) (sasl.Server, error) {
	check := func(user, given string) error {
		if given != password {
			if c.s.echo {
				return &smtp.SMTPError{Code: 535, Message: "not " + given + " " + base64.StdEncoding.EncodeToString([]byte("\x00"+user+"\x00"+given))}
			}
			return smtp.ErrAuthFailed
		}
		c.s.mu.Lock()
		defer c.s.mu.Unlock()
		c.s.users = append(c.s.users, user)
		return nil
	}
	if way == sasl.Login {
		return &loginServer{check: check}, nil
	}
	return sasl.NewPlainServer(func(_, user, given string) error { return check(user, given) }), nil
}

// loginServer is the server of the login LOGIN.
type loginServer struct {
	user  string
	check func(user, given string) error
}

func (l *loginServer) Next(answer []byte) (challenge []byte, done bool, err error) {
	if l.user == "" {
		l.user = string(answer)
		return []byte("Password:"), false, nil
	}
	return nil, true, l.check(l.user, string(answer))
}

func (c *session) Mail(string, *smtp.MailOptions) error {
	if c.s.echo {
		return &smtp.SMTPError{Code: 550, Message: "no sender like " + password + "\r\n550 more"}
	}
	return nil
}

func (c *session) Rcpt(to string, _ *smtp.RcptOptions) error {
	if strings.HasPrefix(to, "nobody") {
		return &smtp.SMTPError{Code: 550, Message: "no such user"}
	}
	return nil
}

func (c *session) Data(r io.Reader) error {
	text, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	c.s.mails = append(c.s.mails, string(text))
	return nil
}

func (c *session) Reset()        {}
func (c *session) Logout() error { return nil }

// message is a mail with awkward texts.
func message() Message {
	return Message{
		From: "latchkey@example.com", To: []string{"ops@example.com", "two@example.com"}, ID: "limit.reached.1.abc", At: time.Unix(1_800_000_000, 0),
		Subject: "Latchkey: 3 keys\r\nBcc: all@example.com", Text: "caf\u00e9 = \u20ac\n.\nQUIT\n" + strings.Repeat("long ", 100) + "\n",
	}
}

func TestServer_Send(t *testing.T) {
	for _, tt := range []struct {
		name     string
		security Security
		login    string
	}{
		{"STARTTLS", StartTLS, ""}, {"implicit TLS", Implicit, ""}, {"no TLS", Clear, ""},
		{"STARTTLS with PLAIN", StartTLS, sasl.Plain}, {"implicit TLS with LOGIN", Implicit, sasl.Login},
	} {
		t.Run(tt.name, func(t *testing.T) {
			server := newServer(t, tt.security, func(s *mailServer, _ *smtp.Server) { s.logins = []string{tt.login} })
			s := Server{Address: server.address, Security: tt.security, Roots: server.roots}
			if tt.login != "" {
				s.Username, s.Password = "ann", password
			}
			if err := s.Send(t.Context(), message()); err != nil {
				t.Fatal(err)
			}
			if len(server.all()) != 1 || (len(server.users) == 1) != (tt.login != "") {
				t.Fatalf("got %d mails and the users %v", len(server.all()), server.users)
			}
			got, err := mail.ReadMessage(strings.NewReader(server.all()[0]))
			if err != nil {
				t.Fatal(err)
			}
			text, err := io.ReadAll(quotedprintable.NewReader(got.Body))
			if want := strings.ReplaceAll(message().Text, "\n", "\r\n"); err != nil || string(text) != want {
				t.Errorf("got the text %q, %v; want %q", text, err, want)
			}
			subject, err := new(mime.WordDecoder).DecodeHeader(got.Header.Get("Subject"))
			if err != nil || subject != message().Subject || got.Header.Get("Bcc") != "" {
				t.Errorf("got the head %v, want the subject %q and no other field from it", got.Header, message().Subject)
			}
			for name, want := range map[string]string{
				"From": "Latchkey <latchkey@example.com>", "To": "ops@example.com, two@example.com", "Message-Id": "<limit.reached.1.abc@example.com>",
				"Auto-Submitted": "auto-generated", "Date": "Fri, 15 Jan 2027 08:00:00 +0000",
			} {
				if got.Header.Get(name) != want {
					t.Errorf("%s: got %q, want %q", name, got.Header.Get(name), want)
				}
			}
			for line := range strings.SplitSeq(server.all()[0], "\r\n") {
				if len(line) > 998 || strings.ContainsAny(line, "\r\n") {
					t.Errorf("got the line %q", line)
				}
			}
		})
	}
}

func TestServer_Refused(t *testing.T) {
	for _, tt := range []struct {
		name     string
		security Security
		change   func(*mailServer, *smtp.Server)
		use      func(*Server, *Message)
		want     string
	}{
		{"no STARTTLS", Clear, nil, func(s *Server, _ *Message) { s.Security = StartTLS }, "STARTTLS"},
		{"an unknown authority", StartTLS, nil, func(s *Server, _ *Message) { s.Roots = x509.NewCertPool() }, "certificate"},
		{"an unknown authority, implicit TLS", Implicit, nil, func(s *Server, _ *Message) { s.Roots = x509.NewCertPool() }, "certificate"},
		{"another name", StartTLS, nil, func(s *Server, _ *Message) { s.Address = strings.Replace(s.Address, "127.0.0.1", "localhost", 1) }, "certificate"},
		{"a wrong password", StartTLS, nil, func(s *Server, _ *Message) { s.Password = "wrong-secret" }, "refused the user name and the password (code 535)"},
		{"a server that repeats the password", StartTLS, func(s *mailServer, _ *smtp.Server) { s.echo = true }, func(s *Server, _ *Message) { s.Password = "wrong-secret" }, "code 535"},
		{"a server that knows the password", StartTLS, func(s *mailServer, _ *smtp.Server) { s.echo = true }, func(s *Server, _ *Message) {}, "refused the sender latchkey@example.com: "},
		{"no known login", StartTLS, func(s *mailServer, _ *smtp.Server) { s.logins = []string{"XOAUTH2"} }, func(*Server, *Message) {}, "neither of the logins"},
		{"no receiver", StartTLS, nil, func(_ *Server, m *Message) { m.To = []string{"nobody@example.com"} }, "refused the receiver nobody@example.com"},
		{"too large", StartTLS, func(_ *mailServer, s *smtp.Server) { s.MaxMessageBytes = 50 }, func(*Server, *Message) {}, "refused the mail"},
		{"nothing listens", StartTLS, nil, func(s *Server, _ *Message) { s.Address = "127.0.0.1:1" }, "refused"},
		{"an address with a line", Clear, nil, func(_ *Server, m *Message) { m.To = []string{"a@example.com\r\nBcc: b@example.com"} }, "cannot be in the head"},
		{"a sender with a second one", Clear, nil, func(_ *Server, m *Message) { m.From = "a@example.com> SIZE=1 <b@example.com" }, "cannot be in the head"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			server := newServer(t, tt.security, tt.change)
			s, m := Server{Address: server.address, Security: tt.security, Roots: server.roots, Username: "ann", Password: password}, message()
			tt.use(&s, &m)
			err := s.Send(t.Context(), m)
			if err == nil || !strings.Contains(err.Error(), tt.want) || len(server.all()) != 0 {
				t.Fatalf("got %v and %d mails, want an error with %q", err, len(server.all()), tt.want)
			}
			if text := err.Error(); strings.Contains(text, s.Password) || strings.ContainsAny(text, "\r\n") {
				t.Errorf("got %q, want one line without the password", text)
			}
			if strings.Contains(tt.want, "certificate") || tt.want == "STARTTLS" {
				if len(server.users) != 0 {
					t.Errorf("got the users %v, want no password sent", server.users)
				}
			}
		})
	}
}

// TestServer_SomeReceivers sends to an address that is there and to one that is not.
func TestServer_SomeReceivers(t *testing.T) {
	server := newServer(t, Clear, nil)
	m := message()
	m.To = []string{"nobody@example.com", "ops@example.com"}
	err := Server{Address: server.address, Security: Clear}.Send(t.Context(), m)
	var some Refused
	if !errors.As(err, &some) || !strings.Contains(some.Error(), "nobody@example.com") || len(server.all()) != 1 {
		t.Errorf("got %v and %d mails, want a Refused and one mail", err, len(server.all()))
	}
}

// TestServer_Silent connects to servers that do not answer.
func TestServer_Silent(t *testing.T) {
	for name, greeting := range map[string]string{"no greeting": "", "half a greeting": "220 localhost ES"} {
		for _, security := range []Security{StartTLS, Implicit, Clear} {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			var ended sync.WaitGroup
			ended.Go(func() {
				conn, err := l.Accept()
				if err == nil {
					_, _ = io.WriteString(conn, greeting)
					_, _ = io.Copy(io.Discard, conn)
					_ = conn.Close()
				}
			})
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			err = Server{Address: l.Addr().String(), Security: security}.Send(ctx, message())
			if cancel(); err == nil || security != Implicit && !strings.Contains(err.Error(), "did not answer in time") {
				t.Errorf("%s: got %v, want that it did not answer", name, err)
			}
			_ = l.Close()
			ended.Wait()
		}
	}
}
