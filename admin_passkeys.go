package main

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-webauthn/webauthn/protocol"
	"github.com/go-webauthn/webauthn/webauthn"
)

// passkeySpan is how long a challenge for a passkey is valid.
const passkeySpan = 10 * time.Minute

// passkey is the part of a factor that only a passkey has. It has no secret: the private key stays in
// the authenticator.
type passkey struct {
	Host       string                            `json:"host"`       // relying party id, the only host name at which the passkey works
	ID         []byte                            `json:"-"`          // credential id, chosen by the authenticator; see factor.CredentialID
	PublicKey  []byte                            `json:"public_key"` // in the COSE format (RFC 9052)
	Counter    uint32                            `json:"counter,omitempty"`
	Transports []protocol.AuthenticatorTransport `json:"transports,omitempty"`
	Syncable   bool                              `json:"syncable,omitempty"` // may be copied to other devices of the operator; never changes
	BackedUp   bool                              `json:"backed_up,omitempty"`
}

// passkeyOf returns the passkey in a factor. ok is false if the factor is not a passkey.
func passkeyOf(f factor) (k passkey, ok bool) {
	if f.Kind != factorPasskey || json.Unmarshal(f.Credential, &k) != nil {
		return k, false
	}
	k.ID = f.CredentialID
	return k, true
}

// factorFor returns the factor of a passkey.
func (k passkey) factorFor(operator uint64, name string, now time.Time) (f factor, err error) {
	f = factor{Operator: operator, Kind: factorPasskey, Name: name, CreatedAt: now, CredentialID: k.ID}
	f.Credential, err = json.Marshal(k)
	return f, err
}

// credential returns the passkey in the form that package webauthn reads.
func (k passkey) credential() webauthn.Credential {
	return webauthn.Credential{
		ID: k.ID, PublicKey: k.PublicKey, Transport: k.Transports, Authenticator: webauthn.Authenticator{SignCount: k.Counter},
		Flags: webauthn.CredentialFlags{BackupEligible: k.Syncable, BackupState: k.BackedUp},
	}
}

// newPasskey returns the passkey of a credential that was created at a host name.
func newPasskey(host string, c *webauthn.Credential) passkey {
	return passkey{
		Host: host, ID: c.ID, PublicKey: c.PublicKey, Counter: c.Authenticator.SignCount, Transports: c.Transport,
		Syncable: c.Flags.BackupEligible, BackedUp: c.Flags.BackupState,
	}
}

// passkeyError is the reason why a passkey was refused. Reason is for the logs, and Message for the
// operator.
type passkeyError struct{ Reason, Message string }

func (e *passkeyError) Error() string { return e.Reason }

// The reasons that need a message of their own.
var (
	errPasskeyLate    = &passkeyError{"the challenge is not valid any more", "The page was open for too long, or this answer was sent before. Try again."}
	errPasskeyUnknown = &passkeyError{"the passkey is not known", "This passkey is not known here. It may have been removed, or belong to another account."}
	errPasskeyCloned  = &passkeyError{"the counter of the passkey went back, so a copy of it may be in use", "This passkey was refused, because its counter went back: somebody may have a copy of it. Log in by another way, and remove it."}
)

// passkeyRefused returns a passkeyError with the message for everything that a browser does not cause.
func passkeyRefused(format string, args ...any) *passkeyError {
	return &passkeyError{fmt.Sprintf(format, args...), "The passkey was not accepted. Try again."}
}

// passkeyTicket is what a browser keeps while the authenticator is asked.
type passkeyTicket struct {
	Session webauthn.SessionData `json:"session"`
	For     []byte               `json:"for,omitempty"` // hash of the token of the session or of the link that the ticket is for
}

// The kinds of tickets for passkeys. They have different keys, so that the answer to one question is
// never taken as the answer to another.
var (
	passkeyLogin   = ticketKind[passkeyTicket]{"passkey login", passkeySpan}
	passkeyConfirm = ticketKind[passkeyTicket]{"passkey confirmation", passkeySpan}
	passkeyNew     = ticketKind[passkeyTicket]{"new passkey", passkeySpan}
)

// relyingParty is where passkeys work.
type relyingParty struct {
	Host string             // relying party id: the host name in the address of the dashboard
	URL  string             // address of the dashboard
	web  *webauthn.WebAuthn // nil: there can be no passkeys
}

