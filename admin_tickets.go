package main

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"sync"
	"time"
)

// ticketKind is a kind of encrypted text that a browser keeps, in a cookie or a link, between two steps
// of a login. The service stores nothing, so nobody can fill a memory with logins that are never
// finished, and a restart ends none.
type ticketKind[T any] struct {
	purpose string        // separates the key of this kind from other keys
	span    time.Duration // how long a ticket is valid
}

// sealedTicket is the text inside a ticket.
type sealedTicket[T any] struct {
	Data   T         `json:"data"`
	EndsAt time.Time `json:"ends_at"`
}

// issue returns a ticket that holds data. now must be from Clock.Latest.
func (k ticketKind[T]) issue(p Peppers, data T, now time.Time) (string, error) {
	text, err := json.Marshal(sealedTicket[T]{data, now.Add(k.span)})
	if err != nil {
		return "", err
	}
	sealed, err := p.Encrypt(k.purpose, nil, string(text))
	return base64.RawURLEncoding.EncodeToString(sealed), err
}

// read returns what a ticket holds. ok is false if the text is no ticket of this kind or if the ticket
// has expired. now must be from Clock.Latest.
func (k ticketKind[T]) read(p Peppers, text string, now time.Time) (data T, ok bool) {
	sealed, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(sealed) == 0 {
		return data, false
	}
	plain, err := p.Decrypt(k.purpose, nil, sealed)
	if err != nil {
		return data, false
	}
	var held sealedTicket[T]
	if json.Unmarshal([]byte(plain), &held) != nil || !now.Before(held.EndsAt) {
		return data, false
	}
	return held.Data, true
}

// spent remembers which tickets were used, so that each works once. The zero value is ready to use.
// It is safe for concurrent use.
type spent struct {
	mu   sync.Mutex
	ends map[[sha256.Size]byte]time.Time // when each can be forgotten, because the ticket has expired
}

// maxSpent is the maximum number of tickets that spent remembers. Only those who have logged in, or
// whom an identity provider has answered for, can add one.
const maxSpent = 10_000

// spend reports whether the ticket with this text was not used before, and remembers that it is used.
// It returns false if more tickets than maxSpent are in use. now must be from Clock.Latest.
func (s *spent) spend(text string, span time.Duration, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := sha256.Sum256([]byte(text))
	if _, used := s.ends[key]; used {
		return false
	}
	if len(s.ends) >= maxSpent {
		for old, end := range s.ends {
			if !now.Before(end) {
				delete(s.ends, old)
			}
		}
		if len(s.ends) >= maxSpent {
			return false
		}
	}
	if s.ends == nil {
		s.ends = map[[sha256.Size]byte]time.Time{}
	}
	s.ends[key] = now.Add(span)
	return true
}
