package main

import (
	"errors"
	"fmt"
	"io"
	"log"
	"mime/quotedprintable"
	"net"
	"net/mail"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-smtp"
)

// mailbox is a mail server on this machine that keeps what it gets.
type mailbox struct {
	t       testing.TB
	address string
	mu      sync.Mutex
	fault   error // what it answers to each mail; nil: it takes them
	mails   []*mail.Message
	came    chan bool
}

func newMailbox(t testing.TB) *mailbox {
	t.Helper()
	m := &mailbox{t: t, came: make(chan bool, 100)}
	server := smtp.NewServer(m)
	server.Domain, server.AllowInsecureAuth, server.ErrorLog = "localhost", true, log.New(io.Discard, "", 0)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m.address = l.Addr().String()
	var ended sync.WaitGroup
	ended.Go(func() { _ = server.Serve(l) })
	t.Cleanup(func() { _, _ = server.Close(), l.Close(); ended.Wait() })
	return m
}

// mailSession implements smtp.Session.
type mailSession struct{ m *mailbox }

func (m *mailbox) NewSession(*smtp.Conn) (smtp.Session, error)      { return mailSession{m}, nil }
func (mailSession) Mail(string, *smtp.MailOptions) error            { return nil }
func (mailSession) Rcpt(to string, options *smtp.RcptOptions) error { return nil }
func (mailSession) Reset()                                          {}
func (mailSession) Logout() error                                   { return nil }

func (s mailSession) Data(r io.Reader) error {
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	s.m.came <- s.m.fault == nil
	if s.m.fault != nil {
		return s.m.fault
	}
	got, err := mail.ReadMessage(r)
	if err != nil {
		return err
	}
	text, err := io.ReadAll(quotedprintable.NewReader(got.Body))
	got.Body = strings.NewReader(strings.ReplaceAll(string(text), "\r\n", "\n"))
	s.m.mails = append(s.m.mails, got)
	return err
}

// fail makes the server refuse each mail with an error; nil: it takes them again.
func (m *mailbox) fail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fault = err
}

// take returns the subject and the text of each mail since the last call.
func (m *mailbox) take() (subjects, texts []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, got := range m.mails {
		text, err := io.ReadAll(got.Body)
		if err != nil {
			m.t.Error(err)
		}
		subjects, texts = append(subjects, got.Header.Get("Subject")), append(texts, string(text))
	}
	m.mails = nil
	return subjects, texts
}

// config returns the configuration of mails about events to the mailbox.
func (m *mailbox) config(events ...string) MailConfig {
	return MailConfig{Server: m.address, TLS: "auto", From: "latchkey@example.com", To: []string{"ops@example.com"}, Events: events}
}

// mailApp returns a service that sends mails about events to a mailbox.
func mailApp(t testing.TB, m *mailbox, events ...string) *testApp {
	return newTestApp(t, func(c *Config) {
		c.Mail = m.config(events...)
		c.Keys.UnusedNotice = 24 * time.Hour
	})
}

// mailed sends what is due and wants mails with these subjects. It returns their texts.
func (m *mailbox) mailed(a *testApp, what string, want ...string) []string {
	m.t.Helper()
	if err := a.mailer.sendDue(); err != nil {
		m.t.Fatal(err)
	}
	subjects, texts := m.take()
	if slices.Sort(subjects); !slices.Equal(subjects, want) {
		m.t.Errorf("%s: got %q, want %q", what, subjects, want)
	}
	return texts
}

