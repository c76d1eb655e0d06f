package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/go-webauthn/webauthn/protocol/webauthncbor"

	"latchkey/dashboard"
)

// The flags of the authenticator data.
const (
	flagPresent    = 0x01
	flagVerified   = 0x04
	flagSyncable   = 0x08
	flagBackedUp   = 0x10
	flagCredential = 0x40
)

// authenticator is an authenticator with one passkey, which also answers what a browser would not.
type authenticator struct {
	key     *ecdsa.PrivateKey
	id      []byte
	handle  []byte
	counter uint32
}

func newAuthenticator(t testing.TB) *authenticator {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	a := &authenticator{key: key, id: make([]byte, 16)}
	_, _ = rand.Read(a.id)
	return a
}

// ceremony is what an authenticator and a browser put into an answer. A test changes it.
type ceremony struct {
	Type, Challenge, Origin, Host string
	Flags                         byte
	Counter                       uint32
	ID, Handle                    []byte
	Key                           map[int]any // COSE key
	Sign                          func(data []byte) []byte
	Cross                         bool
}

var b64 = base64.RawURLEncoding.EncodeToString

// begin reads the options of a question.
func (a *authenticator) begin(t testing.TB, kind, options string) (c ceremony) {
	t.Helper()
	var o struct {
		Challenge, RPID string
		RP              struct{ ID string }
		User            struct{ ID string }
	}
	if err := json.Unmarshal([]byte(options), &o); err != nil {
		t.Fatalf("options %q: %v", options, err)
	}
	if kind == "webauthn.create" {
		o.RPID = o.RP.ID
		a.handle, _ = base64.RawURLEncoding.DecodeString(o.User.ID)
	}
	a.counter++
	x, y := make([]byte, 32), make([]byte, 32)
	return ceremony{
		Type: kind, Challenge: o.Challenge, Origin: "http://localhost:8081", Host: o.RPID, Flags: flagPresent | flagVerified, Counter: a.counter, ID: a.id, Handle: a.handle,
		Key:  map[int]any{1: 2, 3: -7, -1: 1, -2: a.key.X.FillBytes(x), -3: a.key.Y.FillBytes(y)},
		Sign: func(data []byte) []byte { return signES256(t, a.key, data) },
	}
}

