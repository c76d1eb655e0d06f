package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"code.dny.dev/ssrf"

	"latchkey/internal/clock"
)

const (
	// maxSending is how many receivers are waited for at once. Those that
	// failed or were slow last time get half of it and no more, so that however
	// many of them there are the others find room.
	maxSending = 64
	// inARow is how many deliveries one receiver gets before others have a turn.
	inARow = 20
	// sendGrace is how long Close waits for attempts under way.
	sendGrace = 5 * time.Second
)

// secretPurpose is what the secrets of webhooks are sealed for.
const secretPurpose = "webhook secret"

// SenderOptions are what a Sender is made of.
type SenderOptions struct {
	Store   *Store
	Clock   *clock.Clock
	Peppers Peppers // opens the secrets
	Targets *TargetPolicy
	Log     *slog.Logger

	Timeout time.Duration // for a whole attempt
	Header  string        // of the signature
	Scheme  string        // "hex" or "sha256=hex"

	// Watch, unless it is nil, is told of every attempt. It must be quick.
	Watch func(Attempt)
}

// Sender sends what waits in the outbox: to each webhook one delivery after the
// other, to all webhooks at once. Each delivery arrives at least once: one whose
// answer was lost, or whose outcome could not be stored, is sent again. It is
// safe for concurrent use.
type Sender struct {
	o      SenderOptions
	client *http.Client

	ctx    context.Context // of the attempts
	cancel context.CancelFunc
	wake   chan struct{} // holds one token while something may be due
	stop   chan struct{} // closed by Close
	ended  sync.WaitGroup

	mu     sync.Mutex
	closed bool
	busy   map[uint64]bool // the webhooks being sent to, and whether they count as slow
	freed  *sync.Cond      // when one is no more
}

// NewSender sends from an outbox, once Start is called.
func NewSender(o SenderOptions) *Sender {
	s := &Sender{o: o, client: o.Targets.Client(), wake: make(chan struct{}, 1), stop: make(chan struct{}), busy: map[uint64]bool{}}
	s.freed = sync.NewCond(&s.mu)
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s
}

// Start sends in the background from now on, what an earlier run left first.
func (s *Sender) Start() {
	changed := outboxChanged(s.o.Store)
	s.Wake()
	s.ended.Go(func() {
		for {
			select {
			case <-s.stop:
				return
			case <-s.wake:
			case <-changed:
			}
			if _, err := s.scan(); err != nil && s.o.Store.Err() == nil {
				s.o.Log.Error("read the outbox", "error", err)
			}
		}
	})
}

// Wake has the outbox looked through. It is to be called about every second,
// which is how exactly a retry keeps its time.
func (s *Sender) Wake() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Close starts nothing more, waits some seconds for the attempts under way and
// breaks off the rest, which are made again in the next run.
func (s *Sender) Close() {
	s.mu.Lock()
	already := s.closed
	s.closed = true
	s.mu.Unlock()
	if !already {
		close(s.stop)
	}
	late := time.AfterFunc(sendGrace, s.cancel)
	s.ended.Wait()
	late.Stop()
	s.cancel()
	s.client.CloseIdleConnections()
}

// scan starts sending to the webhooks whose turn it is, and tells to how many.
func (s *Sender) scan() (started int, err error) {
	moment := s.o.Clock.Service(s.o.Clock.Now())
	err = s.o.Store.View(func(tx *Tx) error {
		s.mu.Lock()
		defer s.mu.Unlock()
		slow := 0
		for _, is := range s.busy {
			if is {
				slow++
			}
		}
		if s.closed || len(s.busy) >= maxSending {
			return nil
		}
		return dueQueues(tx, moment, func(q queue) bool {
			if _, already := s.busy[q.Webhook]; already || q.Slow && slow >= maxSending/2 {
				return true
			}
			if q.Slow {
				slow++
			}
			s.busy[q.Webhook] = q.Slow
			started++
			s.ended.Go(func() { s.work(q.Webhook) })
			return len(s.busy) < maxSending
		})
	})
	return started, err
}

// work sends to one webhook until there is nothing to send, something fails or
// others should have a turn.
func (s *Sender) work(id uint64) {
	defer func() {
		s.mu.Lock()
		delete(s.busy, id)
		s.freed.Broadcast()
		s.mu.Unlock()
		s.Wake()
	}()
	for range inARow {
		more, err := s.next(id)
		if err != nil && !errors.Is(err, ErrUnavailable) && !errors.Is(err, context.Canceled) {
			s.o.Log.Error("send to a webhook", "webhook", id, "error", err)
		}
		if !more || err != nil {
			return
		}
	}
}