// partyAt returns the relying party for the address of the dashboard. An IP address has no passkeys,
// and neither has plain HTTP, except at localhost, or a host name without a dot.
func partyAt(address string) (p relyingParty) {
	u, err := url.Parse(address)
	if err != nil {
		return p
	}
	p = relyingParty{Host: strings.ToLower(u.Hostname()), URL: u.Scheme + "://" + u.Host}
	if u.Scheme != "https" && p.Host != "localhost" {
		return p
	}
	p.web, _ = webauthn.New(&webauthn.Config{ // an error means that the host can have no passkeys
		RPID: p.Host, RPDisplayName: issuerName, RPOrigins: []string{p.URL}, AttestationPreference: protocol.PreferNoAttestation,
		AuthenticatorSelection: protocol.AuthenticatorSelection{
			ResidentKey: protocol.ResidentKeyRequirementRequired, RequireResidentKey: protocol.ResidentKeyRequired(), UserVerification: protocol.VerificationPreferred,
		},
	})
	return p
}

// Passkeys makes and checks the passkeys of operators. It is safe for concurrent use.
type Passkeys struct {
	store   *Store
	peppers Peppers
	party   atomic.Pointer[relyingParty]
	spent   spent
}

// NewPasskeys returns a Passkeys for a dashboard with this address.
func NewPasskeys(store *Store, peppers Peppers, address string) *Passkeys {
	p := &Passkeys{store: store, peppers: peppers}
	p.At(address)
	return p
}

// At sets the address at which browsers reach the dashboard.
func (p *Passkeys) At(address string) {
	party := partyAt(address)
	p.party.Store(&party)
}

// passkeyUser is an operator as package webauthn wants to see one.
type passkeyUser struct {
	operator
	keys []webauthn.Credential
}

func (u passkeyUser) WebAuthnID() []byte                         { return u.Handle }
func (u passkeyUser) WebAuthnName() string                       { return u.Name }
func (u passkeyUser) WebAuthnDisplayName() string                { return u.Name }
func (u passkeyUser) WebAuthnCredentials() []webauthn.Credential { return u.keys }

// newHandle returns a random user handle, by which an authenticator knows the operator.
func newHandle() []byte {
	handle := make([]byte, 32)
	_, _ = rand.Read(handle) // never returns an error
	return handle
}

// userOf returns an operator with the passkeys that work at a host name.
func userOf(tx *Tx, op operator, host string) (u passkeyUser, err error) {
	u.operator = op
	list, err := factorsOf(tx, op.ID)
	for _, f := range list {
		if k, ok := passkeyOf(f); ok && k.Host == host {
			u.keys = append(u.keys, k.credential())
		}
	}
	return u, err
}

// passkeyQuestion is a question to the authenticator.
type passkeyQuestion struct {
	Options string // for navigator.credentials, as JSON; "" if there is nothing to ask
	Ticket  string
}

// asked returns the question with these options.
func (p *Passkeys) asked(kind ticketKind[passkeyTicket], options any, held passkeyTicket, now time.Time) (q passkeyQuestion, err error) {
	text, err := json.Marshal(options)
	if err != nil {
		return q, err
	}
	q.Options = string(text)
	q.Ticket, err = kind.issue(p.peppers, held, now)
	return q, err
}

// askLogin returns the question to a browser whose operator is not known yet. now must be from
// Clock.Latest, also in the methods below.
func (p *Passkeys) askLogin(now time.Time) (q passkeyQuestion, err error) {
	party := p.party.Load()
	if party.web == nil {
		return q, nil
	}
	asked, session, err := party.web.BeginDiscoverableLogin(webauthn.WithUserVerification(protocol.VerificationRequired))
	if err != nil {
		return q, err
	}
	return p.asked(passkeyLogin, asked.Response, passkeyTicket{Session: *session}, now)
}

// askOperator returns what the answer of one of the passkeys of an operator is checked against, or nil
// if the operator has none here. See optionsOf for the question itself.
func (p *Passkeys) askOperator(op operator, verify protocol.UserVerificationRequirement) (*webauthn.SessionData, error) {
	party := p.party.Load()
	if party.web == nil {
		return nil, nil
	}
	var user passkeyUser
	err := p.store.View(func(tx *Tx) (err error) {
		user, err = userOf(tx, op, party.Host)
		return err
	})
	if err != nil || len(user.keys) == 0 {
		return nil, err
	}
	_, session, err := party.web.BeginLogin(user, webauthn.WithUserVerification(verify))
	return session, err
}