func signES256(t testing.TB, key *ecdsa.PrivateKey, data []byte) []byte {
	t.Helper()
	sum := sha256.Sum256(data)
	sig, err := ecdsa.SignASN1(rand.Reader, key, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	return sig
}

// parts returns the client data and the authenticator data.
func (c ceremony) parts() (client, data []byte) {
	client, _ = json.Marshal(map[string]any{"type": c.Type, "challenge": c.Challenge, "origin": c.Origin, "crossOrigin": c.Cross})
	host := sha256.Sum256([]byte(c.Host))
	data = append(host[:], c.Flags)
	return client, binary.BigEndian.AppendUint32(data, c.Counter)
}

func (c ceremony) answer(response map[string]any) string {
	text, _ := json.Marshal(map[string]any{"id": b64(c.ID), "rawId": b64(c.ID), "type": "public-key", "clientExtensionResults": map[string]any{}, "response": response})
	return string(text)
}

// create answers the question for a new passkey.
func (a *authenticator) create(t testing.TB, options string, change ...func(*ceremony)) string {
	t.Helper()
	c := a.begin(t, "webauthn.create", options)
	c.Flags |= flagCredential
	for _, one := range change {
		one(&c)
	}
	client, data := c.parts()
	key, err := webauthncbor.Marshal(c.Key)
	if err != nil {
		t.Fatal(err)
	}
	data = append(data, make([]byte, 16)...) // AAGUID
	data = binary.BigEndian.AppendUint16(data, uint16(len(c.ID)))
	data = append(append(data, c.ID...), key...)
	object, err := webauthncbor.Marshal(map[string]any{"fmt": "none", "attStmt": map[string]any{}, "authData": data})
	if err != nil {
		t.Fatal(err)
	}
	return c.answer(map[string]any{"clientDataJSON": b64(client), "attestationObject": b64(object), "transports": []string{"usb"}})
}

// get answers the question for the passkey.
func (a *authenticator) get(t testing.TB, options string, change ...func(*ceremony)) string {
	t.Helper()
	c := a.begin(t, "webauthn.get", options)
	for _, one := range change {
		one(&c)
	}
	client, data := c.parts()
	sum := sha256.Sum256(client)
	response := map[string]any{"clientDataJSON": b64(client), "authenticatorData": b64(data), "signature": b64(c.Sign(append(data, sum[:]...)))}
	if c.Handle != nil {
		response["userHandle"] = b64(c.Handle)
	}
	return c.answer(response)
}

// passkeys is a service with the operator Ann, who has a session that is proven and one passkey.
type passkeys struct {
	*browser
	ann dashboard.Session
	key *authenticator
}

func newPasskeyTest(t *testing.T) *passkeys {
	t.Helper()
	p := &passkeys{browser: newDashboard(t), key: newAuthenticator(t)}
	p.prove()
	p.ann = p.session(p.sessionCookie().Value)
	if err := p.add(p.key, ""); err != nil {
		t.Fatal(err)
	}
	return p
}

// session returns the session with a token.
func (p *passkeys) session(token string) dashboard.Session {
	p.t.Helper()
	s, ok := p.accounts.Session(httptest.NewRequest("GET", "/", nil), token)
	if !ok {
		p.t.Fatal("there is no such session")
	}
	return s
}

func (p *passkeys) post() *http.Request { return httptest.NewRequest("POST", "/", nil) }

// add adds the passkey of an authenticator to Ann.
func (p *passkeys) add(key *authenticator, name string, change ...func(*ceremony)) error {
	p.t.Helper()
	q := p.accounts.AskNew(p.ann)
	return p.accounts.AddPasskey(p.post(), p.ann, name, q.Ticket, key.create(p.t, q.Options, change...))
}

// stored returns the factors of Ann.
func (p *passkeys) stored() (list []factor) {
	p.t.Helper()
	err := p.Store.View(func(tx *Tx) (err error) {
		list, err = factorsOf(tx, p.ann.ID)
		return err
	})
	if err != nil {
		p.t.Fatal(err)
	}
	return list
}

// enter logs in with the passkey of an authenticator.
func (p *passkeys) enter(key *authenticator, change ...func(*ceremony)) (dashboard.Login, error) {
	p.t.Helper()
	q, _ := p.accounts.AskLogin()
	return p.accounts.LoginWithPasskey(p.post(), dashboard.Credentials{Ticket: q.Ticket, Passkey: key.get(p.t, q.Options, change...)})
}

// wantFault wants a Fault with this status and a text.
func wantFault(t testing.TB, err error, status int, text string) {
	t.Helper()
	fault, ok := errors.AsType[*dashboard.Fault](err)
	if !ok || fault.Status != status || !strings.Contains(fault.Message, text) {
		t.Errorf("got %v, want a fault with %d and %q", err, status, text)
	}
}

// refusal returns the reason of the newest refusal in the audit log.
func (p *passkeys) refusal() string {
	p.t.Helper()
	if err := p.Store.Update(func(*Tx) error { return nil }); err != nil { // the entries before it are stored
		p.t.Fatal(err)
	}
	answer := p.operate(200, "GET", "/admin/v1/audit?result=refused&limit=1", "")
	entry := answer["entries"].([]any)[0].(map[string]any)
	detail, _ := entry["detail"].(map[string]any)
	reason, _ := detail["reason"].(string)
	return reason
}

func TestPasskeys_Login(t *testing.T) {
	p := newPasskeyTest(t)
	p.clocks.Pass(time.Hour)
	made, err := p.enter(p.key)
	if err != nil {
		t.Fatal(err)
	}
	if s := p.session(made.Token); s.Name != "Ann" || s.ID != p.ann.ID || made.Device == "" {
		t.Errorf("got a session of %q and the device %q", s.Name, made.Device)
	}
	f := p.stored()[0]
	k, ok := passkeyOf(f)
	if now := p.clock.Latest(p.clock.Now()); !ok || !f.LastUsedAt.Equal(now) || k.Counter != 2 || f.Name != "Passkey" || k.Host != "localhost" {
		t.Errorf("got %+v and %+v, want the use stored", f, k)
	}
	op, err := p.Operators.Find(p.ann.ID)
	if err != nil || len(op.Handle) != 32 || string(op.Handle) != string(p.key.handle) {
		t.Errorf("got the user handle %x, %v; want the 32 bytes that the authenticator has", op.Handle, err)
	}
}

// Everything that a browser refuses to send, and what somebody else sends.
func TestPasskeys_LoginRefuses(t *testing.T) {
	other := newAuthenticator(t)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name   string
		change func(*ceremony)
		reason string
	}{
		{"another origin", func(c *ceremony) { c.Origin = "http://localhost:8082" }, "origin"},
		{"another scheme", func(c *ceremony) { c.Origin = "https://localhost:8081" }, "origin"},
		{"an origin that begins the same", func(c *ceremony) { c.Origin = "http://localhost:8081.example.com" }, "origin"},
		{"within a page of another site", func(c *ceremony) { c.Cross = true }, "cross origin"},
		{"another relying party", func(c *ceremony) { c.Host = "example.com" }, "RP Hash"},
		{"the type of a new passkey", func(c *ceremony) { c.Type = "webauthn.create" }, "ceremony type"},
		{"another challenge", func(c *ceremony) { c.Challenge = b64(make([]byte, 32)) }, "challenge"},
		{"no challenge", func(c *ceremony) { c.Challenge = "" }, "challenge"},
		{"signed by another key", func(c *ceremony) { c.Sign = func(data []byte) []byte { return signES256(t, other.key, data) } }, "signature"},
		{"signed with another algorithm", func(c *ceremony) {
			c.Sign = func(data []byte) []byte {
				sum := sha256.Sum256(data)
				sig, _ := rsa.SignPKCS1v15(rand.Reader, rsaKey, crypto.SHA256, sum[:])
				return sig
			}
		}, "signature"},
		{"an empty signature", func(c *ceremony) { c.Sign = func([]byte) []byte { return nil } }, ""},
		{"the user not verified", func(c *ceremony) { c.Flags &^= flagVerified }, "verification"},
		{"the user not present", func(c *ceremony) { c.Flags &^= flagPresent }, "presence"},
		{"suddenly one that can be copied", func(c *ceremony) { c.Flags |= flagSyncable }, "Backup Eligible"},
		{"backed up and not to be copied", func(c *ceremony) { c.Flags |= flagBackedUp }, "Backup State"},
		{"the counter as before", func(c *ceremony) { c.Counter = 1 }, "counter"},
		{"the counter back at zero", func(c *ceremony) { c.Counter = 0 }, "counter"},
		{"an unknown passkey", func(c *ceremony) { c.ID = other.id }, "not known"},
		{"an unknown user handle", func(c *ceremony) { c.Handle = make([]byte, 32) }, "not known"},
		{"no user handle", func(c *ceremony) { c.Handle = nil }, "not known"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := newPasskeyTest(t)
			_, err := p.enter(p.key, tt.change)
			fault, ok := errors.AsType[*dashboard.Fault](err)
			if !ok || fault.Status != 401 || fault.Message == "" {
				t.Fatalf("got %v, want a fault with 401", err)
			}
			if got := p.refusal(); !strings.HasPrefix(got, "passkey: ") || !strings.Contains(strings.ToLower(got), strings.ToLower(tt.reason)) {
				t.Errorf("got the reason %q in the audit log, want %q in it", got, tt.reason)
			}
			if k, _ := passkeyOf(p.stored()[0]); k.Counter != 1 || !p.stored()[0].LastUsedAt.IsZero() {
				t.Errorf("got %+v, want the passkey as it was", k)
			}
			if _, err := p.enter(p.key); err != nil { // the same passkey, as it should be
				t.Errorf("afterwards: %v", err)
			}
		})
	}
}

