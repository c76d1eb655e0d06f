package main

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
)

// mailBatch is the events of one type for the next mail about them. Those about sandbox keys have batches of their own, so that a
// mail about what is live does not wait for one of them. It stays when the mail has been sent.
type mailBatch struct {
	Type    string     `json:"type"`              // of the events, such as "key.expiring"
	Sandbox bool       `json:"sandbox,omitempty"` // they are about sandbox keys
	Number  uint64     `json:"number"`            // of the next mail of this type
	Count   int        `json:"count"`             // number of events that wait
	Lines   []mailLine `json:"lines,omitempty"`   // the first of them
	Since   time.Time  `json:"since,omitzero"`    // of the first of them
	Due     time.Time  `json:"due,omitzero"`      // when the mail may be sent, on the service clock
	Tries   int        `json:"tries,omitempty"`   // attempts at this mail
	Failed  time.Time  `json:"failed,omitzero"`   // of the first of these attempts; zero: none failed
	Reason  string     `json:"reason,omitempty"`  // why the last of them failed
}

// mailLine is what a mail says about an event.
type mailLine struct {
	About string `json:"about"` // id of what the event is about, so that it is counted once
	Text  string `json:"text"`
}

const (
	// maxMailLines is the number of events in a mail. It says how many more there were.
	maxMailLines = 200
	// maxMailLine is the length of a line in characters.
	maxMailLine = 300
	// mailsApart is the shortest time between two mails about one type of events.
	mailsApart = time.Hour
)

// mailDelays are the waits after failed attempts at a mail. The last one is repeated until the mail is sent.
func mailDelays() []time.Duration {
	return []time.Duration{time.Minute, 5 * time.Minute, 15 * time.Minute, time.Hour}
}

var mailTable = Table[mailBatch]{Name: "mails", Key: func(b mailBatch) []byte { return []byte(b.name()) }}

// name returns the name of the batch, such as "key.expiring" or "key.expiring.sandbox".
func (b *mailBatch) name() string {
	if b.Sandbox {
		return b.Type + ".sandbox"
	}
	return b.Type
}

// MailTables returns the table of what waits to be mailed, for checks of the store.
func MailTables() []Checked { return []Checked{&mailTable} }

// addMail adds an event to the next mail about its type, if such events are mailed. Call it in the transaction of the
// change that caused the event.
func addMail(tx *Tx, e WebhookEvent) error {
	if !e.Operator || !slices.Contains(tx.Mails, e.Type) {
		return nil
	}
	key, _ := e.Body["key"].(map[string]any)
	of := mailBatch{Type: e.Type, Sandbox: key["sandbox"] == true}
	b, err := mailTable.Get(tx, []byte(of.name()))
	if err != nil && !errors.Is(err, ErrNotFound) {
		return err
	}
	if b.Type, b.Sandbox = of.Type, of.Sandbox; b.Count == 0 {
		b.Since = e.At
	}
	b.Count++
	if len(b.Lines) < maxMailLines {
		b.Lines = append(b.Lines, lineOf(e))
	}
	return mailTable.Put(tx, b)
}

// settleMail stores the outcome of an attempt at the mail that sent has. problem is "" if the mail was sent. now is the wall
// clock, and moment the service clock. It changes nothing if another attempt has sent the mail meanwhile.
func settleMail(tx *Tx, sent mailBatch, problem string, now, moment time.Time) error {
	b, err := mailTable.Get(tx, []byte(sent.name()))
	if err != nil || b.Number != sent.Number {
		return err
	}
	if problem == "" {
		rest := mailBatch{Type: b.Type, Sandbox: b.Sandbox, Number: b.Number + 1, Count: b.Count - sent.Count, Lines: b.Lines[len(sent.Lines):], Due: moment.Add(mailsApart)}
		if rest.Count > 0 {
			rest.Since = now
		}
		return mailTable.Put(tx, rest)
	}
	delays := mailDelays()
	b.Due = moment.Add(delays[min(b.Tries, len(delays)-1)])
	if b.Tries++; b.Failed.IsZero() {
		b.Failed = now
	}
	b.Reason = problem
	return mailTable.Put(tx, b)
}

// dueMails returns the mails that may be sent at moment, a time on the service clock.
func dueMails(tx *Tx, moment time.Time) (list []mailBatch, err error) {
	for b, err := range mailTable.All(tx, Forward) {
		if err != nil {
			return nil, err
		}
		if b.Count > 0 && !b.Due.After(moment) {
			list = append(list, b)
		}
	}
	return list, nil
}

// MailBacklog is what waits to be mailed.
type MailBacklog struct {
	Events int       // number of events that wait
	Failed time.Time // since when mails cannot be sent; zero: the last attempts at all succeeded
	Reason string    // why
}

// WaitingMails returns what waits to be mailed. Nothing does while mails are off.
func WaitingMails(tx *Tx) (w MailBacklog, err error) {
	if len(tx.Mails) == 0 {
		return w, nil
	}
	for b, err := range mailTable.All(tx, Forward) {
		if err != nil {
			return w, err
		}
		w.Events += b.Count
		if !b.Failed.IsZero() && (w.Failed.IsZero() || b.Failed.Before(w.Failed)) {
			w.Failed, w.Reason = b.Failed, b.Reason
		}
	}
	return w, nil
}