// optionsOf returns the options of a question that an answer is checked against, as JSON, or "" if held
// is nil.
func optionsOf(held *webauthn.SessionData) string {
	if held == nil {
		return ""
	}
	allowed := []map[string]string{}
	for _, id := range held.AllowedCredentialIDs {
		allowed = append(allowed, map[string]string{"type": "public-key", "id": base64.RawURLEncoding.EncodeToString(id)})
	}
	text, _ := json.Marshal(map[string]any{ // texts alone cannot fail
		"challenge": held.Challenge, "rpId": held.RelyingPartyID, "userVerification": held.UserVerification, "allowCredentials": allowed, "timeout": passkeySpan.Milliseconds(),
	})
	return string(text)
}

// askConfirm returns the question with which an operator confirms an action in the session with this
// hash.
func (p *Passkeys) askConfirm(op operator, session []byte, now time.Time) (q passkeyQuestion, err error) {
	held, err := p.askOperator(op, protocol.VerificationRequired)
	if err != nil || held == nil {
		return q, err
	}
	q.Options = optionsOf(held)
	q.Ticket, err = passkeyConfirm.issue(p.peppers, passkeyTicket{Session: *held, For: session}, now)
	return q, err
}

// askNew returns the question for a new passkey of op, who may be an operator that does not exist yet.
// Only what has the hash bound can answer it: the token of a session or of a link. verify is required if
// op is to log in with the passkey alone from the start.
func (p *Passkeys) askNew(op operator, bound []byte, verify protocol.UserVerificationRequirement, now time.Time) (q passkeyQuestion, err error) {
	party := p.party.Load()
	if party.web == nil {
		return q, nil
	}
	if op.Handle == nil {
		op.Handle = newHandle()
	}
	var user passkeyUser
	err = p.store.View(func(tx *Tx) error {
		user, err = userOf(tx, op, party.Host)
		return err
	})
	if err != nil {
		return q, err
	}
	selection := party.web.Config.AuthenticatorSelection
	selection.UserVerification = verify
	asked, session, err := party.web.BeginRegistration(user,
		webauthn.WithExclusions(webauthn.Credentials(user.keys).CredentialDescriptors()), webauthn.WithAuthenticatorSelection(selection),
		webauthn.WithCredentialParameters(webauthn.CredentialParametersRecommendedL3()))
	if err != nil {
		return q, err
	}
	return p.asked(passkeyNew, asked.Response, passkeyTicket{Session: *session, For: bound}, now)
}

// created returns the passkey in the answer to askNew. The ticket is used up.
func (p *Passkeys) created(ticket, answer string, bound []byte, now time.Time) (k createdPasskey, err error) {
	party := p.party.Load()
	held, ok := passkeyNew.read(p.peppers, ticket, now)
	if !ok || party.web == nil || !bytes.Equal(held.For, bound) {
		return k, errPasskeyLate
	}
	parsed, err := protocol.ParseCredentialCreationResponseBytes([]byte(answer))
	if err != nil {
		return k, passkeyRefused("the answer cannot be read: %s", detailOf(err))
	}
	made, err := party.web.CreateCredential(passkeyUser{operator: operator{Handle: held.Session.UserID}}, held.Session, parsed)
	if err != nil {
		return k, passkeyRefused("%s", detailOf(err))
	}
	if !p.spent.spend(ticket, passkeySpan, now) {
		return k, errPasskeyLate
	}
	return createdPasskey{passkey: newPasskey(party.Host, made), handle: held.Session.UserID}, nil
}

// usedPasskey is a passkey that has answered a question.
type usedPasskey struct {
	Operator operator
	Name     string // of the passkey
}

// answeredLogin returns the operator whose passkey has answered askLogin. The ticket is used up.
func (p *Passkeys) answeredLogin(ticket, answer string, now time.Time) (u usedPasskey, err error) {
	held, ok := passkeyLogin.read(p.peppers, ticket, now)
	if !ok {
		return u, errPasskeyLate
	}
	return p.check(passkeyAnswer{Session: held.Session, Ticket: ticket, Text: answer, Find: operatorByHandle}, now)
}