// A challenge works once, in time, and for what it was made for.
func TestPasskeys_Challenges(t *testing.T) {
	p := newPasskeyTest(t)
	q, _ := p.accounts.AskLogin()
	answer := p.key.get(t, q.Options)
	login := func(ticket, answer string) error {
		_, err := p.accounts.LoginWithPasskey(p.post(), dashboard.Credentials{Ticket: ticket, Passkey: answer})
		return err
	}
	wantFault(t, login("", answer), 401, "too long")
	wantFault(t, login(q.Ticket[1:], answer), 401, "too long")
	wantFault(t, login(p.accounts.askConfirm(p.ann).Ticket, answer), 401, "too long")
	wantFault(t, login(p.accounts.AskNew(p.ann).Ticket, answer), 401, "too long")
	p.clocks.Pass(loginSpan)
	q, _ = p.accounts.AskLogin()
	answer = p.key.get(t, q.Options)
	for _, bad := range []string{"", "{}", "[]", "x", `{"id": 1}`, answer + "{}", strings.Repeat("[", 40_000)} {
		wantFault(t, login(q.Ticket, bad), 401, "not accepted")
	}
	p.clocks.Pass(loginSpan)

	q, _ = p.accounts.AskLogin()
	p.clocks.Pass(passkeySpan - time.Second)
	if err := login(q.Ticket, p.key.get(t, q.Options)); err != nil {
		t.Errorf("just in time: %v", err)
	}
	wantFault(t, login(q.Ticket, p.key.get(t, q.Options)), 401, "sent before") // with a new counter
	q, _ = p.accounts.AskLogin()
	p.clocks.Pass(passkeySpan)
	wantFault(t, login(q.Ticket, p.key.get(t, q.Options)), 401, "too long")

	// Nobody answers for somebody else, or in another session.
	p.operate(201, "POST", "/admin/v1/operators", `{"name": "Bob", "password": "`+operatorPassword+`"}`)
	made, err := p.accounts.Login(p.post(), dashboard.Credentials{Name: "Bob", Password: operatorPassword})
	if err != nil {
		t.Fatal(err)
	}
	bob := p.session(made.Token)
	if q := p.accounts.askConfirm(bob); q.Options != "" {
		t.Errorf("got %s for an operator without a passkey", q.Options)
	}
	confirm := p.accounts.askConfirm(p.ann)
	answer = p.key.get(t, confirm.Options)
	wantFault(t, p.accounts.ConfirmWithPasskey(p.post(), bob, confirm.Ticket, answer), 400, "too long")
	again, err := p.enter(p.key)
	if err != nil {
		t.Fatal(err)
	}
	wantFault(t, p.accounts.ConfirmWithPasskey(p.post(), p.session(again.Token), confirm.Ticket, p.key.get(t, confirm.Options)), 400, "too long")
	if s := p.session(made.Token); p.accounts.Proven(s) {
		t.Error("Bob's session counts as confirmed")
	}
	fresh := p.accounts.AskNew(p.ann)
	bob.ProvenAt = p.clock.Latest(p.clock.Now())
	wantFault(t, p.accounts.AddPasskey(p.post(), bob, "", fresh.Ticket, newAuthenticator(t).create(t, fresh.Options)), 400, "too long")
}

