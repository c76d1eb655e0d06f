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
)

// Peppers turn digests into what is stored. Without them a stolen database
// confirms no guess, and who can only write to it can make no key.
type Peppers struct {
	list [][]byte // the current one first
}

const pepperSize = 32

// Hash is the HMAC-SHA-256 of a digest under the current pepper (RFC 2104).
func (p Peppers) Hash(d keytext.Digest) []byte { return seal(p.list[0], d[:]) }

// Hashes gives the hash of a digest under each pepper, the current one first.
func (p Peppers) Hashes(d keytext.Digest) [][]byte {
	var all [][]byte
	for _, pepper := range p.list {
		all = append(all, seal(pepper, d[:]))
	}
	return all
}

func seal(pepper, data []byte) []byte {
	mac := hmac.New(sha256.New, pepper)
	mac.Write(data)
	return mac.Sum(nil)
}

// pepperMark is what is sealed under the pepper and kept in the store.
const pepperMark = "latchkey pepper check"

// Encrypt seals a text that has to be read again, which a hash does not allow:
// AES-256-GCM under a key of its own for each purpose, derived from the current
// pepper (HKDF-SHA-256, RFC 5869). bound is what the text belongs to; it is not
// kept in the result, but Decrypt fails where it is another.
func (p Peppers) Encrypt(purpose string, bound []byte, text string) ([]byte, error) {
	box, err := p.box(0, purpose)
	if err != nil {
		return nil, err
	}
	return box.Seal(nil, nil, []byte(text), bound), nil
}

// Decrypt opens what Encrypt has sealed under the current pepper or a retired
// one.
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
	return "", errors.New("sealed under a pepper that is not here; name its file in keys.retired_pepper_files")
}

// box seals with a random nonce, which it puts before the text.
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

// Verify checks that a store was made with one of the peppers, by a value kept
// in it; the first time it stores that value, and again when the pepper it was
// made with is a retired one by now. A wrong pepper would turn every key
// invalid without a word.
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

// Match is Verify without storing anything.
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
	return errors.New("the pepper is not the one this store was made with, so no key would be valid; put the right pepper file back")
}

// LoadPeppers reads the pepper: value, where it is set, else the file. Retired
// ones are read from further files; keys made under them stay valid.
func LoadPeppers(value, file string, retired []string) (Peppers, error) {
	var p Peppers
	if value != "" {
		pepper, err := parsePepper([]byte(value))
		if err != nil {
			return p, fmt.Errorf("LATCHKEY_KEYS_PEPPER %w", err)
		}
		p.list = append(p.list, pepper)
	} else {
		retired = append([]string{file}, retired...)
	}
	for _, name := range retired {
		data, err := ReadSmall(name)
		if err != nil {
			return p, fmt.Errorf("read pepper: %w; without it no key is valid, put the file back", err)
		}
		pepper, err := parsePepper(data)
		if err != nil {
			return p, fmt.Errorf("pepper file %s %w", name, err)
		}
		p.list = append(p.list, pepper)
	}
	return p, nil
}

func parsePepper(data []byte) ([]byte, error) {
	pepper, err := hex.DecodeString(string(bytes.TrimSpace(data)))
	if err != nil || len(pepper) < pepperSize {
		return nil, fmt.Errorf("must be at least %d hex digits, as of: openssl rand -hex %d", 2*pepperSize, pepperSize)
	}
	return pepper, nil
}

// CreatePepper makes a pepper file that only its owner may read, and fails
// with os.ErrExist where there is one. A crash in between leaves none.
func CreatePepper(file string) error {
	if _, err := os.Lstat(file); err == nil {
		return fmt.Errorf("create pepper %s: %w", file, os.ErrExist)
	}
	if err := durable.WriteFile(file, keytext.RandomHex(pepperSize)+"\n"); err != nil {
		return fmt.Errorf("create pepper: %w", err)
	}
	return nil
}
