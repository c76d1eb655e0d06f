// The bounds family says how much clients can store. bounds.go has the bounds that the configuration
// sets, and the lengths of texts. It does not enforce them: the store does for records, Body for
// fields, and each resource for what it adds to a record.

package main

import (
	"time"
	"unicode/utf8"

	"latchkey/internal/figures"
)

// Bounds limit what the keys of an owner can store and how much of the service they can use. Each
// bound is a setting of the section [bounds], with the tags of Config. 0 means no bound. A bound that
// is lowered applies to the next change. What is stored already can still be read and changed, but
// not grow.
type Bounds struct {
	// RecordBytes is the largest size of one record that a key changes, in bytes of its JSON. It does
	// not apply to the operator.
	RecordBytes int `toml:"record_bytes" default:"262144" min:"16384" max:"16777216"`
	// ContextValues is the largest number of values in a custom, industry or business context, and in
	// the variables of a call. ContextBytes is the largest size of one of them, in bytes of its JSON.
	ContextValues int `toml:"context_values" default:"20000" min:"10" max:"100000"`
	ContextBytes  int `toml:"context_bytes" default:"262144" min:"1024" max:"16777216"`
	// Variables and Webhooks are the largest numbers of them that an owner can have. Each webhook gets
	// each event of its owner.
	Variables int `toml:"variables" default:"1000" min:"10" max:"100000"`
	Webhooks  int `toml:"webhooks" default:"50" min:"1" max:"1000"`
	// OwnerBytes is how many bytes the records of an owner may need as they are stored. It applies to
	// owners without a limit of their own.
	OwnerBytes int64 `toml:"owner_bytes" default:"268435456" min:"0" max:"1125899906842624"`
	// While less than FreeDiskBytes or FreeDiskPercent of the file system is free, whichever is less,
	// keys can store nothing new. 0 in either turns this off.
	FreeDiskBytes   int64 `toml:"free_disk_bytes" default:"268435456" min:"0" max:"1125899906842624"`
	FreeDiskPercent int   `toml:"free_disk_percent" default:"5" min:"0" max:"50"`
	// ActivityEntries is the largest number of entries in the activity of a key, and ActivityKeep how long
	// they are kept.
	ActivityEntries int           `toml:"key_activity_entries" default:"10000" min:"100" max:"100000"`
	ActivityKeep    time.Duration `toml:"key_activity_keep" default:"2160h" min:"24h" max:"87600h"`
	// MinutesBytes is how many bytes the counts of requests per minute may need, of all keys, and
	// MinutesKeep how long they are kept, in whole days.
	MinutesBytes int64         `toml:"usage_minutes_bytes" default:"67108864" min:"1048576" max:"17179869184"`
	MinutesKeep  time.Duration `toml:"usage_minutes_keep" default:"168h" min:"24h" max:"744h"`
	// TranscriptLength is the largest length of the transcript of a call, in characters. A longer
	// transcript is cut.
	TranscriptLength int `toml:"transcript_length" default:"200000" min:"1000" max:"10000000"`

	// These bounds apply to all webhooks, also to the operator's. Beyond them the oldest deliveries are
	// dropped. An event counts with the size of its body in bytes.
	//
	// WebhookWaiting is the largest number of deliveries that are pending for a webhook, and
	// WebhookWaitingBytes the largest sum of their sizes.
	WebhookWaiting      int `toml:"webhook_waiting" default:"10000" min:"1" max:"1000000"`
	WebhookWaitingBytes int `toml:"webhook_waiting_bytes" default:"16777216" min:"65536" max:"1073741824"`
	// OwnerWaitingBytes is the largest sum of the sizes of the events that are pending for all webhooks of
	// an owner. An event counts once, however many of the webhooks it is pending for.
	OwnerWaitingBytes int `toml:"webhook_owner_bytes" default:"67108864" min:"65536" max:"1073741824"`
	// WebhookLogBytes is the largest sum of the sizes of the bodies that the log of a webhook keeps, so
	// that they can be sent again. Beyond it the oldest entries lose their body.
	WebhookLogBytes int `toml:"webhook_log_bytes" default:"4194304" min:"1024" max:"1073741824"`
}

// The largest lengths of texts that clients send, in characters. A character is a Unicode code point,
// as maxLength of JSON Schema counts them (2020-12 validation, section 6.3.1).
const (
	WordLength      = 100       // words such as a stage, postal codes, names of values
	NameLength      = 200       // names of people and things, tags
	EmailLength     = 320       // 64 characters before the @ and 255 after it (RFC 5321, section 4.5.3.1)
	LineLength      = 500       // titles, addresses
	ReasonLength    = 2000      // reasons, short descriptions
	URLLength       = 2048      // URLs
	TagLength       = 4000      // values in the metadata of a key
	RecordingLength = 8000      // URLs of recordings, which often have long signatures
	NoteLength      = 10_000    // notes, descriptions, summaries
	ValueLength     = 20_000    // values of context variables
	AnyLength       = 64 * 1024 // texts that are only compared, and texts whose form bounds them more
)

// The largest numbers of entries in lists that clients send.
const (
	MaxPhones   = 100  // phone numbers of a contact
	MaxTags     = 100  // tags of a contact
	MaxOptions  = 200  // options of a context variable
	MaxMembers  = 1000 // members of a team
	MaxNetworks = 1000 // allowed addresses of a key
	MaxObjects  = 100  // objects of one kind that a key is limited to
	MaxMetadata = 100  // texts in the metadata of a key
	MaxWords    = 1000 // words of a fixed set, such as permissions, and hashes that are only compared
)

// Length returns the number of characters in text.
func Length(text string) int { return utf8.RuneCountInString(text) }

// CutText returns text unchanged if it has at most most characters. Otherwise it returns the first
// most characters and a mark that names most. So cutting a cut text again does not change it.
func CutText(text string, most int) string {
	if most <= 0 || len(text) <= most {
		return text
	}
	n := 0
	for at := range text {
		if n == most {
			return text[:at] + cutMark(most)
		}
		n++
	}
	return text
}

func cutMark(most int) string { return "\n[cut at " + Figure(most) + " characters]" }

// AppendText returns text with more at its end. If the result would have more than most characters,
// more is cut so that it has not, with a mark; if there is no room for that either, AppendText
// returns text unchanged. So text itself is never cut.
func AppendText(text, more string, most int) string {
	const mark = " [cut]"
	room := most - Length(text)
	switch {
	case Length(more) <= room:
		return text + more
	case room <= len(mark):
		return text
	}
	runes := []rune(more)
	return text + string(runes[:room-len(mark)]) + mark
}

// Figure returns n with a comma between each three digits, for messages. n must not be negative.
func Figure(n int) string { return figures.Grouped(n) }