func TestPasskeys_Confirm(t *testing.T) {
	p := newPasskeyTest(t)
	p.clocks.Pass(ProofSpan + time.Second)
	confirm := func(change ...func(*ceremony)) error {
		q := p.accounts.askConfirm(p.ann)
		return p.accounts.ConfirmWithPasskey(p.post(), p.ann, q.Ticket, p.key.get(t, q.Options, change...))
	}
	if p.ann = p.session(p.ann.Token); p.accounts.Proven(p.ann) {
		t.Fatal("the session is proven already")
	}
	wantFault(t, confirm(func(c *ceremony) { c.Flags &^= flagVerified }), 400, "not accepted")
	wantFault(t, confirm(func(c *ceremony) { c.ID = newAuthenticator(t).id }), 400, "not known")
	if p.ann = p.session(p.ann.Token); p.accounts.Proven(p.ann) {
		t.Fatal("a refused passkey proves the session")
	}
	if err := confirm(); err != nil {
		t.Fatal(err)
	}
	if p.ann = p.session(p.ann.Token); !p.accounts.Proven(p.ann) {
		t.Fatal("the session is not proven")
	}
	p.clocks.Pass(loginSpan)
	for range confirmsBySession {
		wantFault(t, confirm(func(c *ceremony) { c.Flags &^= flagVerified }), 400, "not accepted")
	}
	wantFault(t, confirm(), 429, "Too many")
}