// TestMail_Batches has events come one by one, with a restart between.
func TestMail_Batches(t *testing.T) {
	m := newMailbox(t)
	a := mailApp(t, m, KeyPaused, KeyRevoked)
	pause := func(id string) { t.Helper(); a.operate(200, "POST", "/admin/v1/keys/"+id+"/pause", "") }
	first, secret := a.key(everyPermission)
	second, _ := a.key(everyPermission)
	third, _ := a.key(everyPermission)
	a.operate(200, "PATCH", "/admin/v1/keys/"+second, `{"name": "caf\u00e9 \u202egro.live"}`)
	m.mailed(a, "nothing")
	for _, id := range []string{first, second, third} {
		pause(id)
	}
	a.operate(200, "POST", "/admin/v1/keys/"+third+"/revoke", "")
	texts := m.mailed(a, "the first events", "Latchkey: 1 key was revoked", "Latchkey: 3 keys were paused")
	all := strings.Join(texts, "\n")
	for _, want := range []string{"test (" + first + "): owner ", "caf\u00e9  gro.live (" + second + ")", "3 keys were paused.\n", "The event is key.paused."} {
		if !strings.Contains(all, want) {
			t.Errorf("got %s, want %q in it", all, want)
		}
	}
	if strings.Contains(all, secret) || strings.Contains(all, "\u202e") {
		t.Errorf("got %q, want no secret and no change of direction", all)
	}
	a.operate(200, "POST", "/admin/v1/keys/"+first+"/resume", "")
	pause(first)
	a.clocks.Pass(mailsApart - time.Second)
	m.mailed(a, "within the hour")
	a.operate(200, "POST", "/admin/v1/keys/"+second+"/resume", "")
	a.restart()
	pause(second)
	a.operate(200, "POST", "/admin/v1/keys/"+first+"/resume", "")
	pause(first)
	m.mailed(a, "after a restart")
	a.clocks.Pass(2 * time.Second)
	text := m.mailed(a, "an hour later", "Latchkey: 2 keys were paused")
	if n := strings.Count(text[0], first); n != 2 {
		t.Errorf("got %s, want both pauses of the first key", text[0])
	}
	a.clocks.Pass(2 * mailsApart)
	m.mailed(a, "nothing new")
}

// TestMail_Sandbox has events about sandbox keys before and after those about a live key: they are mailed apart, so the mail about what is
// live comes at once.
func TestMail_Sandbox(t *testing.T) {
	m := newMailbox(t)
	a := mailApp(t, m, KeyPaused)
	pause := func(id string) { t.Helper(); a.operate(200, "POST", "/admin/v1/keys/"+id+"/pause", "") }
	first, _ := a.key(everyPermission, `"sandbox": true`)
	second, _ := a.key(everyPermission, `"sandbox": true`)
	live, _ := a.key(everyPermission)
	pause(first)
	m.mailed(a, "a sandbox key", "Latchkey: 1 sandbox key was paused")
	pause(live)
	pause(second)
	if text := m.mailed(a, "a live key", "Latchkey: 1 key was paused"); strings.Contains(text[0], first) || strings.Contains(text[0], second) {
		t.Errorf("got %s, want no sandbox key in it", text[0])
	}
	a.restart()
	a.clocks.Pass(mailsApart)
	m.mailed(a, "an hour later", "Latchkey: 1 sandbox key was paused")
}

// TestMail_Failing has the mail server refuse mails for a while.
func TestMail_Failing(t *testing.T) {
	m := newMailbox(t)
	a := mailApp(t, m, KeyPaused)
	id, _ := a.key(everyPermission)
	pause := func() {
		a.operate(200, "POST", "/admin/v1/keys/"+id+"/resume", "")
		a.operate(200, "POST", "/admin/v1/keys/"+id+"/pause", "")
	}
	attempts := func(want int) {
		t.Helper()
		m.mailed(a, "while it fails")
		if n := len(m.came); n != want {
			t.Errorf("got %d attempts, want %d", n, want)
		}
		for range want {
			<-m.came
		}
	}
	pause()
	m.fail(&smtp.SMTPError{Code: 451, Message: "not now"})
	attempts(1)
	began := a.clock.Now()
	for _, wait := range append(mailDelays(), time.Hour, time.Hour) {
		a.clocks.Pass(wait - time.Second)
		attempts(0)
		pause()
		a.clocks.Pass(time.Second)
		attempts(1)
	}
	a.restart()
	status := a.operate(200, "GET", "/admin/v1/status", "")
	if status["mail_backlog"] != 7.0 || status["mail_failing_since"] != *Seconds(began) || !strings.Contains(fmt.Sprint(status["mail_error"]), "not now") {
		t.Errorf("got %v, %v, %v; want 7 events since %s", status["mail_backlog"], status["mail_failing_since"], status["mail_error"], *Seconds(began))
	}
	if _, text := a.scrape(a.token()); !strings.Contains(text, "latchkey_mail_backlog 7\n") || strings.Contains(text, "latchkey_mail_failing_seconds 0\n") {
		t.Error("got metrics without the mails that wait")
	}
	if n := strings.Count(a.log.String(), "mails to the operators cannot be sent"); n != 1 {
		t.Errorf("got %d lines in the log, want one", n)
	}
	m.fail(nil)
	a.clocks.Pass(time.Hour)
	if text := m.mailed(a, "again", "Latchkey: 1 key was paused"); strings.Count(text[0], id) != 7 {
		t.Errorf("got %s, want all 7 events", text[0])
	}
	if status := a.operate(200, "GET", "/admin/v1/status", ""); status["mail_backlog"] != 0.0 || status["mail_failing_since"] != nil || status["mail_error"] != nil {
		t.Errorf("got %v", status)
	}
}

