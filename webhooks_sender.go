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
	"unicode/utf8"

	"code.dny.dev/ssrf"

	"latchkey/internal/clock"
)

const (
	// maxSending is the maximum number of webhooks that are sent to at the same time. Slow webhooks
	// (see queue.Slow) get at most half of it, so that they cannot hold up the others.
	maxSending = 64
	// inARow is the maximum number of deliveries that are sent to a webhook before the other
	// webhooks have a turn.
	inARow = 20
	// sendGrace is how long Close waits for attempts that have begun.
	sendGrace = 5 * time.Second
)

// secretPurpose is the purpose that Peppers.Encrypt and Peppers.Decrypt bind webhook secrets to.
const secretPurpose = "webhook secret"

// SenderOptions holds what a Sender needs.
type SenderOptions struct {
	Store   *Store
	Clock   *clock.Clock
	Peppers Peppers // decrypts the secrets of the webhooks
	Targets *TargetPolicy
	Log     *slog.Logger

	Timeout time.Duration // maximum duration of an attempt
	Header  string        // name of the signature header
	Scheme  string        // form of the signature: "hex" or "sha256=hex" (see sign)

	// Watch is called after every attempt, including tests. It may be nil. It must return quickly
	// and be safe for concurrent use.
	Watch func(Attempt)
	// Turn reports whether this node of a cluster is the one that sends; the others would send the same deliveries. It must return
	// quickly. nil: always.
	Turn func() bool
}

// Sender sends the pending deliveries of the outbox: to each webhook one at a time, to different
// webhooks in parallel. A delivery may arrive more than once. It is sent again if the answer was
// lost or the outcome could not be stored. A Sender is safe for concurrent use.
type Sender struct {
	o      SenderOptions
	client *http.Client

	ctx    context.Context // context of all attempts from the queue
	cancel context.CancelFunc
	wake   chan struct{} // holds a token if a delivery may be due
	stop   chan struct{} // closed by Close
	ended  sync.WaitGroup

	mu     sync.Mutex
	closed bool
	busy   map[uint64]bool // webhooks being sent to; true for slow ones
	freed  *sync.Cond      // signaled when a webhook leaves busy
}

// NewSender returns a Sender. It sends nothing from the outbox before Start is called.
func NewSender(o SenderOptions) *Sender {
	s := &Sender{o: o, client: o.Targets.Client(), wake: make(chan struct{}, 1), stop: make(chan struct{}), busy: map[uint64]bool{}}
	s.freed = sync.NewCond(&s.mu)
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s
}

// Start begins to send the outbox in the background, including the deliveries from before a
// restart. Call it once.
func (s *Sender) Start() {
	changed := outboxChanged(s.o.Store)
	s.Wake()
	s.ended.Go(func() {
		defer FlushAtPanic(s.o.Log)
		for {
			select {
			case <-s.stop:
				return
			case <-s.wake:
			case <-changed:
			}
			if _, err := s.scan(); err != nil && s.o.Store.Err() == nil {
				s.o.Log.Error("outbox not read", "error", err)
			}
		}
	})
}

// Wake makes the Sender look for due deliveries. It returns immediately. Call it about once a
// second; a retry may be late by the time between two calls.
func (s *Sender) Wake() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Close stops the Sender. It waits up to sendGrace for attempts that have begun and then cancels
// them. Canceled deliveries are sent again after the next start. Close may be called twice.
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

// scan begins to send to the webhooks that have a due delivery, up to maxSending. It returns the
// number of webhooks that it began to send to.
func (s *Sender) scan() (started int, err error) {
	if s.o.Turn != nil && !s.o.Turn() {
		return 0, nil
	}
	moment := s.o.Clock.Steady(s.o.Clock.Now())
	err = s.o.Store.View(func(tx *Tx) error {
		if held, err := HeldSince(tx); err != nil || !held.IsZero() {
			return err
		}
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

// work sends to one webhook until no delivery is due, an attempt fails, or inARow deliveries have
// been sent.
func (s *Sender) work(id uint64) {
	defer FlushAtPanic(s.o.Log)
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
			s.o.Log.Error("webhook queue not processed", "webhook", id, "error", err)
		}
		if !more || err != nil {
			return
		}
	}
}

// next makes one attempt at the first pending delivery of a webhook and stores the outcome. more is
// true if the attempt succeeded, so that the following delivery may be sent.
func (s *Sender) next(id uint64) (more bool, err error) {
	var w webhook
	var d delivery
	moment := s.o.Clock.Steady(s.o.Clock.Now())
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
		return false, s.ctx.Err() // Close canceled the attempt, so the receiver has not failed
	}
	return a.Success(), s.settle(w, d, a)
}