func TestPasskeys_Add(t *testing.T) {
	p := newPasskeyTest(t)
	verified := func(c *ceremony) { c.Flags &^= flagVerified }
	if err := p.add(newAuthenticator(t), " Blue key ", verified); err != nil { // as a second factor that is enough
		t.Fatal(err)
	}
	if err := p.add(newAuthenticator(t), "", func(c *ceremony) { c.Flags |= flagSyncable | flagBackedUp }); err != nil {
		t.Fatal(err)
	}
	list := p.stored()
	if k, _ := passkeyOf(list[2]); len(list) != 3 || list[1].Name != "Blue key" || list[2].Name != "Passkey 2" || !k.BackedUp || !k.Syncable {
		t.Errorf("got %+v", list)
	}
	wantFault(t, p.add(p.key, ""), 409, "stored already")
	other := newAuthenticator(t)
	for _, tt := range []struct {
		name   string
		change func(*ceremony)
	}{
		{"another origin", func(c *ceremony) { c.Origin = "http://localhost:9" }},
		{"another relying party", func(c *ceremony) { c.Host = "example.com" }},
		{"the type of a login", func(c *ceremony) { c.Type = "webauthn.get" }},
		{"another challenge", func(c *ceremony) { c.Challenge = b64(make([]byte, 32)) }},
		{"the user not present", func(c *ceremony) { c.Flags &^= flagPresent }},
		{"an algorithm that was not offered", func(c *ceremony) { c.Key[3] = -35 }}, // ES384
		{"backed up and not to be copied", func(c *ceremony) { c.Flags |= flagBackedUp }},
	} {
		err := p.add(other, "", tt.change)
		if fault, ok := errors.AsType[*dashboard.Fault](err); !ok || fault.Status != 400 || fault.Message != passkeyRefused("").Message {
			t.Errorf("%s: got %v, want a fault with 400", tt.name, err)
		}
	}
	wantFault(t, p.add(other, strings.Repeat("x", WordLength+1)), 400, "name must have")
	for range maxFactors[factorPasskey] - 3 {
		if err := p.add(newAuthenticator(t), ""); err != nil {
			t.Fatal(err)
		}
	}
	wantFault(t, p.add(other, ""), 409, "20 factors")
	p.clocks.Pass(ProofSpan + time.Second)
	p.ann = p.session(p.ann.Token)
	wantFault(t, p.add(other, ""), 403, "Confirm")
	if len(p.stored()) != maxFactors[factorPasskey] {
		t.Errorf("got %d passkeys, want %d", len(p.stored()), maxFactors[factorPasskey])
	}
}

// A passkey of somebody who is disabled or removed opens nothing.
func TestPasskeys_Disabled(t *testing.T) {
	p := newPasskeyTest(t)
	p.operate(201, "POST", "/admin/v1/operators", `{"name": "Eve", "password": "`+operatorPassword+`"}`)
	p.operate(200, "PATCH", "/admin/v1/operators/1", `{"disabled": true}`)
	_, err := p.enter(p.key)
	wantFault(t, err, 401, "not accepted")
	if got := p.refusal(); got != "operator 1 is disabled" {
		t.Errorf("got the reason %q", got)
	}
	p.operate(200, "PATCH", "/admin/v1/operators/1", `{"disabled": false}`)
	if _, err := p.enter(p.key); err != nil {
		t.Errorf("enabled again: %v", err)
	}
}

// Strangers who send nonsense are slowed down as those who guess passwords.
func TestPasskeys_Throttle(t *testing.T) {
	p := newPasskeyTest(t)
	for range loginsByAddress {
		_, err := p.enter(p.key, func(c *ceremony) { c.Flags &^= flagVerified })
		wantFault(t, err, 401, "not accepted")
	}
	_, err := p.enter(p.key)
	wantFault(t, err, 429, "")
	_, err = p.accounts.Login(p.post(), dashboard.Credentials{Name: "Ann", Password: operatorPassword})
	wantFault(t, err, 429, "")
	device := ""
	for _, c := range p.jar.Cookies(p.request("GET", "/").URL) {
		if strings.HasPrefix(c.Name, "latchkey_device") {
			device = c.Value
		}
	}
	q, _ := p.accounts.AskLogin()
	if _, err := p.accounts.LoginWithPasskey(p.post(), dashboard.Credentials{Ticket: q.Ticket, Passkey: p.key.get(t, q.Options), Device: device}); err != nil {
		t.Errorf("in a known browser: %v", err)
	}
}