// next makes one attempt at the delivery whose turn it is. more says that the
// following one may go out too.
func (s *Sender) next(id uint64) (more bool, err error) {
	var w webhook
	var d delivery
	moment := s.o.Clock.Service(s.o.Clock.Now())
	err = s.o.Store.View(func(tx *Tx) error {
		if d, err = nextDelivery(tx, id, moment); err != nil {
			return err
		}
		w, err = findWebhook(tx, id)
		return err
	})
	s.mu.Lock()
	closed := s.closed
	s.mu.Unlock()
	if errors.Is(err, ErrNotFound) || closed {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	a := s.attempt(s.ctx, w, d)
	if s.ctx.Err() != nil && !a.Success() {
		return false, s.ctx.Err() // broken off by Close: it tells nothing of the receiver
	}
	return a.Success(), s.settle(w, d, a)
}

// billCall stores what came of an attempt, and switches off a webhook that has
// not taken anything for days.
func (s *Sender) settle(w webhook, d delivery, a Attempt) error {
	now := s.o.Clock.Now()
	moment := s.o.Clock.Service(now) // after the answer: a retry is that much later, never earlier
	dead := ""
	err := s.o.Store.Update(func(tx *Tx) (err error) {
		if dead, err = Settle(tx, d, a, moment); err != nil || dead == "" {
			return err
		}
		w, err := findWebhook(tx, w.ID)
		if err != nil {
			return err
		}
		w.Active, w.UpdatedAt, w.Reason = false, now, dead
		return saveWebhook(tx, w)
	})
	switch {
	case err != nil:
	case dead != "":
		s.o.Log.Warn("webhook switched off: every delivery failed for days", "webhook", w.ID)
	case !a.Success():
		s.o.Log.Info("webhook delivery failed", "webhook", w.ID, "delivery", d.ID, "event", d.Event, "outcome", a.Outcome())
	}
	return err
}

// Try sends something to a webhook at once, a single time and whatever waits
// for it, and puts that into its log. Only what the receiver does is told in
// the Attempt; an error is a fault of ours.
func (s *Sender) Try(ctx context.Context, w webhook, event string, body []byte) (Attempt, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.ctx, cancel)()
	d := delivery{Webhook: w.ID, ID: newDeliveryID(), Event: event, Body: body}
	a := s.attempt(ctx, w, d)
	a.Delivery, a.Event, a.Attempt = d.ID, d.Event, 1
	return a, s.o.Store.Update(func(tx *Tx) error {
		if _, err := findWebhook(tx, w.ID); err != nil {
			return err
		}
		return addAttempt(tx, w.ID, a)
	})
}