// settle stores the outcome of an attempt. It switches the webhook off if its deliveries have
// failed for too long (see deadAfter).
func (s *Sender) settle(w webhook, d delivery, a Attempt) error {
	now := s.o.Clock.Now()
	moment := s.o.Clock.Steady(now) // read after the answer, so that a retry is never early
	reason := ""
	err := s.o.Store.Update(func(tx *Tx) (err error) {
		if reason, err = Settle(tx, d, a, moment); err != nil || reason == "" {
			return err
		}
		w, err := findWebhook(tx, w.ID)
		if err != nil {
			return err
		}
		w.Active, w.UpdatedAt, w.Reason = false, now, reason
		return saveWebhook(tx, w)
	})
	if err == nil && reason != "" {
		s.o.Log.Warn("webhook switched off because every delivery failed for days", "webhook", w.ID)
	}
	return err
}

// Try sends body to a webhook once and immediately, outside its queue, and adds the attempt to the
// log. A failed attempt is not an error; the returned Attempt has the cause. An error means that
// the attempt could not be logged. It is ErrNotFound if the webhook has been deleted.
func (s *Sender) Try(ctx context.Context, w webhook, event string, body []byte) (Attempt, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.ctx, cancel)()
	d := delivery{Webhook: w.ID, ID: newDeliveryID(), Event: event, Body: body}
	a := s.attempt(ctx, w, d)
	a.Delivery, a.Event, a.Attempt, a.Body = d.ID, d.Event, 1, string(body)
	return a, s.o.Store.Update(func(tx *Tx) error {
		if _, err := findWebhook(tx, w.ID); err != nil {
			return err
		}
		return addAttempt(tx, w.ID, a)
	})
}

// attempt makes one POST request and returns its outcome. It leaves the fields Delivery, Event and
// Attempt empty. If the attempt failed, it writes the details to the log of the server.
func (s *Sender) attempt(ctx context.Context, w webhook, d delivery) (a Attempt) {
	a.At = s.o.Clock.Now().UTC()
	began := time.Now()
	status, answer, failed := s.post(ctx, w, d)
	a.Status, a.Error = status, failed.cause
	if !a.Success() {
		a.Answer = answer
	}
	if a.Error == notReached && !s.o.Targets.private {
		wholeSecond(ctx, began)
	}
	a.Took = time.Since(began).Round(time.Millisecond)
	if s.o.Watch != nil {
		s.o.Watch(a)
	}
	if !a.Success() && s.ctx.Err() == nil {
		s.o.Log.Info("webhook delivery failed", "webhook", w.ID, "delivery", d.ID, "event", d.Event, "outcome", a.Outcome(), "detail", failed.detail)
	}
	return a
}

// wholeSecond waits until a whole number of seconds has passed since began, at least one, or until
// ctx ends. Without it, the time of an attempt would tell whether a name is unknown or leads to an
// address that is not allowed.
func wholeSecond(ctx context.Context, began time.Time) {
	passed := time.Since(began)
	wait := time.NewTimer(passed.Truncate(time.Second) + time.Second - passed)
	defer wait.Stop()
	select {
	case <-wait.C:
	case <-ctx.Done():
	}
}

// failure is why an attempt had no answer. It is zero if there was an answer.
type failure struct {
	cause string // as owners are shown it
	// detail is for the log of the server only. It does not contain the URL, because the query may
	// contain a token.
	detail string
}

// post sends a delivery once and returns the HTTP status of the answer and the beginning of its body.
func (s *Sender) post(ctx context.Context, w webhook, d delivery) (status int, text string, failed failure) {
	ctx, cancel := context.WithTimeout(ctx, s.o.Timeout)
	defer cancel()
	r, err := s.request(ctx, w, d)
	if err != nil {
		return 0, "", s.failed(ctx, err)
	}
	answer, err := s.client.Do(r)
	if err != nil {
		return 0, "", s.failed(ctx, err)
	}
	defer answer.Body.Close()
	// The body is read so that the connection can be reused, but only up to 4 KiB. The body of a
	// 101 answer is the connection itself. Reading it would ignore the timeout and could block
	// forever.
	var begin []byte
	if answer.StatusCode != http.StatusSwitchingProtocols {
		begin, _ = io.ReadAll(io.LimitReader(answer.Body, 4<<10))
	}
	return answer.StatusCode, answerText(begin), failure{}
}