// answeredConfirm returns an error unless a passkey of the operator with this id has answered askConfirm
// in the session with this hash. The ticket is used up.
func (p *Passkeys) answeredConfirm(id uint64, session []byte, ticket, answer string, now time.Time) error {
	held, ok := passkeyConfirm.read(p.peppers, ticket, now)
	if !ok || !bytes.Equal(held.For, session) {
		return errPasskeyLate
	}
	find := func(tx *Tx, _ []byte) (operator, error) { return OperatorTable.Get(tx, IDKey(id)) }
	_, err := p.check(passkeyAnswer{Session: held.Session, Ticket: ticket, Text: answer, Find: find}, now)
	return err
}

// passkeyAnswer is an answer of an authenticator and what it is checked against.
type passkeyAnswer struct {
	Session webauthn.SessionData
	Ticket  string // used up by a right answer
	Text    string // JSON of the answer
	Find    func(tx *Tx, handle []byte) (operator, error)
}

// check checks an answer, and records the use of the passkey. Every answer passes here.
func (p *Passkeys) check(a passkeyAnswer, now time.Time) (u usedPasskey, err error) {
	party := p.party.Load()
	if party.web == nil {
		return u, errPasskeyLate
	}
	parsed, err := protocol.ParseCredentialRequestResponseBytes([]byte(a.Text))
	if err != nil {
		return u, passkeyRefused("the answer cannot be read: %s", detailOf(err))
	}
	var user passkeyUser
	err = p.store.View(func(tx *Tx) error {
		op, err := a.Find(tx, parsed.Response.UserHandle)
		if err != nil {
			return err
		}
		user, err = userOf(tx, op, party.Host)
		return err
	})
	if errors.Is(err, ErrNotFound) || err == nil && !hasPasskey(user.keys, parsed.RawID) {
		return u, errPasskeyUnknown
	}
	if err != nil {
		return u, err
	}
	u.Operator = user.operator
	var seen *webauthn.Credential
	if a.Session.UserID == nil {
		_, seen, err = party.web.ValidatePasskeyLogin(func(_, _ []byte) (webauthn.User, error) { return user, nil }, a.Session, parsed)
	} else {
		seen, err = party.web.ValidateLogin(user, a.Session, parsed)
	}
	switch {
	case err != nil:
		return u, passkeyRefused("%s", detailOf(err))
	case seen.Authenticator.CloneWarning:
		return u, errPasskeyCloned
	case !p.spent.spend(a.Ticket, passkeySpan, now):
		return u, errPasskeyLate
	}
	u.Name, err = p.use(user.operator.ID, seen, a.Session.UserID == nil, now)
	return u, err
}

// use records that a passkey of an operator was used, alone if without a password, and returns its name.
// The counter is compared once more, because another answer of the same passkey may have been checked at
// the same time.
func (p *Passkeys) use(id uint64, seen *webauthn.Credential, alone bool, now time.Time) (name string, err error) {
	err = p.store.Update(func(tx *Tx) error {
		list, err := factorsOf(tx, id)
		if err != nil {
			return err
		}
		if alone {
			if err := noteJoined(tx, id); err != nil {
				return err
			}
		}
		for _, f := range list {
			k, ok := passkeyOf(f)
			if !ok || !bytes.Equal(k.ID, seen.ID) {
				continue
			}
			if counter := seen.Authenticator.SignCount; counter <= k.Counter && counter|k.Counter != 0 {
				return errPasskeyCloned
			}
			name, k.Counter, k.BackedUp, f.LastUsedAt = f.Name, seen.Authenticator.SignCount, seen.Flags.BackupState, now
			if f.Credential, err = json.Marshal(k); err != nil {
				return err
			}
			return FactorTable.Put(tx, f)
		}
		return errPasskeyUnknown // removed in the meantime
	})
	return name, err
}

// noteJoined records that an operator has logged in without a password.
func noteJoined(tx *Tx, id uint64) error {
	op, err := OperatorTable.Get(tx, IDKey(id))
	if err != nil || op.Joined {
		return err
	}
	op.Joined = true
	return OperatorTable.Put(tx, op)
}