// attempt makes one POST and tells how it went.
func (s *Sender) attempt(ctx context.Context, w webhook, d delivery) (a Attempt) {
	a.At = s.o.Clock.Now().UTC()
	began := time.Now()
	defer func() {
		a.Took = time.Since(began).Round(time.Millisecond)
		if s.o.Watch != nil {
			s.o.Watch(a)
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, s.o.Timeout)
	defer cancel()
	r, err := s.request(ctx, w, d)
	if err != nil {
		a.Error = err.Error()
		return a
	}
	answer, err := s.client.Do(r)
	if err != nil {
		a.Error = s.reason(ctx, err)
		return a
	}
	defer answer.Body.Close()
	// Read so that the connection can be used again, but no more than a
	// receiver needs to say that it is well. After a 101, which nobody asked
	// for, the connection itself is the body: it heeds no time and may be mute.
	if answer.StatusCode != http.StatusSwitchingProtocols {
		_, _ = io.CopyN(io.Discard, answer.Body, 4<<10)
	}
	a.Status = answer.StatusCode
	return a
}

// request makes the request of an attempt. It says the same each time.
func (s *Sender) request(ctx context.Context, w webhook, d delivery) (*http.Request, error) {
	secret, err := s.o.Peppers.Decrypt(secretPurpose, w.Bound(), w.Secret)
	if err != nil {
		return nil, fmt.Errorf("the secret of this webhook cannot be read: %w", err)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, w.URL, bytes.NewReader(d.Body))
	if err != nil {
		return nil, errors.New("the URL cannot be used")
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("User-Agent", "Latchkey-Webhooks")
	r.Header.Set("X-Klen-Delivery", d.ID)
	r.Header.Set(s.o.Header, sign(s.o.Scheme, secret, d.Body))
	return r, nil
}

// sign gives the signature of a body. How the hosted service makes it is not
// known (contract 8.4, 10), so this is the one place that knows: HMAC-SHA-256
// under the secret as it is written, over the bytes that are sent, in lower-case
// hex digits, behind "sha256=" where the scheme says so.
func sign(scheme, secret string, body []byte) string {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write(body)
	digits := hex.EncodeToString(mac.Sum(nil))
	if scheme == "sha256=hex" {
		return "sha256=" + digits
	}
	return digits
}

// reason says why there was no answer, without the URL, which may hold a token
// in its query.
func (s *Sender) reason(ctx context.Context, err error) string {
	var outer *url.Error
	if errors.As(err, &outer) {
		err = outer.Err
	}
	switch {
	case errors.Is(err, errTarget):
		return errTarget.Error()
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return fmt.Sprintf("no answer within %s", s.o.Timeout)
	}
	text := err.Error()
	return text[:min(len(text), 300)]
}

// TargetPolicy says which addresses webhooks may be sent to, so that nobody can have
// this program ask its own network: no loopback, link-local, private or
// otherwise special address (contract 8.5), and of the ports under 1024 only
// those of HTTP. It is safe for concurrent use.
type TargetPolicy struct {
	private  bool // every address and port is allowed
	guardian *ssrf.Guardian
	resolver *net.Resolver // nil: the system's
}

// platform is where Azure tells virtual machines of themselves and takes their
// orders: a public address that leads inside.
var platform = netip.MustParsePrefix("168.63.129.16/32")

// NewTargetPolicy allows public addresses, and with private all others too.
func NewTargetPolicy(private bool) *TargetPolicy {
	return &TargetPolicy{private: private, guardian: ssrf.New(ssrf.WithAnyPort(), ssrf.WithDeniedV4Prefixes(platform))}
}

// CheckURL is ErrValidation with the reason for a URL that can be no target.
// A name may resolve to something else each time it is asked for, so the
// address itself is checked when a connection is made.
func (t *TargetPolicy) CheckURL(text string) error {
	u, err := url.Parse(text)
	switch {
	case err != nil || len(text) > 2048 || u.Hostname() == "":
		return ErrValidation.With("url must be a URL such as https://hooks.example.net/klen, of at most 2048 bytes.")
	case u.Scheme != "http" && u.Scheme != "https":
		return ErrValidation.With("url must begin with https:// or http://.")
	case u.User != nil:
		return ErrValidation.With("url must not hold a user name or password. Check the signature at the receiver instead.")
	case u.Fragment != "":
		return ErrValidation.With("url must not have a #fragment: it is never sent.")
	}
	host := strings.ToLower(strings.TrimSuffix(u.Hostname(), "."))
	if oddAddress(host) {
		return ErrValidation.With("url must name its host, or write an address as 192.0.2.1 or [2001:db8::1].")
	}
	if t.private {
		return nil
	}
	port, err := strconv.Atoi(cmp.Or(u.Port(), "443"))
	ip, notIP := netip.ParseAddr(host)
	if host == "localhost" || strings.HasSuffix(host, ".localhost") || notIP == nil && t.guardian.SafeAddr(ip.WithZone("")) != nil {
		return ErrValidation.With("url points at an address of this machine or a private network, which the operator has to allow: [webhooks] allow_private_targets = true.")
	}
	if err != nil || !portAllowed(port) {
		return ErrValidation.With("url must have the port 80, 443 or one above 1023.")
	}
	return nil
}

// oddAddress says whether a host is an IPv4 address as only some programs read
// it, such as 127.1, 2130706433 or 0x7f.0.0.1: no name ends in a number.
func oddAddress(host string) bool {
	if _, err := netip.ParseAddr(host); err == nil {
		return false
	}
	last := host[strings.LastIndexByte(host, '.')+1:]
	if digits, hex := strings.CutPrefix(last, "0x"); hex {
		last = strings.TrimLeft(digits, "0123456789abcdef")
	} else {
		last = strings.TrimLeft(last, "0123456789")
	}
	return last == ""
}

func portAllowed(port int) bool { return port == 80 || port == 443 || port > 1023 && port < 1<<16 }

// errTarget is what a Client's requests fail with where the address is not
// allowed. It does not say which address it was: the name server's answer may
// be nobody's business.
var errTarget = errors.New("refused: the name stands for an address of this machine, of a private network or with a port that is not allowed")

// control is called with the address of every connection before it is made,
// after names are resolved: a name that changes its mind gains nothing.
func (t *TargetPolicy) control(_ context.Context, network, address string, c syscall.RawConn) error {
	if t.private {
		return nil
	}
	at, err := netip.ParseAddrPort(address)
	if err != nil || !portAllowed(int(at.Port())) || t.guardian.Safe(network, address, c) != nil {
		return errTarget
	}
	return nil
}

// Client gives a client that connects to allowed addresses alone. It follows no
// redirect and knows no proxy: either would go where nothing checks it.
func (t *TargetPolicy) Client() *http.Client {
	dialer := &net.Dialer{Timeout: time.Minute, ControlContext: t.control, Resolver: t.resolver}
	return &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			Proxy: nil, DialContext: dialer.DialContext, ForceAttemptHTTP2: true, TLSHandshakeTimeout: time.Minute,
			DisableCompression:     true, // what a receiver answers is never unpacked
			MaxResponseHeaderBytes: 64 << 10, MaxIdleConns: 100, MaxIdleConnsPerHost: 2, IdleConnTimeout: 30 * time.Second,
		},
	}
}