// An operator begins with a passkey, and never has a password.
func TestPasskeys_First(t *testing.T) {
	a := newTestApp(t)
	p := &passkeys{browser: newBrowser(a), key: newAuthenticator(t)}
	link := strings.TrimPrefix(a.operate(201, "POST", "/admin/v1/setup-link", "")["path"].(string), "/setup?token=")
	q := p.accounts.AskFirst(link, "")
	unverified := p.key.create(t, q.Options, func(c *ceremony) { c.Flags &^= flagVerified })
	_, err := p.accounts.Setup(p.post(), dashboard.Credentials{Name: "Ann", Link: link, Ticket: q.Ticket, Passkey: unverified})
	wantFault(t, err, 400, "not accepted")
	_, err = p.accounts.Setup(p.post(), dashboard.Credentials{Name: "Ann", Link: "none", Ticket: q.Ticket, Passkey: p.key.create(t, q.Options)})
	wantFault(t, err, 400, "too long")
	made, err := p.accounts.Setup(p.post(), dashboard.Credentials{Name: "Ann", Link: link, Ticket: q.Ticket, Passkey: p.key.create(t, q.Options)})
	if err != nil {
		t.Fatal(err)
	}
	p.ann = p.session(made.Token)
	op, err := p.Operators.Find(p.ann.ID)
	if err != nil || op.Password != "" || !op.Joined || op.status() != operatorActive || !op.administers() {
		t.Errorf("got %+v, %v; want an admin without a password", op, err)
	}
	if _, err := p.enter(p.key); err != nil {
		t.Error(err)
	}
	for _, password := range []string{"", operatorPassword} {
		_, err = p.accounts.Login(p.post(), dashboard.Credentials{Name: "Ann", Password: password})
		wantFault(t, err, 401, "")
	}
	q = p.accounts.AskFirst(link, "")
	_, err = p.accounts.Setup(p.post(), dashboard.Credentials{Name: "Eve", Link: link, Ticket: q.Ticket, Passkey: newAuthenticator(t).create(t, q.Options)})
	wantFault(t, err, 403, "set-up link")

	invitation := a.operate(201, "POST", "/admin/v1/operators/invite", `{"name": "Bob", "role": "viewer"}`)
	link = strings.TrimPrefix(invitation["path"].(string), "/join?token=")
	q = p.accounts.AskFirst(link, "Bob")
	bobs := newAuthenticator(t)
	made, err = p.accounts.Join(p.post(), dashboard.Credentials{Link: link, Ticket: q.Ticket, Passkey: bobs.create(t, q.Options)})
	if err != nil {
		t.Fatal(err)
	}
	if s := p.session(made.Token); s.Name != "Bob" || s.Role != "viewer" {
		t.Errorf("got %+v", s)
	}
	if _, err := p.enter(bobs); err != nil {
		t.Error(err)
	}
	q = p.accounts.AskFirst(link, "Bob")
	_, err = p.accounts.Join(p.post(), dashboard.Credentials{Link: link, Ticket: q.Ticket, Passkey: newAuthenticator(t).create(t, q.Options)})
	wantFault(t, err, 403, "invitation")
	_, err = p.enter(bobs, func(c *ceremony) { c.Handle = p.key.handle }) // Bob's key for Ann
	wantFault(t, err, 401, "not known")
}

func TestPasskeys_WithoutPassword(t *testing.T) {
	p := newPasskeyTest(t)
	wantFault(t, p.accounts.RemovePassword(p.post(), p.ann), 409, "two passkeys")
	second := newAuthenticator(t)
	if err := p.add(second, ""); err != nil {
		t.Fatal(err)
	}
	elsewhere, err := p.enter(second)
	if err != nil {
		t.Fatal(err)
	}
	unproven := p.session(elsewhere.Token)
	wantFault(t, p.accounts.RemovePassword(p.post(), unproven), 403, "Confirm")
	if err := p.accounts.RemovePassword(p.post(), p.ann); err != nil {
		t.Fatal(err)
	}
	if _, ok := p.accounts.Session(p.post(), elsewhere.Token); ok {
		t.Error("another session goes on")
	}
	_, err = p.accounts.Login(p.post(), dashboard.Credentials{Name: "Ann", Password: operatorPassword})
	wantFault(t, err, 401, "")
	if _, err := p.enter(p.key); err != nil || p.accounts.HasPassword(p.ann) {
		t.Errorf("got %v and a password: %v", err, p.accounts.HasPassword(p.ann))
	}
	// A new password needs a passkey in place of the present one.
	p.clocks.Pass(ProofSpan + time.Second)
	p.ann = p.session(p.ann.Token)
	wantFault(t, p.accounts.ChangePassword(p.post(), p.ann, "", "another good passphrase"), 403, "Confirm")
	q := p.accounts.askConfirm(p.ann)
	if err := p.accounts.ConfirmWithPasskey(p.post(), p.ann, q.Ticket, p.key.get(t, q.Options)); err != nil {
		t.Fatal(err)
	}
	if err := p.accounts.ChangePassword(p.post(), p.session(p.ann.Token), "", "another good passphrase"); err != nil {
		t.Fatal(err)
	}
	if _, err := p.accounts.Login(p.post(), dashboard.Credentials{Name: "Ann", Password: "another good passphrase"}); err != nil {
		t.Error(err)
	}
}