// mailSubjects has, for each type of events, what a mail says about one record and about several.
var mailSubjects = map[string][2]string{
	KeyCreated: {"key was created", "keys were created"}, KeyRotated: {"key was rotated", "keys were rotated"},
	KeyRevoked: {"key was revoked", "keys were revoked"}, KeyPaused: {"key was paused", "keys were paused"}, KeyResumed: {"key was resumed", "keys were resumed"},
	keyExpiring: {"key expires soon", "keys expire soon"}, keyNetwork: {"key was used from another network", "keys were used from other networks"},
	keyInURL: {"key was sent in a URL", "keys were sent in URLs"}, keyUnused: {"key is not used", "keys are not used"},
	limitWarning: {"key has used most of a limit", "keys have used most of a limit"}, limitReached: {"key reached a limit", "keys reached a limit"},
	TokenExpiring: {"admin token expires soon", "admin tokens expire soon"},
	FactorReset:   {"operator lost a second factor", "operators lost a second factor"},

	storageWarningEvent: {"owner has little storage left", "owners have little storage left"},
	diskLowEvent:        {"server has little free disk space", "servers have little free disk space"},
}

// subject returns the subject of the mail. It has no text that anybody but this program has written.
func (b *mailBatch) subject() string {
	about := map[string]bool{}
	for _, line := range b.Lines {
		about[line.About] = true
	}
	words := mailSubjects[b.Type]
	if b.Sandbox {
		words = [2]string{"sandbox " + words[0], "sandbox " + words[1]}
	}
	switch n := len(about); {
	case b.Count > len(b.Lines):
		return fmt.Sprintf("Latchkey: %d or more %s", n, words[1])
	case n == 1:
		return "Latchkey: 1 " + words[0]
	default:
		return fmt.Sprintf("Latchkey: %d %s", n, words[1])
	}
}

// text returns the text of the mail. dashboard is the address of the dashboard, or "".
func (b *mailBatch) text(dashboard string) string {
	var t strings.Builder
	t.WriteString(strings.TrimPrefix(b.subject(), "Latchkey: ") + ".\n\n")
	for _, line := range b.Lines {
		t.WriteString(line.Text + "\n")
	}
	if more := b.Count - len(b.Lines); more > 0 {
		fmt.Fprintf(&t, "and %d more.\n", more)
	}
	if dashboard != "" {
		t.WriteString("\nDashboard: " + dashboard + "\n")
	}
	fmt.Fprintf(&t, "\nThe event is %s. Such mails come at most once an hour; [mail] in the configuration sets who gets which.\n", b.Type)
	return t.String()
}

// lineOf returns what a mail says about an event: the time, the record and the facts of the event. It has no secret, because
// events have none.
func lineOf(e WebhookEvent) mailLine {
	fact := func(object string, names ...string) (list []string) {
		facts, _ := e.Body[object].(map[string]any)
		for _, name := range names {
			if v := plainFact(facts[name]); v != "" {
				list = append(list, strings.ReplaceAll(name, "_", " ")+" "+v)
			}
		}
		return list
	}
	about, name := "", ""
	for _, object := range []string{"key", "token", "operator", "owner"} {
		if facts, ok := e.Body[object].(map[string]any); ok {
			about, name = plainFact(facts["id"]), plainFact(facts["name"])
			break
		}
	}
	facts := slices.Concat(
		fact("key", "owner", "environment", "expires_at"), limitText(e.Body["limit"]), fact("use", "network", "client", "carrier"),
		fact("token", "expires_at"), fact("operator", "way", "by"), fact("disk", "free_bytes", "mark_bytes"),
	)
	if owner, ok := e.Body["owner"].(map[string]any); ok {
		if storage, ok := owner["storage"].(map[string]any); ok {
			facts = append(facts, fmt.Sprintf("%v of %v bytes", storage["bytes"], storage["limit"]))
		}
	}
	for _, extra := range []string{"reason", "last_used_at"} {
		if v := plainFact(e.Body[extra]); v != "" {
			facts = append(facts, strings.ReplaceAll(extra, "_", " ")+" "+v)
		}
	}
	text := e.At.UTC().Format("2006-01-02 15:04 UTC")
	if name != "" {
		text += "  " + name
	}
	if about != "" {
		text += " (" + about + ")"
	}
	if len(facts) > 0 {
		text += ": " + strings.Join(facts, ", ")
	}
	return mailLine{cmp.Or(about, e.Type), clip(text, maxMailLine)}
}

// limitText returns what a mail says about the limit of an event, such as "limit requests_per_minute_limit of 60, used 48".
func limitText(v any) (list []string) {
	facts, ok := v.(map[string]any)
	if !ok {
		return nil
	}
	list = append(list, fmt.Sprintf("limit %s of %s", plainFact(facts["name"]), plainFact(facts["limit"])))
	if used := plainFact(facts["used"]); used != "" {
		list = append(list, "used "+used)
	}
	return list
}

// plainFact returns a fact of an event as text on one line, or "" if it has none.
func plainFact(v any) string {
	switch v := v.(type) {
	case nil:
		return ""
	case *string:
		if v == nil {
			return ""
		}
		return plainFact(*v)
	}
	return strings.Map(func(c rune) rune {
		if unicode.IsControl(c) || unicode.Is(unicode.Cf, c) || unicode.Is(unicode.Zl, c) || unicode.Is(unicode.Zp, c) { // also those that turn the direction of a line
			return ' '
		}
		return c
	}, fmt.Sprint(v))
}

// clip returns the first n characters of a text.
func clip(text string, n int) string {
	if list := []rune(text); len(list) > n {
		return string(list[:n]) + "..."
	}
	return text
}
