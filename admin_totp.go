package main

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base32"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/pquerna/otp"
	"github.com/pquerna/otp/totp"
)

// totpStep is how long a one-time code is shown. A code is accepted one step before and after, because
// clocks differ (RFC 6238, section 5.2).
const totpStep = 30 * time.Second

// totpPurpose separates the key that encrypts the secrets of apps from other keys.
const totpPurpose = "secret of one-time codes"

// newTOTP returns the secret of a new app in base32, and its otpauth URL. account is what the app shows.
func newTOTP(account string) (secret, url string) {
	data := make([]byte, 20) // as long as the digest of the codes (RFC 4226, section 4)
	_, _ = rand.Read(data)   // never returns an error; the program ends if the system has no random bytes
	secret = base32.StdEncoding.EncodeToString(data)
	return secret, totpURL(account, secret)
}

// totpURL returns the otpauth URL of an app, which the app reads from a QR code.
func totpURL(account, secret string) string {
	u := url.URL{Scheme: "otpauth", Host: "totp", Path: "/" + issuerName + ":" + account}
	u.RawQuery = "secret=" + secret + "&issuer=" + issuerName // apps do not all read other encodings of a query
	return u.String()
}

// matchTOTP returns the time step whose code is code, among the steps later than last that are accepted
// at now. ok is false if there is none. A code is accepted once, because its step is then the last one.
func matchTOTP(secret, code string, last int64, now time.Time) (step int64, ok bool) {
	span := int64(totpStep / time.Second)
	for at := now.Unix()/span - 1; at <= now.Unix()/span+1; at++ {
		want, err := totp.GenerateCodeCustom(secret, time.Unix(at*span, 0), totp.ValidateOpts{Period: uint(span), Digits: otp.DigitsSix, Algorithm: otp.AlgorithmSHA1})
		if err == nil && at > last && subtle.ConstantTimeCompare([]byte(want), []byte(code)) == 1 {
			return at, true
		}
	}
	return 0, false
}

// The recovery codes of an operator.
const (
	recoveryCodes = 10
	recoveryBytes = 15 // random bytes in each: so many that a plain hash of a code keeps it (OWASP ASVS 5.0, 6.5.2)
)

// recoveryCode is the stored form of a recovery code.
type recoveryCode struct {
	Hash []byte `json:"hash"` // SHA-256 of the code in capitals without hyphens
}

// newRecoveryCodes returns new recovery codes, such as "ABCD-EFGH-IJKL-MNOP-QRST-UVWX", and their stored
// forms.
func newRecoveryCodes() (codes []string, stored []recoveryCode) {
	for range recoveryCodes {
		data := make([]byte, recoveryBytes)
		_, _ = rand.Read(data) // never returns an error; the program ends if the system has no random bytes
		text := base32.StdEncoding.EncodeToString(data)
		var groups []string
		for group := range slices.Chunk([]byte(text), 4) {
			groups = append(groups, string(group))
		}
		codes = append(codes, strings.Join(groups, "-"))
		stored = append(stored, recoveryCode{recoveryHash(text)})
	}
	return codes, stored
}

// unused returns the recovery codes of was that are still among now.
func unused(was, now []recoveryCode) []recoveryCode {
	return slices.DeleteFunc(slices.Clone(was), func(c recoveryCode) bool {
		return !slices.ContainsFunc(now, func(other recoveryCode) bool { return bytes.Equal(c.Hash, other.Hash) })
	})
}

func recoveryHash(code string) []byte {
	sum := sha256.Sum256([]byte(code))
	return sum[:]
}

// hasRecovery reports whether an operator has this recovery code.
func hasRecovery(op operator, code string) bool {
	hash := recoveryHash(cleanCode(code))
	return slices.ContainsFunc(op.Recovery, func(c recoveryCode) bool { return subtle.ConstantTimeCompare(c.Hash, hash) == 1 })
}

// cleanCode returns a code as it is compared: in capitals, without spaces and hyphens.
func cleanCode(code string) string {
	return strings.ToUpper(strings.NewReplacer(" ", "", "-", "", "\u00a0", "", "\t", "").Replace(code))
}

// useCode records the use of a one-time code or a recovery code of an operator. It returns the kind of
// the code: factorTOTP or resetByCode. It returns ErrLogin if the code is neither, or was used before.
// Call it in a transaction of its own, which is kept even if the login fails later.
func (a *Accounts) useCode(tx *Tx, id uint64, code string, by AuditContext) (kind string, err error) {
	code = cleanCode(code)
	factors, err := factorsOf(tx, id)
	if err != nil {
		return "", err
	}
	for _, f := range factors {
		if f.Kind != factorTOTP {
			continue
		}
		secret, err := a.totpSecret(f)
		if err != nil {
			return "", err
		}
		if step, ok := matchTOTP(secret, code, f.Step, by.Now); ok {
			f.Step, f.LastUsedAt = step, by.Now
			return factorTOTP, FactorTable.Put(tx, f)
		}
	}
	op, err := OperatorTable.Get(tx, IDKey(id))
	if err != nil {
		return "", err
	}
	hash := recoveryHash(code)
	i := slices.IndexFunc(op.Recovery, func(c recoveryCode) bool { return subtle.ConstantTimeCompare(c.Hash, hash) == 1 })
	if i < 0 {
		return "", ErrLogin
	}
	op.Recovery = slices.Delete(slices.Clone(op.Recovery), i, i+1)
	if err := OperatorTable.Put(tx, op); err != nil {
		return "", err
	}
	return resetByCode, publishReset(tx, op, resetByCode, by)
}

