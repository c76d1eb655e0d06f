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

// Peppers are the secret keys for hashing the digests of API keys. Only hashes
// are stored: without the peppers, a stolen database cannot confirm a guess,
// and write access to the database is not enough to create a key.
type Peppers struct {
	list [][]byte // the current one first
}

const pepperSize = 32

// Hash returns the HMAC-SHA-256 (RFC 2104) of a digest under the current
// pepper.
func (p Peppers) Hash(d keytext.Digest) []byte { return seal(p.list[0], d[:]) }

// Hashes returns the hash of a digest under each pepper, the current one first.
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

// pepperMark is the text whose hash under the pepper is kept in the store.
// Match compares it.
const pepperMark = "latchkey pepper check"

// Encrypt encrypts a text that must be readable later, so a hash will not do.
// It uses AES-256-GCM with a separate key for each purpose, derived from the
// current pepper (HKDF-SHA-256, RFC 5869). bound is the context that the text
// belongs to: it is authenticated but not stored, and Decrypt fails if it
// differs.
func (p Peppers) Encrypt(purpose string, bound []byte, text string) ([]byte, error) {
	box, err := p.box(0, purpose)
	if err != nil {
		return nil, err
	}
	return box.Seal(nil, nil, []byte(text), bound), nil
}

// Decrypt returns the text that Encrypt encrypted under the current pepper or a
// retired one. It returns an error if no pepper fits, or if purpose or bound
// differ.
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

// box returns a cipher for a purpose under pepper i. It uses random nonces and
// puts each before its text.
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

// Verify returns an error if the store was made with none of these peppers.
// With a wrong pepper every key would be invalid, with no visible cause. It
// stores a check value under the current pepper if the store has none yet, or
// has one under a retired pepper.
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

// Match is like Verify but stores nothing. A store without a check value
// matches any pepper.
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

// LoadPeppers reads the current pepper from value, or from file if value is
// empty. It reads retired peppers from further files; keys hashed under them
// stay valid.
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

// CreatePepper creates a pepper file that only its owner may read. It returns
// an error that wraps os.ErrExist if the file exists. A crash leaves either the
// whole file or none.
func CreatePepper(file string) error {
	if _, err := os.Lstat(file); err == nil {
		return fmt.Errorf("create pepper %s: %w", file, os.ErrExist)
	}
	if err := durable.WriteFile(file, keytext.RandomHex(pepperSize)+"\n"); err != nil {
		return fmt.Errorf("create pepper: %w", err)
	}
	return nil
}