// TestMail_Bounds has more events than a mail lists, and events that come while a mail is sent.
func TestMail_Bounds(t *testing.T) {
	m := newMailbox(t)
	a := mailApp(t, m, KeyRevoked)
	add := func(n int) {
		t.Helper()
		err := a.Store.Update(func(tx *Tx) error {
			for i := range n {
				key := &Key{StoredKey: StoredKey{ID: fmt.Sprint("key_", i), Name: strings.Repeat("x", 1000)}}
				if err := Publish(tx, KeyWebhookEvent(KeyRevoked, key, a.clock.Now())); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	read := func() (b mailBatch) {
		t.Helper()
		if err := a.Store.View(func(tx *Tx) (err error) { b, err = mailTable.Get(tx, []byte(KeyRevoked)); return err }); err != nil {
			t.Fatal(err)
		}
		return b
	}
	settle := func(sent mailBatch) {
		t.Helper()
		if err := a.Store.Update(func(tx *Tx) error { return settleMail(tx, sent, "", a.clock.Now(), a.clock.Now()) }); err != nil {
			t.Fatal(err)
		}
	}
	add(maxMailLines + 50)
	text := m.mailed(a, "many", "Latchkey: 200 or more keys were revoked")
	if !strings.Contains(text[0], "\nand 50 more.\n") || len(text[0]) > maxMailLines*(maxMailLine+5)+1000 {
		t.Errorf("got %d bytes, want 200 short lines and 50 more", len(text[0]))
	}
	add(3)
	sent := read()
	add(2)
	settle(sent)
	if b := read(); b.Count != 2 || len(b.Lines) != 2 || b.Number != sent.Number+1 {
		t.Errorf("got %d events and %d lines, want the two that came while the mail was sent", b.Count, len(b.Lines))
	}
	settle(sent) // another node has sent it too
	if b := read(); b.Count != 2 || len(b.Lines) != 2 {
		t.Errorf("got %d events and %d lines, want them as before", b.Count, len(b.Lines))
	}
}

// TestMail_Alone wants events that are published only if somebody receives them, without a webhook.
func TestMail_Alone(t *testing.T) {
	m := newMailbox(t)
	a := mailApp(t, m, keyUnused, keyInURL, limitReached)
	_, secret := a.key(everyPermission, `"limits": {"requests_per_minute_limit": 2}`)
	a.use(secret, "192.0.2.1", CarrierBearer)
	a.use(secret, "192.0.2.1", CarrierQuery)
	if got := a.use(secret, "192.0.2.1", CarrierQuery); got != 429 {
		t.Fatalf("got %d, want 429", got)
	}
	if err := errors.Join(a.Keyring.Flush(), a.notices.Flush()); err != nil {
		t.Fatal(err)
	}
	text := strings.Join(m.mailed(a, "uses", "Latchkey: 1 key reached a limit", "Latchkey: 1 key was sent in a URL"), "")
	for _, want := range []string{"limit requests_per_minute_limit of 2", "network 192.0.2.0/24, client 192.0.2.1, carrier query"} {
		if !strings.Contains(text, want) {
			t.Errorf("got %s, want %q in it", text, want)
		}
	}
	a.clocks.Pass(25 * time.Hour)
	if err := a.notices.Unused(a.clock.Now()); err != nil {
		t.Fatal(err)
	}
	m.mailed(a, "unused", "Latchkey: 1 key is not used")
}

// TestMail_EveryEvent wants words for each event that operators can get mails of, and lines without breaks.
func TestMail_EveryEvent(t *testing.T) {
	var own []string
	for _, kind := range OperatorEventTypes() {
		if strings.HasPrefix(kind, "call.") || strings.HasPrefix(kind, "calendar.") {
			continue
		}
		own = append(own, kind)
		e := sample(kind, epoch)
		if facts, ok := e.Body["key"].(map[string]any); ok {
			facts["name"] = "a\r\nBcc: b@example.com\u2028\x00\u202e"
		}
		b := mailBatch{Type: kind, Count: 1, Lines: []mailLine{lineOf(e)}}
		text := b.subject() + b.Lines[0].Text
		if mailSubjects[kind][0] == "" || mailSubjects[kind][1] == "" || strings.ContainsAny(text, "\r\n\x00\u2028\u202e") || strings.Contains(b.subject(), "Bcc") || len(text) < 40 {
			t.Errorf("%s: got %q", kind, text)
		}
	}
	c := defaultConfig()
	for _, s := range c.settings() {
		if s.Key != "mail.events" {
			continue
		}
		words := strings.Split(s.Tag.Get("in"), ",")
		if slices.Sort(words); !slices.Equal(words, slices.Sorted(slices.Values(own))) {
			t.Errorf("mail.events can be %v, want %v", words, own)
		}
	}
	if len(mailSubjects) != len(own) {
		t.Errorf("got words for %d events, want %d", len(mailSubjects), len(own))
	}
}

// TestMail_TestMail sends a test mail from the endpoint and from the command.
func TestMail_TestMail(t *testing.T) {
	off := newTestApp(t)
	off.refuse("POST", "/admin/v1/mail/test", "", 409, "conflict", "Mails are off")
	m := newMailbox(t)
	a := newTestApp(t, func(c *Config) {
		c.Mail = MailConfig{Server: m.address, TLS: "auto", Username: "ann", Password: "hunter2-at-mail", From: "latchkey@example.com", To: []string{"ops@example.com"}, Events: []string{KeyPaused}}
	})
	got := a.operate(200, "POST", "/admin/v1/mail/test", "")
	if text := fmt.Sprint(got); got["success"] != false || !strings.Contains(text, "offers neither") || strings.Contains(text, "hunter2") || len(m.came) != 0 {
		t.Errorf("got %v, want no mail to a server without logins", got)
	}
	if strings.Contains(a.log.String(), "hunter2") {
		t.Error("the log has the password")
	}
	a = mailApp(t, m, KeyPaused)
	if got := a.operate(200, "POST", "/admin/v1/mail/test", ""); got["success"] != true || fmt.Sprint(got["to"]) != "[ops@example.com]" {
		t.Errorf("got %v, want success", got)
	}
	if exit, out, errs := a.run("", "mail", "test"); exit != 0 || !strings.Contains(out, "The mail server took the mail. It is for ops@example.com.") {
		t.Errorf("got %d, %q, %q", exit, out, errs)
	}
	if subjects, _ := m.take(); len(subjects) != 2 || subjects[0] != "Latchkey: a test mail" {
		t.Errorf("got %v, want two mails", subjects)
	}
	m.fail(&smtp.SMTPError{Code: 554, Message: "no spam"})
	if exit, _, errs := a.run("", "mail", "test"); exit != 1 || !strings.Contains(errs, "no spam") {
		t.Errorf("got %d, %q", exit, errs)
	}
}

// TestMail_Loop sends from the loop, and ends it while a server does not answer.
func TestMail_Loop(t *testing.T) {
	m := newMailbox(t)
	a := mailApp(t, m, KeyPaused)
	id, _ := a.key(everyPermission)
	a.operate(200, "POST", "/admin/v1/keys/"+id+"/pause", "")
	a.mailer.Start()
	a.mailer.Wake()
	if !<-m.came {
		t.Error("got a refused mail")
	}
	a.mailer.Close()
	a.mailer.Close()

	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	b := mailApp(t, &mailbox{address: l.Addr().String()}, KeyPaused)
	id, _ = b.key(everyPermission)
	b.operate(200, "POST", "/admin/v1/keys/"+id+"/pause", "")
	b.mailer.Start()
	b.mailer.Wake()
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	b.mailer.Close()
	if status := b.operate(200, "GET", "/admin/v1/status", ""); status["mail_backlog"] != 1.0 || status["mail_failing_since"] != nil {
		t.Errorf("got %v and %v, want the event for the next start", status["mail_backlog"], status["mail_failing_since"])
	}
}
