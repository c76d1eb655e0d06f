package main

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"golang.org/x/crypto/argon2"
	"golang.org/x/text/unicode/norm"

	"latchkey/internal/commonpassword"
)

// hashCost is the cost of hashing a password with argon2id (RFC 9106 section 4).
type hashCost struct {
	memory, passes uint32 // memory is in KiB
	lanes          uint8
}

// usualCost is the second set in the OWASP password storage cheat sheet.
var usualCost = hashCost{memory: 19 * 1024, passes: 2, lanes: 1}

// hashLength is the length in bytes of a new hash.
const hashLength = 32

// The allowed length of a password.
const (
	minPassword = 10   // characters
	maxPassword = 1024 // characters
)

// hash returns the argon2id hash of a password with length bytes. It waits while two other hashes
// are running.
func (o *Operators) hash(password string, salt []byte, cost hashCost, length int) []byte {
	o.hashing <- struct{}{}
	defer func() { <-o.hashing }()
	return argon2.IDKey([]byte(password), salt, cost.passes, cost.memory, cost.lanes, uint32(length))
}

// seal returns the stored form of a password, which is a hash with a new random salt.
func (o *Operators) seal(password string) string {
	salt := make([]byte, 16)
	_, _ = rand.Read(salt) // never returns an error; the program ends if the system has no random bytes
	b64 := base64.RawStdEncoding
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, o.cost.memory, o.cost.passes, o.cost.lanes, b64.EncodeToString(salt), b64.EncodeToString(o.hash(password, salt, o.cost, hashLength)))
}

// opens reports whether password matches stored, the result of seal. It uses the costs that
// are part of stored, so a password still matches after the cost of new ones has changed.
func (o *Operators) opens(stored, password string) bool {
	parts := strings.Split(stored, "$")
	if len(parts) != 6 || parts[1] != "argon2id" {
		return false
	}
	var cost hashCost
	if _, err := fmt.Sscanf(parts[3], "m=%d,t=%d,p=%d", &cost.memory, &cost.passes, &cost.lanes); err != nil {
		return false
	}
	salt, err1 := base64.RawStdEncoding.DecodeString(parts[4])
	want, err2 := base64.RawStdEncoding.DecodeString(parts[5])
	if errors.Join(err1, err2) != nil {
		return false
	}
	return subtle.ConstantTimeCompare(o.hash(password, salt, cost, len(want)), want) == 1
}

// opensAny is like opens, but accepts each of the forms in which the password may have been stored.
func (o *Operators) opensAny(stored, password string) bool {
	for _, form := range passwordForms(password) {
		if o.opens(stored, form) {
			return true
		}
	}
	return false
}

// normalPassword returns the form in which a password is stored. Keyboards and files send the same
// password in different ways: it is in Unicode normalization form C (UAX 15), and a byte order mark
// before it is removed.
func normalPassword(password string) string {
	return norm.NFC.String(strings.TrimPrefix(password, "\ufeff"))
}

// passwordForms returns the forms in which a typed password may have been stored: the normal form,
// and the typed one if it differs, because earlier versions stored that.
func passwordForms(password string) []string {
	normal := normalPassword(password)
	if normal == password {
		return []string{normal}
	}
	return []string{normal, password}
}

// Authenticate returns the operator with this name and password. It returns ErrLogin if the
// name or the password is wrong, and an error that wraps it if the operator is disabled. Upper
// and lower case of the name are equal. An unknown name takes as long as a wrong password, so
// the time does not show which names exist.
func (o *Operators) Authenticate(name, password string) (operator, error) {
	return o.authenticate(password, func(tx *Tx) (operator, error) {
		return OperatorTable.One(tx, "name", []byte(strings.ToLower(name)))
	})
}

// Verify is like Authenticate, but finds the operator by id.
func (o *Operators) Verify(id uint64, password string) (operator, error) {
	return o.authenticate(password, func(tx *Tx) (operator, error) { return o.Get(tx, id) })
}

func (o *Operators) authenticate(password string, find func(*Tx) (operator, error)) (operator, error) {
	if o.passwordsOff {
		return operator{}, errPasswordsOff
	}
	if Length(password) > maxPassword {
		return operator{}, ErrLogin
	}
	var found operator
	err := o.store.View(func(tx *Tx) (err error) {
		found, err = find(tx)
		return err
	})
	if errors.Is(err, ErrNotFound) || err == nil && found.Password == "" {
		for _, form := range passwordForms(password) {
			o.hash(form, make([]byte, 16), o.cost, hashLength)
		}
		return operator{}, ErrLogin
	}
	if err != nil {
		return operator{}, err
	}
	if !o.opensAny(found.Password, password) {
		return operator{}, ErrLogin
	}
	if found.status() != operatorActive {
		return operator{}, errNoLogin(found)
	}
	return found, nil
}

// newPassword returns a new password of the operator with this name in the form in which it is
// stored. It returns ErrValidation if the password is too short, too long, not UTF-8, or easy to
// guess: one of the most common passwords, or little more than the name.
func newPassword(name, password string) (string, error) {
	if !utf8.ValidString(password) {
		return "", ErrValidation.With("password must be text in UTF-8.")
	}
	password = normalPassword(password)
	if n := Length(password); n < minPassword || n > maxPassword {
		return "", ErrValidation.With("password must have %d to %s characters; it has %s.", minPassword, Figure(maxPassword), Figure(n))
	}
	if commonpassword.Has(password) {
		return "", ErrValidation.With("password is one of the most common passwords, which are tried first. Choose another one, such as four words that do not belong together.")
	}
	if rest := ownPart(name, password); Length(rest) < minOwnPart {
		return "", ErrValidation.With("password must have at least %d characters besides the operator's name and the word latchkey; it has %d.", minOwnPart, Length(rest))
	}
	return password, nil
}

// minOwnPart is the minimum number of characters of a password besides words that an attacker knows.
const minOwnPart = 6

// ownPart returns a password in lower case without the words that an attacker knows: the name of the
// operator, unless it is shorter than three characters, and the name of the product.
func ownPart(name, password string) string {
	rest := strings.ReplaceAll(strings.ToLower(password), "latchkey", "")
	if name = strings.ToLower(normalPassword(strings.TrimSpace(name))); Length(name) >= 3 {
		rest = strings.ReplaceAll(rest, name, "")
	}
	return rest
}
