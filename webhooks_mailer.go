package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"latchkey/internal/clock"
	"latchkey/internal/smtpmail"
)

// mailTimeout is how long one attempt at a mail may take. It is shorter than the time for an answer of the admin endpoint.
const mailTimeout = 20 * time.Second

// MailerOptions are the options of NewMailer.
type MailerOptions struct {
	Store     *Store
	Clock     *clock.Clock
	Log       *slog.Logger
	Server    smtpmail.Server        // without the password; without an address no mail is sent
	Password  func() (string, error) // returns the password at the server, read anew for each mail
	From      string
	To        []string
	Events    []string // the types of events that are mailed
	Dashboard string   // address of the dashboard for the mails, or ""
}

// Mailer sends mails to the operators. Events wait in the store, in one batch for each type, until their mail was sent. It is
// safe for concurrent use.
type Mailer struct {
	o       MailerOptions
	wake    chan struct{}
	ctx     context.Context
	cancel  context.CancelFunc
	ended   sync.WaitGroup
	failing bool // the last attempt failed; only the loop of Start uses it
}

// NewMailer returns a Mailer, and makes the store add events to the mails from now on. It sends nothing from the store before
// Start is called.
func NewMailer(o MailerOptions) *Mailer {
	m := &Mailer{o: o, wake: make(chan struct{}, 1)}
	m.ctx, m.cancel = context.WithCancel(context.Background())
	if m.on() {
		o.Store.SetMails(o.Events)
	}
	return m
}

func (m *Mailer) on() bool { return m.o.Server.Address != "" }

// Start begins to send what waits, at each Wake. Call it once.
func (m *Mailer) Start() {
	if !m.on() {
		return
	}
	m.ended.Go(func() {
		defer FlushAtPanic(m.o.Log)
		for {
			select {
			case <-m.ctx.Done():
				return
			case <-m.wake:
			}
			if err := m.sendDue(); err != nil && m.o.Store.Err() == nil {
				m.o.Log.Error("send mails", "error", err)
			}
		}
	})
}

// Wake makes the Mailer look for mails that are due. It returns immediately. Call it every few seconds, on one node of a
// cluster: events of that time share a mail.
func (m *Mailer) Wake() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// Close stops the Mailer and ends an attempt that has begun; its mail is sent after the next start. Close may be called twice.
func (m *Mailer) Close() {
	m.cancel()
	m.ended.Wait()
}

// sendDue sends the mails that are due, up to the first that fails.
func (m *Mailer) sendDue() error {
	var due []mailBatch
	err := m.o.Store.View(func(tx *Tx) (err error) {
		due, err = dueMails(tx, m.o.Clock.Steady(m.o.Clock.Now()))
		return err
	})
	for _, b := range due {
		if err != nil {
			return err
		}
		now := m.o.Clock.Now()
		problem := m.send(m.ctx, smtpmail.Message{
			Subject: b.subject(), Text: b.text(m.o.Dashboard), ID: fmt.Sprintf("%s.%d.%s", b.name(), b.Number, m.o.Store.ID()), At: now,
		})
		if m.ctx.Err() != nil {
			return nil
		}
		reason := ""
		if problem != nil {
			reason = problem.Error()
		}
		m.report(problem)
		err = m.o.Store.Update(func(tx *Tx) error { return settleMail(tx, b, reason, now, m.o.Clock.Steady(m.o.Clock.Now())) })
		if problem != nil {
			return err
		}
	}
	return err
}

// report logs that mails cannot be sent, once until one is.
func (m *Mailer) report(problem error) {
	switch was := m.failing; {
	case problem != nil && !was:
		m.o.Log.Warn("mails to the operators cannot be sent; Latchkey tries again", "server", m.o.Server.Address, "error", problem)
	case problem == nil && was:
		m.o.Log.Info("mails to the operators are sent again", "server", m.o.Server.Address)
	}
	m.failing = problem != nil
}

// send sends a mail to all operators.
func (m *Mailer) send(ctx context.Context, mail smtpmail.Message) error {
	ctx, cancel := context.WithTimeout(ctx, mailTimeout)
	defer cancel()
	server := m.o.Server
	var err error
	if server.Password, err = m.o.Password(); err != nil {
		return err
	}
	mail.From, mail.To = m.o.From, m.o.To
	err = server.Send(ctx, mail)
	var some smtpmail.Refused
	if errors.As(err, &some) { // the others have it, so it is not sent again
		m.o.Log.Warn("a mail reached only some of the operators", "server", server.Address, "error", some)
		return nil
	}
	return err
}

// AdminRoutes returns the routes for operators.
func (m *Mailer) AdminRoutes() []Route {
	return []Route{{Method: "POST", Path: "/admin/v1/mail/test", NoBody: true, Handle: m.test}}
}

// test sends a mail at once and answers whether the server took it.
func (m *Mailer) test(w http.ResponseWriter, r *Request) error {
	if !m.on() {
		return ErrConflict.With("Mails are off. Set server, from and to in [mail] of the configuration, and restart the server.")
	}
	problem := m.send(r.Context(), smtpmail.Message{
		Subject: "Latchkey: a test mail", ID: "test." + r.ID, At: r.Now,
		Text: "This mail was sent with latchkey mail test. Mails about " + strings.Join(m.o.Events, ", ") + " come to the same addresses.\n",
	})
	if err := r.Record(m.o.Store); err != nil {
		return err
	}
	shown := map[string]any{"success": problem == nil, "to": m.o.To, "message": "The mail server took the mail."}
	if problem != nil {
		shown["message"] = "Not sent: " + strings.TrimSuffix(problem.Error(), ".") + "."
	}
	return WriteJSON(w, http.StatusOK, shown)
}