// Passkeys belong to a host name.
func TestPasskeys_Host(t *testing.T) {
	for address, want := range map[string]bool{
		"http://localhost:8081": true, "https://localhost:8081": true, "https://keys.example.com": true, "https://keys": false,
		"http://keys.example.com": false, "http://127.0.0.1:8081": false, "https://127.0.0.1:8081": false, "https://[::1]:8081": false, "http://192.0.2.1": false,
	} {
		if party := partyAt(address); (party.web != nil) != want {
			t.Errorf("%s: got %+v, want passkeys: %v", address, party, want)
		}
	}
	p := newPasskeyTest(t)
	p.Passkeys.At("https://keys.example.com")
	if q, lost := p.accounts.AskLogin(); q.Options != "" || fmt.Sprint(lost) != "[localhost]" {
		t.Errorf("got %+v and %v, want no question", q, lost)
	}
	if q := p.accounts.askConfirm(p.ann); q.Options != "" {
		t.Errorf("got %+v", q)
	}
	here := newAuthenticator(t)
	if err := p.add(here, "", func(c *ceremony) { c.Origin = "https://keys.example.com" }); err != nil {
		t.Fatal(err)
	}
	if _, err := p.enter(here, func(c *ceremony) { c.Origin = "https://keys.example.com" }); err != nil {
		t.Error(err)
	}
	_, err := p.enter(p.key, func(c *ceremony) { c.Origin, c.Host = "http://localhost:8081", "localhost" })
	wantFault(t, err, 401, "not known")
	wantFault(t, p.accounts.RemovePassword(p.post(), p.ann), 409, "two passkeys") // that of the other host name does not count
}

// Of two answers with the same counter at the same time one is a copy.
func TestPasskeys_Counter(t *testing.T) {
	p := newPasskeyTest(t)
	k, _ := passkeyOf(p.stored()[0])
	seen := k.credential()
	seen.Authenticator.SignCount = 2
	now := p.clock.Latest(p.clock.Now())
	if _, err := p.Passkeys.use(p.ann.ID, &seen, false, now); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Passkeys.use(p.ann.ID, &seen, false, now); !errors.Is(err, errPasskeyCloned) {
		t.Errorf("got %v, want %v", err, errPasskeyCloned)
	}
	// Synced passkeys do not count.
	synced := newAuthenticator(t)
	zero := func(c *ceremony) { c.Counter = 0 }
	if err := p.add(synced, "", zero); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := p.enter(synced, zero); err != nil {
			t.Error(err)
		}
	}
}

// After the password a passkey is the second factor, without the user being verified once more.
func TestPasskeys_SecondStep(t *testing.T) {
	p := newPasskeyTest(t)
	step := func() *dashboard.LoginStep {
		t.Helper()
		made, err := p.accounts.Login(p.post(), dashboard.Credentials{Name: "Ann", Password: operatorPassword})
		if err != nil || made.Step == nil || made.Token != "" || made.Step.Passkey.Options == "" {
			t.Fatalf("got %+v, %v; want a second step with a passkey", made, err)
		}
		return made.Step
	}
	answer := func(s *dashboard.LoginStep, text string) (dashboard.Login, error) {
		return p.accounts.Login(p.post(), dashboard.Credentials{Second: true, Ticket: s.Ticket, Passkey: text})
	}
	first := step()
	wrong, err := answer(first, p.key.get(t, first.Passkey.Options, func(c *ceremony) { c.Origin = "http://localhost:1" }))
	wantFault(t, err, 401, "not accepted")
	if wrong.Step == nil || wrong.Step.Passkey.Options != first.Passkey.Options {
		t.Fatalf("got %+v, want the same step again", wrong.Step)
	}
	text := p.key.get(t, first.Passkey.Options, func(c *ceremony) { c.Flags &^= flagVerified })
	made, err := answer(first, text)
	if err != nil || made.Step != nil {
		t.Fatalf("got %+v, %v", made, err)
	}
	p.session(made.Token)
	_, err = answer(first, p.key.get(t, first.Passkey.Options))
	wantFault(t, err, 401, "sent before")

	// Nor does the passkey of somebody else do, or the answer to another step.
	p.operate(201, "POST", "/admin/v1/operators", `{"name": "Bob", "password": "`+operatorPassword+`"}`)
	other := newAuthenticator(t)
	_, err = answer(step(), other.get(t, first.Passkey.Options))
	wantFault(t, err, 401, "not known")
	_, err = answer(step(), p.key.get(t, first.Passkey.Options))
	wantFault(t, err, 401, "not accepted")
	second := step()
	p.clocks.Pass(stepSpan)
	_, err = answer(second, p.key.get(t, second.Passkey.Options))
	wantFault(t, err, 401, "expired")
}

