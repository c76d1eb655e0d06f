// Package keytext creates and checks the text of API keys: random characters with a
// checksum, their digest, and the hint that may be shown.
package keytext

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"hash/crc32"
	"strings"
)

const base62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

const (
	secretRandom = 30 // base62 characters: 178 bits
	secretCheck  = 6  // base62 characters of the CRC-32 of what precedes them
)

// SecretLength is the number of characters in a key after its prefix.
const SecretLength = secretRandom + secretCheck

// NewSecret returns a new API key: the prefix, 30 random characters and a checksum.
// The checksum reveals a mistyped key without a look-up.
func NewSecret(prefix string) string {
	body := prefix + randomText(secretRandom)
	return body + check(body)
}

// WellFormed reports whether secret has the prefix and the length of a key and its
// checksum is right. It does not mean that the key exists.
func WellFormed(secret, prefix string) bool {
	if len(secret) != len(prefix)+secretRandom+secretCheck || secret[:len(prefix)] != prefix {
		return false
	}
	cut := len(secret) - secretCheck
	var room [64]byte
	sum := crc32.ChecksumIEEE(append(room[:0], secret[:cut]...))
	for i := len(secret) - 1; i >= cut; i-- {
		if secret[i] != base62[sum%62] {
			return false
		}
		sum /= 62
	}
	return true
}

func check(body string) string {
	sum := crc32.ChecksumIEEE([]byte(body))
	var b [secretCheck]byte
	for i := len(b) - 1; i >= 0; i-- {
		b[i] = base62[sum%62]
		sum /= 62
	}
	return string(b[:])
}

// randomText returns n random base62 characters, all equally likely.
func randomText(n int) string {
	out := make([]byte, 0, n)
	buf := make([]byte, 2*n)
	for len(out) < n {
		_, _ = rand.Read(buf) // never fails: without a random source the program ends
		for _, b := range buf {
			if b < 248 && len(out) < n { // 4 * 62; larger bytes would favour the first characters
				out = append(out, base62[b%62])
			}
		}
	}
	return string(out)
}

// RandomHex returns n random bytes as 2n lower-case hex digits.
func RandomHex(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b)
	return hex.EncodeToString(b)
}

// Digest is the SHA-256 of a secret. Imported keys arrive as digests, and the cache
// finds keys by them.
type Digest [sha256.Size]byte

// DigestOf returns the digest of a secret.
func DigestOf(secret string) Digest {
	var room [64]byte // stays on the stack for a key of the usual length
	return sha256.Sum256(append(room[:0], secret...))
}

// ParseDigest returns the digest that s writes as 64 hex digits, in either case.
func ParseDigest(s string) (d Digest, err error) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(d) {
		return d, errors.New("must be the 64 hex digits of a SHA-256")
	}
	return Digest(b), nil
}

// Hint returns the part of a secret that may be shown: its prefix and its last four
// characters. For a secret without the prefix, or a short one, it returns
// "imported".
func Hint(secret, prefix string) string {
	if !strings.HasPrefix(secret, prefix) || len(secret) < len(prefix)+secretRandom {
		return "imported"
	}
	return prefix + "..." + secret[len(secret)-4:]
}