// operatorByHandle returns the operator with a user handle. It returns ErrNotFound if there is none, and
// an error that wraps ErrLogin if the operator may not log in.
func operatorByHandle(tx *Tx, handle []byte) (operator, error) {
	for op, err := range OperatorTable.All(tx, Forward) {
		if err != nil {
			return op, err
		}
		if len(handle) > 0 && bytes.Equal(op.Handle, handle) {
			if op.status() != operatorActive {
				return op, errNoLogin(op)
			}
			return op, nil
		}
	}
	return operator{}, ErrNotFound
}

func hasPasskey(keys []webauthn.Credential, id []byte) bool {
	return slices.ContainsFunc(keys, func(c webauthn.Credential) bool { return bytes.Equal(c.ID, id) })
}

// detailOf returns the text of an error of package webauthn with its details, for the logs.
func detailOf(err error) string {
	if e, ok := errors.AsType[*protocol.Error](err); ok && e.DevInfo != "" {
		return strings.Join(strings.Fields(e.Details+": "+e.DevInfo), " ")
	}
	return err.Error()
}

// createdPasskey is a passkey that is not stored yet.
type createdPasskey struct {
	passkey
	handle []byte // user handle that it was created with
	name   string // "" for a name that is not used yet
}

// putPasskey stores a new passkey of op, which is stored too if it gets its user handle. putPasskey
// returns ErrConflict if the operator has too many, or if an operator has this one.
func putPasskey(tx *Tx, op *operator, k createdPasskey, now time.Time) error {
	if op.Handle == nil {
		op.Handle = k.handle
		if err := OperatorTable.Put(tx, *op); err != nil {
			return err
		}
	}
	if !bytes.Equal(op.Handle, k.handle) { // another passkey was added at the same time
		return errPasskeyLate
	}
	if FactorTable.Has(tx, "credential", k.ID) {
		return ErrConflict.With("This passkey is stored already.")
	}
	f, err := k.factorFor(op.ID, k.name, now)
	if err == nil {
		_, err = addFactor(tx, f)
	}
	return err
}

// suffice reports whether an operator can do without a password: with two passkeys that work here, so
// that one can be lost, or with one and recovery codes.
func (p *Passkeys) suffice(tx *Tx, op operator) (bool, error) {
	user, err := userOf(tx, op, p.party.Load().Host)
	return len(user.keys) >= 2 || len(user.keys) == 1 && len(op.Recovery) > 0, err
}

// anyHere reports whether one of the factors is a passkey that works here.
func (p *Passkeys) anyHere(list []factor) bool {
	host := p.party.Load().Host
	return slices.ContainsFunc(list, func(f factor) bool {
		k, ok := passkeyOf(f)
		return ok && k.Host == host
	})
}

// countPasskeys returns how many passkeys work at a host name, and how many of another one are stored
// for each.
func countPasskeys(tx *Tx, host string) (here int, elsewhere map[string]int, err error) {
	elsewhere = map[string]int{}
	for f, err := range FactorTable.All(tx, Forward) {
		if err != nil {
			return here, elsewhere, err
		}
		switch k, ok := passkeyOf(f); {
		case !ok:
		case k.Host == host:
			here++
		default:
			elsewhere[k.Host]++
		}
	}
	return here, elsewhere, nil
}

// StoredPasskeys returns how many passkeys are stored, for each host name that they were made for.
func StoredPasskeys(tx *Tx) (hosts map[string]int, err error) {
	_, hosts, err = countPasskeys(tx, "")
	return hosts, err
}

// Stored is like StoredPasskeys, but runs its own transaction.
func (p *Passkeys) Stored() (hosts map[string]int, err error) {
	err = p.store.View(func(tx *Tx) error {
		hosts, err = StoredPasskeys(tx)
		return err
	})
	return hosts, err
}

// PasskeyWarnings returns a warning for each host name whose passkeys do not work with a dashboard at
// this address. hosts is from StoredPasskeys.
func PasskeyWarnings(address string, hosts map[string]int) (list []string) {
	party := partyAt(address)
	for _, host := range slices.Sorted(maps.Keys(hosts)) {
		if host != party.Host {
			list = append(list, fmt.Sprintf("admin.base_url: passkeys that were made for %s do not work at %s (stored: %d); before the change, give their operators a password or another "+
				"second factor, and afterwards let them add passkeys again", host, party.URL, hosts[host]))
		}
	}
	return list
}