// answerText returns the beginning of the body of an answer as text that can be stored, up to maxAnswer
// bytes.
func answerText(body []byte) string {
	text := string(body[:min(len(body), maxAnswer)])
	if len(body) > maxAnswer { // the cut may be inside a character
		for range utf8.UTFMax - 1 {
			if last, size := utf8.DecodeLastRuneInString(text); last != utf8.RuneError || size != 1 {
				break
			}
			text = text[:len(text)-1]
		}
	}
	return strings.ReplaceAll(strings.ToValidUTF8(text, "\uFFFD"), "\x00", "\uFFFD")
}

// request returns the HTTP request for an attempt. Every attempt at the same delivery gets the same
// request.
func (s *Sender) request(ctx context.Context, w webhook, d delivery) (*http.Request, error) {
	secret, err := s.o.Peppers.Decrypt(secretPurpose, w.Bound(), w.Secret)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errSecret, err)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, w.URL, bytes.NewReader(d.Body))
	if err != nil {
		return nil, errURL
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("User-Agent", "Latchkey-Webhooks")
	r.Header.Set("X-Klen-Delivery", d.ID)
	r.Header.Set(s.o.Header, sign(s.o.Scheme, secret, d.Body))
	return r, nil
}

// sign returns the signature of a body: the HMAC-SHA-256 of its bytes as lower-case hex digits. The
// HMAC key is the whole text of the secret, including its prefix. The scheme "sha256=hex" puts
// "sha256=" before the digits. The hosted service does not publish how it signs. Should that become
// known, only this function needs to change.
func sign(scheme, secret string, body []byte) string {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write(body)
	digits := hex.EncodeToString(mac.Sum(nil))
	if scheme == "sha256=hex" {
		return "sha256=" + digits
	}
	return digits
}

// These are errors of Sender.request.
var (
	errSecret = errors.New(secretLost)
	errURL    = errors.New(badURL)
)

// failed returns the failure for an error of request or of the HTTP client.
func (s *Sender) failed(ctx context.Context, err error) failure {
	var outer *url.Error
	if errors.As(err, &outer) {
		err = outer.Err
	}
	text := err.Error()
	f := failure{notReached, text[:min(len(text), 300)]}
	switch {
	case errors.Is(err, errSecret):
		f.cause = secretLost
	case errors.Is(err, errURL):
		f.cause = badURL
	case errors.Is(ctx.Err(), context.DeadlineExceeded) && !errors.Is(err, errTarget):
		f.cause, f.detail = timedOut, fmt.Sprintf("no answer within %s: %s", s.o.Timeout, f.detail)
	}
	return f
}

// TargetPolicy decides which addresses webhooks may be sent to. It protects the network of this
// machine: it refuses loopback, link-local, private and other special addresses, and all addresses
// of this machine, also public ones. It also refuses ports below 1024 except 80 and 443. It is safe
// for concurrent use.
type TargetPolicy struct {
	private    bool // allow every address and port
	guardian   *ssrf.Guardian
	resolver   *net.Resolver              // nil means the system's resolver
	interfaces func() ([]net.Addr, error) // returns the addresses of this machine
}

// platform is the address of Azure's internal services for virtual machines. It looks public but
// leads into the internal network.
var platform = netip.MustParsePrefix("168.63.129.16/32")

// TargetScope selects the addresses that a TargetPolicy allows.
type TargetScope bool

const (
	PublicTargets TargetScope = false // public addresses, at the allowed ports
	AllTargets    TargetScope = true  // every address and port
)

// NewTargetPolicy returns a policy that allows the addresses in scope.
func NewTargetPolicy(scope TargetScope) *TargetPolicy {
	return &TargetPolicy{
		private: scope == AllTargets, guardian: ssrf.New(ssrf.WithAnyPort(), ssrf.WithDeniedV4Prefixes(platform)), interfaces: net.InterfaceAddrs,
	}
}

