package main

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"

	"latchkey/internal/durable"
	"latchkey/internal/keytext"
	"latchkey/internal/secrettext"
)

// Peppers holds the secret keys with which the digests of API keys are hashed. The store contains
// only these hashes. Without the peppers nobody can use a stolen database to check a guessed key,
// or create a valid key by writing to the database. It is safe for concurrent use.
type Peppers struct {
	list  [][]byte // current pepper first, then the retired peppers
	place string   // path of the file or name of the variable with the current pepper, for messages
}

// pepperSize is the minimum size of a pepper in bytes, and the size of a new one.
const pepperSize = 32

// Hash returns the HMAC-SHA-256 (RFC 2104) of a digest under the current
// pepper.
func (p Peppers) Hash(d keytext.Digest) []byte { return seal(p.list[0], d[:]) }

// Hashes returns the hash of a digest under each pepper, the current pepper first.
func (p Peppers) Hashes(d keytext.Digest) [][]byte {
	var all [][]byte
	for _, pepper := range p.list {
		all = append(all, seal(pepper, d[:]))
	}
	return all
}

// sandboxHash returns the hash of the secret of a sandbox key from that of any other key, see Hash. It differs so that a
// program of an earlier version, which would take the key for one that guarded routes let in, does not find the key.
func sandboxHash(hash []byte) []byte { return seal(hash, []byte("sandbox")) }

// seal returns the HMAC-SHA-256 of data under a pepper.
func seal(pepper, data []byte) []byte {
	mac := hmac.New(sha256.New, pepper)
	mac.Write(data)
	return mac.Sum(nil)
}

// pepperMark is a fixed text. Its hash under the current pepper is stored as the check value that
// Match compares.
const pepperMark = "latchkey pepper check"

// Encrypt encrypts a secret that the service must read again later, such as a webhook secret. It
// uses AES-256-GCM with a separate key for each purpose, derived from the current pepper
// (HKDF-SHA-256, RFC 5869). bound is the additional authenticated data, such as an id. It is not
// part of the result, and Decrypt fails without the same value.
func (p Peppers) Encrypt(purpose string, bound []byte, text string) ([]byte, error) {
	box, err := p.box(0, purpose)
	if err != nil {
		return nil, err
	}
	return box.Seal(nil, nil, []byte(text), bound), nil
}

// Decrypt returns the text that Encrypt encrypted under the current pepper or a retired pepper. It
// returns an error if none of the peppers is the right one, or if purpose or bound differs.
func (p Peppers) Decrypt(purpose string, bound, sealed []byte) (string, error) {
	for i := range p.list {
		box, err := p.box(i, purpose)
		if err != nil {
			return "", err
		}
		if text, err := box.Open(nil, nil, sealed, bound); err == nil {
			return string(text), nil
		}
	}
	return "", errors.New("encrypted under a pepper that is not configured; add its file to keys.retired_pepper_files")
}

// MACKeys returns the keys with which records and backups are signed, one for each pepper, the
// current pepper first. They are derived from the peppers (HKDF-SHA-256, RFC 5869).
func (p Peppers) MACKeys() (keys [][]byte, err error) {
	for _, pepper := range p.list {
		key, err := hkdf.Key(sha256.New, pepper, nil, "latchkey record and backup mac", sha256.Size)
		if err != nil {
			return nil, err
		}
		keys = append(keys, key)
	}
	return keys, nil
}

// Sign returns the HMAC-SHA-256 (RFC 2104) of data, with a separate key for each purpose, derived from
// the current pepper (HKDF-SHA-256, RFC 5869).
func (p Peppers) Sign(purpose string, data []byte) ([]byte, error) { return p.sign(0, purpose, data) }

// Signed reports whether mac is the result of Sign under the current pepper or a retired pepper.
func (p Peppers) Signed(purpose string, data, mac []byte) bool {
	for i := range p.list {
		if want, err := p.sign(i, purpose, data); err == nil && hmac.Equal(want, mac) {
			return true
		}
	}
	return false
}

func (p Peppers) sign(i int, purpose string, data []byte) ([]byte, error) {
	key, err := hkdf.Key(sha256.New, p.list[i], nil, "latchkey "+purpose, sha256.Size)
	if err != nil {
		return nil, err
	}
	return seal(key, data), nil
}

