package main

import (
	"encoding/base64"
	"encoding/binary"
	"strings"
	"time"

	"latchkey/internal/keytext"
)

// The maximum number of wrong passwords within loginSpan. More attempts are refused.
const (
	loginSpan         = 15 * time.Minute
	loginsByAddress   = 10 // logins from one client network (see NetworkOf), except those of known browsers
	loginsByAccount   = 30 // logins with one operator's name, except those of known browsers
	loginsByDevice    = 10 // logins of one known browser with the name of its operator
	confirmsBySession = 5  // confirmations of the present password in one session
	confirmsByAccount = 20 // confirmations of the present password by one operator
	codesByAccount    = 10 // second factors of one operator at logins, except from known browsers, which have as many each
)

// guesses counts wrong passwords. It is safe for concurrent use.
type guesses struct {
	byAddress, byAccount, byDevice, bySession, byOperator, byCode *Throttle
}

func newGuesses() *guesses {
	return &guesses{
		byAddress: NewThrottle(loginsByAddress, loginSpan), byAccount: NewThrottle(loginsByAccount, loginSpan), byDevice: NewThrottle(loginsByDevice, loginSpan),
		bySession: NewThrottle(confirmsBySession, loginSpan), byOperator: NewThrottle(confirmsByAccount, loginSpan),
		byCode: NewThrottle(codesByAccount, loginSpan),
	}
}

// guessBudget is one of the budgets that an attempt counts against.
type guessBudget struct {
	throttle *Throttle
	key      string
}

// tryAll counts an attempt as failed in each of the budgets, before the password is hashed, so that
// parallel attempts cannot exceed a limit. Call undo if the attempt did not fail; it is never nil. If
// wait is above 0, one of the budgets is used up, and the attempt is not counted in any.
func tryAll(now time.Time, budgets ...guessBudget) (undo func(), wait time.Duration) {
	var undos []func()
	undo = func() {
		for _, one := range undos {
			one()
		}
	}
	for _, b := range budgets {
		one, left := b.throttle.Try(b.key, now)
		undos, wait = append(undos, one), max(wait, left)
	}
	if wait > 0 {
		undo()
		return func() {}, wait
	}
	return undo, 0
}

// deviceTicket is the content of a cookie by which the service knows a browser again in which an
// operator has logged in. Strangers cannot use up the attempts of such a browser, so they cannot keep
// the operator from logging in. The cookie opens nothing: without the password it only permits guesses,
// loginsByDevice of them within loginSpan.
type deviceTicket struct {
	Operator uint64
	Devices  uint64    // operator.Devices at the login
	ID       string    // random, 16 bytes
	IssuedAt time.Time // in whole seconds
}

// deviceSpan is how long a deviceTicket is valid.
const deviceSpan = 365 * 24 * time.Hour

// devicePurpose separates the key that signs deviceTickets from other keys.
const devicePurpose = "device cookie"

// deviceSize is the size of a deviceTicket without its signature: three numbers and the id.
const deviceSize = 3*8 + 16

// cookie returns the text of the cookie: the ticket and its signature, in base64url.
func (d deviceTicket) cookie(p Peppers) (string, error) {
	data := binary.BigEndian.AppendUint64(nil, d.Operator)
	data = binary.BigEndian.AppendUint64(data, d.Devices)
	data = binary.BigEndian.AppendUint64(data, uint64(d.IssuedAt.Unix()))
	data = append(data, d.ID...)
	mac, err := p.Sign(devicePurpose, data)
	return base64.RawURLEncoding.EncodeToString(append(data, mac...)), err
}

// readDevice returns the ticket in the text of a cookie. ok is false if the text is no ticket, if its
// signature is not of one of the peppers, or if it is older than deviceSpan.
func readDevice(p Peppers, text string, now time.Time) (d deviceTicket, ok bool) {
	data, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(data) <= deviceSize || !p.Signed(devicePurpose, data[:deviceSize], data[deviceSize:]) {
		return d, false
	}
	number := func(at int) uint64 { return binary.BigEndian.Uint64(data[at:]) }
	d = deviceTicket{Operator: number(0), Devices: number(8), IssuedAt: time.Unix(int64(number(16)), 0), ID: string(data[24:deviceSize])}
	return d, now.Sub(d.IssuedAt) < deviceSpan
}

// newDeviceID returns a random id for a deviceTicket.
func newDeviceID() string { return keytext.RandomHex(8) }

// of reports whether the ticket is of this operator, who has not signed out everywhere since.
func (d deviceTicket) of(op operator) bool {
	return op.ID != 0 && d.Operator == op.ID && d.Devices == op.Devices
}

// accountKey returns the key under which the logins with a name are counted. It is cut, because it is
// kept in memory; operators' names are shorter.
func accountKey(name string) string { return strings.ToLower(name[:min(len(name), 128)]) }