// checkOwn returns errTarget if ip is an address of this machine. It reads the addresses each time,
// because they can change. If it cannot read them, it returns nil; the other rules of TargetPolicy
// still hold. So a unit of the service manager that forbids reading them does not stop webhooks.
func (t *TargetPolicy) checkOwn(ip netip.Addr) error {
	list, err := t.interfaces()
	if err != nil {
		return nil
	}
	for _, a := range list {
		own, err := netip.ParsePrefix(a.String())
		if err == nil && own.Addr().Unmap().WithZone("") == ip.Unmap().WithZone("") {
			return errTarget
		}
	}
	return nil
}

// Check returns an error if the addresses of this machine cannot be read. Then its public addresses
// are not refused.
func (t *TargetPolicy) Check() error {
	if t.private {
		return nil
	}
	_, err := t.interfaces()
	return err
}

// CheckURL returns ErrValidation with the reason if webhooks cannot be sent to a URL. It does not
// resolve host names, because a name may have another address later. control checks the address of
// each connection instead.
func (t *TargetPolicy) CheckURL(text string) error {
	u, err := url.Parse(text)
	switch {
	case err != nil || len(text) > 2048 || u.Hostname() == "":
		return ErrValidation.With("url must be a URL such as https://hooks.example.net/klen, of at most 2048 bytes.")
	case u.Scheme != "http" && u.Scheme != "https":
		return ErrValidation.With("url must begin with https:// or http://.")
	case u.User != nil:
		return ErrValidation.With("url must not contain a user name or password. Check the signature at the receiver instead.")
	case u.Fragment != "":
		return ErrValidation.With("url must not have a #fragment, because it is never sent.")
	}
	host := strings.ToLower(strings.TrimSuffix(u.Hostname(), "."))
	if oddAddress(host) {
		return ErrValidation.With("url must have a host name, or an address in the form 192.0.2.1 or [2001:db8::1].")
	}
	if t.private {
		return nil
	}
	port, err := strconv.Atoi(cmp.Or(u.Port(), "443"))
	ip, notIP := netip.ParseAddr(host)
	if host == "localhost" || strings.HasSuffix(host, ".localhost") || notIP == nil && (t.guardian.SafeAddr(ip.WithZone("")) != nil || t.checkOwn(ip) != nil) {
		return ErrValidation.With("url points at an address of this machine or a private network. The operator must allow that with allow_private_targets = true under [webhooks].")
	}
	if err != nil || !portAllowed(port) {
		return ErrValidation.With("url must have port 80, port 443 or a port above 1023.")
	}
	return nil
}

// oddAddress reports whether host is an IPv4 address in a form that only some programs accept, such
// as 127.1, 2130706433 or 0x7f.0.0.1. It looks for a number in the last label, because no host name
// ends in a number.
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

// errTarget is the error of a Client if a request leads to an address that is not allowed.
var errTarget = errors.New("refused: the host leads to an address of this machine, to a private network, or to a port that is not allowed")

// control returns errTarget if a resolved address is not allowed. The dialer calls it before each
// connection. This also refuses a name whose address changes after CheckURL (DNS rebinding).
func (t *TargetPolicy) control(_ context.Context, network, address string, c syscall.RawConn) error {
	if t.private {
		return nil
	}
	at, err := netip.ParseAddrPort(address)
	if err != nil || !portAllowed(int(at.Port())) || t.guardian.Safe(network, address, c) != nil {
		return errTarget
	}
	return t.checkOwn(at.Addr())
}

// Client returns a new HTTP client that connects only to allowed addresses. It does not follow
// redirects. It uses no proxy, because a proxy could connect to addresses that control does not
// check.
func (t *TargetPolicy) Client() *http.Client {
	dialer := &net.Dialer{Timeout: time.Minute, ControlContext: t.control, Resolver: t.resolver}
	return &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			Proxy: nil, DialContext: dialer.DialContext, ForceAttemptHTTP2: true, TLSHandshakeTimeout: time.Minute,
			DisableCompression:     true, // so that a small answer cannot expand in memory
			MaxResponseHeaderBytes: 64 << 10, MaxIdleConns: 100, MaxIdleConnsPerHost: 2, IdleConnTimeout: 30 * time.Second,
		},
	}
}