// box returns a cipher for one purpose, with a key derived from the pepper at index i. The cipher
// puts a random nonce before each encrypted text.
func (p Peppers) box(i int, purpose string) (cipher.AEAD, error) {
	key, err := hkdf.Key(sha256.New, p.list[i], nil, "latchkey "+purpose, 32)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

// Verify returns an error if the store was created with none of these peppers. Otherwise every key
// would be invalid for no visible reason. It stores a check value for the current pepper if the
// store has none, or has one for a retired pepper.
func (p Peppers) Verify(s *Store) error {
	return s.Update(func(tx *Tx) error {
		if err := p.Match(tx); err != nil {
			return err
		}
		mark := seal(p.list[0], []byte(pepperMark))
		stored, err := tx.Get("meta", []byte("pepper"))
		if err != nil || hmac.Equal(stored, mark) {
			return err
		}
		return tx.Put("meta", []byte("pepper"), mark)
	})
}

// Match is like Verify but stores nothing. It returns nil if the store has no check value.
func (p Peppers) Match(tx *Tx) error {
	stored, err := tx.Get("meta", []byte("pepper"))
	if err != nil || stored == nil {
		return err
	}
	for _, pepper := range p.list {
		if hmac.Equal(stored, seal(pepper, []byte(pepperMark))) {
			return nil
		}
	}
	return fmt.Errorf("the pepper in %s is not the one that this database was created with, so no key would be valid; put the right pepper file back, or %s", p.place, pepperElsewhere)
}

// pepperElsewhere is the end of an error about a pepper that is not where it was looked for.
const pepperElsewhere = "set keys.pepper_file (or LATCHKEY_KEYS_PEPPER_FILE) to the path where it is"

// AskAsOwner is the end of an error about a file or folder that this process may not use.
const AskAsOwner = "run this as root or as the user of the service, or let that user use it"

// LoadPeppers returns the current pepper and the retired peppers. It decodes the current pepper
// from value, or from file if value is empty. It reads one retired pepper from each file in
// retired. Keys that were hashed under a retired pepper stay valid.
func LoadPeppers(value, file string, retired []string) (Peppers, error) {
	p, current := Peppers{place: file}, file
	if value != "" {
		pepper, err := parsePepper("LATCHKEY_KEYS_PEPPER", []byte(value))
		if err != nil {
			return p, err
		}
		p.list, p.place, current = append(p.list, pepper), "LATCHKEY_KEYS_PEPPER", ""
	} else {
		retired = append([]string{file}, retired...)
	}
	for _, name := range retired {
		data, err := ReadSmall(name)
		if err != nil {
			if errors.Is(err, os.ErrPermission) {
				return p, fmt.Errorf("read pepper: %w; %s", err, AskAsOwner)
			}
			elsewhere := pepperElsewhere
			if name != current {
				elsewhere = "correct its path in keys.retired_pepper_files"
			}
			return p, fmt.Errorf("read pepper: %w; without it no key is valid; put the file back, or %s", err, elsewhere)
		}
		pepper, err := parsePepper("pepper file "+name, data)
		if err != nil {
			return p, err
		}
		p.list = append(p.list, pepper)
	}
	return p, nil
}

// parsePepper decodes a pepper from hex digits, with or without white space around them. source is
// the beginning of its error.
func parsePepper(source string, data []byte) ([]byte, error) {
	text, err := secrettext.Token.Clean(data)
	if err != nil {
		return nil, fmt.Errorf("%s %w", source, err)
	}
	pepper, err := hex.DecodeString(text)
	if err != nil || len(pepper) < pepperSize {
		return nil, fmt.Errorf("%s must be at least %d hex digits; create them with: openssl rand -hex %d", source, 2*pepperSize, pepperSize)
	}
	return pepper, nil
}

// CreatePepper writes a new random pepper to file, which only the user of the process may read. It
// returns an error that wraps os.ErrExist if the file exists. After a crash the file is either
// complete or missing.
func CreatePepper(file string) error {
	if _, err := os.Lstat(file); err == nil {
		return fmt.Errorf("create pepper %s: %w", file, os.ErrExist)
	}
	if err := durable.WriteFile(file, keytext.RandomHex(pepperSize)+"\n"); err != nil {
		return fmt.Errorf("create pepper: %w", err)
	}
	return nil
}

// SecretSetting is a secret of the configuration: a value, or the path of a file with it.
type SecretSetting struct{ Name, Value, File string }

// Read returns the secret, or "" if there is none. It reads the file each time, so that a new secret needs no restart.
// The error never contains the secret.
func (s SecretSetting) Read() (string, error) {
	if s.File == "" {
		return s.Value, nil
	}
	if s.Value != "" {
		return "", errors.New(s.Name + " is set as well; remove one of them")
	}
	text, err := ReadSmall(s.File)
	if err != nil {
		return "", err
	}
	secret, err := secrettext.Password.Clean(bytes.TrimSpace(text)) // it may have blanks within (RFC 6749, appendix A.2)
	if err == nil && len(secret) > 4096 {
		err = errors.New("has more than 4,096 bytes, so it is not a secret")
	}
	if err != nil {
		return "", fmt.Errorf("%s %w", s.File, err)
	}
	return secret, nil
}