// Who has neither a password nor the passkeys any more comes back with a recovery code.
func TestPasskeys_Recovery(t *testing.T) {
	p := newPasskeyTest(t)
	codes := p.recoveryCodes()
	_, err := p.accounts.Login(p.post(), dashboard.Credentials{Name: "Ann", Password: codes[0]})
	wantFault(t, err, 401, "")                                                          // the password is needed while there is one
	if err := p.accounts.RemovePassword(p.post(), p.session(p.ann.Token)); err != nil { // one passkey and codes are enough
		t.Fatal(err)
	}
	made, err := p.accounts.Login(p.post(), dashboard.Credentials{Name: "ANN", Password: strings.ToLower(codes[0])})
	if err != nil || made.Step != nil {
		t.Fatalf("got %+v, %v", made, err)
	}
	p.session(made.Token)
	for _, code := range []string{codes[0], "", "AAAA-AAAA-AAAA-AAAA"} {
		_, err = p.accounts.Login(p.post(), dashboard.Credentials{Name: "Ann", Password: code})
		wantFault(t, err, 401, "")
	}
	p.operate(201, "POST", "/admin/v1/operators", `{"name": "Eve", "password": "`+operatorPassword+`"}`)
	p.operate(200, "PATCH", "/admin/v1/operators/1", `{"disabled": true}`)
	_, err = p.accounts.Login(p.post(), dashboard.Credentials{Name: "Ann", Password: codes[1]})
	wantFault(t, err, 401, "")
}

// The last passkey that works here stays if there is no password.
func TestPasskeys_Last(t *testing.T) {
	p := newPasskeyTest(t)
	second := newAuthenticator(t)
	if err := p.add(second, ""); err != nil {
		t.Fatal(err)
	}
	if err := p.accounts.RemovePassword(p.browser.request("POST", "/"), p.ann); err != nil {
		t.Fatal(err)
	}
	p.prove()
	remove := func(id string) *httptest.ResponseRecorder {
		return p.browser.post("/account/factors/" + id + "/remove")
	}
	p.sent(remove("1"), "/account?done=unfactor")
	p.says(remove("2"), http.StatusConflict, "without this passkey you could not log in")
	p.says(p.browser.get("/account"), 200, "You have no password.")
	wantAnswer(t, p.browser.operateBy("POST", "/admin/v1/confirm", `{"password": "x"}`), 400, "You have no password")
	p.operate(409, "PATCH", "/admin/v1/operators/1", `{"reset_factors": true}`) // nor does somebody else remove it
	if _, err := p.enter(second); err != nil {
		t.Error(err)
	}
	_, err := p.enter(p.key)
	wantFault(t, err, 401, "not known")
}

// "config check" counts the passkeys of a server that is stopped, and says nothing about those of a
// database that it cannot read.
func TestPasskeys_ConfigCheck(t *testing.T) {
	p := newPasskeyTest(t)
	s := service{config: p.config}
	if hosts := s.passkeyHosts(); hosts != nil { // the database is open, and there is no socket
		t.Errorf("got %v of a database in use", hosts)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	p.App = nil
	s.config.Admin.BaseURL = "https://keys.example.com"
	warnings, err := s.Check()
	if err != nil || len(warnings) != 1 || !strings.Contains(warnings[0], "made for localhost do not work at https://keys.example.com (stored: 1)") {
		t.Errorf("got %q, %v; want one warning about the passkey", warnings, err)
	}
}
