package main

import "strings"

// The causes of a failed delivery that owners of webhooks are shown. Whatever went wrong before
// there was an answer is notReached: the same for an unknown name, an address that is not allowed,
// a refused connection and an invalid certificate or answer. Otherwise a webhook could be used to
// find out which names and addresses there are in the network of this machine. The details are only
// in the server's log.
const (
	notReached  = "the receiver could not be reached"
	timedOut    = "timed out"
	badURL      = "the URL cannot be used"
	secretLost  = "the secret of this webhook cannot be decrypted"
	heldBack    = "discarded unsent after a restore"
	answered    = "the receiver answered "
	finalFailed = "The last error was: " // in webhook.Reason, before a cause
)

// The causes of a delivery that was dropped because of a bound. They begin with unsent. Each has a
// place for the value of the bound.
const (
	unsent        = "dropped unsent: "
	queueFull     = unsent + "more than %d deliveries are pending"
	bytesFull     = unsent + "more than %d bytes are pending"
	ownerFull     = unsent + "more than %d bytes are pending for the webhooks of the owner"
	eventTooLarge = unsent + "larger than the %d bytes that can be pending"
)

// publicCause returns the part of a stored cause that owners are shown. It shortens the causes of
// earlier versions, which contain details.
func publicCause(text string) string {
	if strings.HasPrefix(text, unsent) {
		return text
	}
	for _, cause := range []string{timedOut, badURL, secretLost, heldBack} {
		if strings.HasPrefix(text, cause) {
			return cause
		}
	}
	if strings.HasPrefix(text, "no answer within ") {
		return timedOut
	}
	return notReached
}

// publicReason returns the part of webhook.Reason that owners are shown, by the rule of
// publicCause.
func publicReason(reason string) string {
	begin, cause, found := strings.Cut(reason, finalFailed)
	if !found || strings.HasPrefix(cause, answered) {
		return reason
	}
	return begin + finalFailed + publicCause(cause) + "."
}
