package dashboard

import (
	"net/http"
)

// Passkeys lets operators use passkeys. It is a part of Accounts, whose comment says which errors the
// methods return.
type Passkeys interface {
	// PasskeyURL returns the address at which passkeys work. ok is false if there can be none.
	PasskeyURL() (url string, ok bool)
	// AskLogin returns the question for a login without a password, and the host names of stored passkeys
	// if none works here.
	AskLogin() (q Question, lost []string)
	// LoginWithPasskey begins a session. Faults are as for Login.
	LoginWithPasskey(r *http.Request, c Credentials) (Login, error)
	// AskConfirm returns the question with which the operator of s confirms an action.
	AskConfirm(s Session) Question
	// ConfirmWithPasskey is like Confirm, with the answer to AskConfirm in place of the password.
	ConfirmWithPasskey(r *http.Request, s Session, ticket, answer string) error
	// Proven reports whether the operator of s has confirmed the password, or used a passkey, just now.
	Proven(s Session) bool
	// AskNew returns the question for a new passkey of the operator of s.
	AskNew(s Session) Question
	// AddPasskey stores the passkey in the answer to AskNew. It needs a session that is Proven.
	AddPasskey(r *http.Request, s Session, name, ticket, answer string) error
	// AskFirst returns the question for a new passkey in place of a password, by the set-up link or the
	// invitation with this token. Setup and Join accept the answer.
	AskFirst(link, name string) Question
	// HasPassword reports whether the operator of s can log in with a password.
	HasPassword(s Session) bool
	// RemovePassword removes the password of the operator of s, who must have other ways to log in. It
	// needs a session that is Proven.
	RemovePassword(r *http.Request, s Session) error
}

// Question is a question to an authenticator. Its zero value means that there is nothing to ask.
type Question struct {
	Options string // for navigator.credentials, as JSON
	Ticket  string // goes back with the answer
}
