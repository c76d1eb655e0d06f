// Package keytext creates and checks the secrets of API keys, which are random characters with a
// checksum. It also computes their digests and the hints that may be shown.
package keytext

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"hash/crc32"
	"strings"
)

// base62 is the alphabet of secrets.
const base62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

const (
	secretRandom = 30 // number of random base62 characters, which are 178 bits
	secretCheck  = 6  // number of base62 characters of the checksum, the CRC-32 of all characters before it
)

// SecretLength is the number of characters in a secret after its prefix.
const SecretLength = secretRandom + secretCheck

// NewSecret returns a new secret: the prefix, 30 random characters and a checksum. With the checksum
// a mistyped secret is detected without a look-up.
func NewSecret(prefix string) string {
	body := prefix + randomText(secretRandom)
	return body + check(body)
}

// SandboxMark follows the prefix in the secrets of sandbox keys.
const SandboxMark = "test_"

// WellFormed reports whether secret has this prefix, with or without SandboxMark, the right length and a correct
// checksum. It does not check whether a key with this secret exists.
func WellFormed(secret, prefix string) bool {
	return secret != "" && len(Leading(secret, prefix)) == len(secret)
}

// Leading returns the well-formed secret with this prefix that text begins with, or "".
func Leading(text, prefix string) string {
	if len(text) < len(prefix) || text[:len(prefix)] != prefix {
		return ""
	}
	n := len(prefix) + SecretLength
	if strings.HasPrefix(text[len(prefix):], SandboxMark) {
		n += len(SandboxMark)
	}
	if len(text) < n || !checked(text[:n]) {
		return ""
	}
	return text[:n]
}

// checked reports whether a secret of the right length ends in its checksum.
func checked(secret string) bool {
	cut := len(secret) - secretCheck
	var buf [64]byte
	sum := crc32.ChecksumIEEE(append(buf[:0], secret[:cut]...))
	for i := len(secret) - 1; i >= cut; i-- {
		if secret[i] != base62[sum%62] {
			return false
		}
		sum /= 62
	}
	return true
}

// check returns the checksum of body.
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
		_, _ = rand.Read(buf) // never fails: the program ends if there is no random source
		for _, b := range buf {
			if b < 248 && len(out) < n { // 248 is 4*62; with larger bytes the first 8 characters would be more likely
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

// Digest is the SHA-256 of a secret.
type Digest [sha256.Size]byte

// DigestOf returns the digest of a secret.
func DigestOf(secret string) Digest {
	var buf [64]byte // avoids an allocation for a secret of the usual length
	return sha256.Sum256(append(buf[:0], secret...))
}

// ParseDigest decodes a digest from 64 hex digits, in upper or lower case. Its error completes a
// message that begins with the name of the value.
func ParseDigest(s string) (d Digest, err error) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(d) {
		return d, errors.New("must be the 64 hex digits of a SHA-256")
	}
	return Digest(b), nil
}

// Hint returns a text that identifies a secret and may be shown: the prefix, SandboxMark if the secret has it, dots and the
// last four characters of the secret. It returns "imported" if the secret is too short or has another prefix.
func Hint(secret, prefix string) string {
	if !strings.HasPrefix(secret, prefix) || len(secret) < len(prefix)+secretRandom {
		return "imported"
	}
	if marked := prefix + SandboxMark; strings.HasPrefix(secret, marked) && len(secret) >= len(marked)+secretRandom {
		prefix = marked
	}
	return prefix + "..." + secret[len(secret)-4:]
}