// totpSecret returns the secret of an app in base32.
func (a *Accounts) totpSecret(f factor) (string, error) {
	return a.o.Peppers.Decrypt(totpPurpose, IDKey(f.Operator), f.Secret)
}

// totpOffer is what a browser keeps while an operator adds an app: its secret, which is stored only
// after the app has shown a right code.
type totpOffer struct {
	Operator uint64 `json:"operator"`
	Secret   string `json:"secret"`
}

var totpTicket = ticketKind[totpOffer]{"offer of one-time codes", 30 * time.Minute}

// issuerName is what apps and browsers show as the name of the service.
const issuerName = "Latchkey"

// offerTOTP answers with the secret of a new app. Nothing is stored.
func (a *Accounts) offerTOTP(w http.ResponseWriter, r *Request) error {
	op, err := a.o.Operators.Find(r.Caller.Operator)
	if err != nil {
		return err
	}
	secret, address := newTOTP(op.Name)
	ticket, err := totpTicket.issue(a.o.Peppers, totpOffer{op.ID, secret}, r.Latest)
	if err != nil {
		return err
	}
	return WriteJSON(w, http.StatusCreated, map[string]any{"ticket": ticket, "secret": secret, "url": address})
}

// addTOTP stores the app of an offer, after the app has shown a right code.
func (a *Accounts) addTOTP(w http.ResponseWriter, r *Request) error {
	body, err := r.ReadFields(factorBody("ticket", "code", "name"))
	if err != nil {
		return err
	}
	ticket, code, name := "", "", ""
	body.String("ticket", AnyLength, &ticket)
	body.String("code", AnyLength, &code)
	body.String("name", AnyLength, &name)
	if err := body.Err(); err != nil {
		return err
	}
	offer, ok := totpTicket.read(a.o.Peppers, ticket, r.Latest)
	if !ok || offer.Operator != r.Caller.Operator {
		return ErrValidation.With("ticket is not valid any more. Begin again with POST /admin/v1/factors/totp.")
	}
	var made factor
	err = r.Update(a.o.Operators.store, func(tx *Tx) (err error) {
		made, err = a.storeTOTP(tx, offer, code, name, r.Now)
		return err
	})
	if err != nil {
		return err
	}
	return WriteJSON(w, http.StatusCreated, made.show())
}

// errCode is the answer to a wrong code of an app that is being added.
var errCode = ErrValidation.With("code is wrong. Type the six digits that the app shows now. If it is refused again, compare the clocks of the device and of the server.")

// storeTOTP stores the app of an offer if code is one of its codes.
func (a *Accounts) storeTOTP(tx *Tx, offer totpOffer, code, name string, now time.Time) (factor, error) {
	step, ok := matchTOTP(offer.Secret, cleanCode(code), 0, now)
	if !ok {
		return factor{}, errCode
	}
	list, err := factorsOf(tx, offer.Operator)
	if err != nil {
		return factor{}, err
	}
	for _, f := range list { // an offer works once
		if f.Kind != factorTOTP {
			continue
		}
		if secret, err := a.totpSecret(f); err == nil && secret == offer.Secret {
			return factor{}, ErrConflict.With("This app was added before.")
		}
	}
	sealed, err := a.o.Peppers.Encrypt(totpPurpose, IDKey(offer.Operator), offer.Secret)
	if err != nil {
		return factor{}, err
	}
	return addFactor(tx, factor{Operator: offer.Operator, Kind: factorTOTP, Name: name, CreatedAt: now, LastUsedAt: now, Secret: sealed, Step: step})
}

// makeRecoveryCodes replaces the recovery codes of the caller. The answer is the only place where they
// are shown.
func (a *Accounts) makeRecoveryCodes(w http.ResponseWriter, r *Request) error {
	codes, stored := newRecoveryCodes()
	err := r.Update(a.o.Operators.store, func(tx *Tx) error {
		factors, err := factorsOf(tx, r.Caller.Operator)
		if err != nil {
			return err
		}
		if len(factors) == 0 {
			return ErrConflict.With("Recovery codes stand in for a second factor, and you have none. Add an authenticator app or a passkey first.")
		}
		op, err := OperatorTable.Get(tx, IDKey(r.Caller.Operator))
		if err != nil {
			return err
		}
		op.Recovery = stored
		return OperatorTable.Put(tx, op)
	})
	if err != nil {
		return err
	}
	return WriteJSON(w, http.StatusCreated, map[string]any{"recovery_codes": codes})
}
