package main

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"latchkey/internal/clock"
)

// sentencePart is a part of the sentence about an entry of the audit log.
type sentencePart struct {
	Text   string  `json:"text"`
	Object *string `json:"object"` // the object that the part names, such as "key key_018c..."; nil if it names none, or if there is no such object any more
	Now    *string `json:"now"`    // the present name of the object, if it has another name by now
}

// auditVerb is how a sentence says what an action does.
type auditVerb struct {
	Kind      string // one of AuditKinds
	Past, Try string // "rotated" and "rotate"
	Whole     bool   // the words do not need the object
}

// The kinds of actions by which the audit log can be filtered.
const (
	kindCreated  = "created"
	kindChanged  = "changed"
	kindDeleted  = "deleted"
	kindImported = "imported"
	kindRotated  = "rotated"
	kindRevoked  = "revoked"
	kindPaused   = "paused"
	kindResumed  = "resumed"
	kindLogin    = "login"
	kindOther    = "other"
)

// AuditKinds returns the kinds of actions.
func AuditKinds() []string {
	return []string{kindCreated, kindChanged, kindDeleted, kindImported, kindRotated, kindRevoked, kindPaused, kindResumed, kindLogin, kindOther}
}

// auditVerbs are the verbs of the actions that verbOf does not find by the form of their route.
var auditVerbs = map[string]auditVerb{
	"POST /admin/v1/keys/:id/rotate":            {kindRotated, "rotated", "rotate", false},
	"POST /admin/v1/keys/:id/rotate/finish":     {kindRotated, "ended the old secrets of", "end the old secrets of", false},
	"POST /admin/v1/keys/:id/pause":             {kindPaused, "paused", "pause", false},
	"POST /admin/v1/keys/:id/resume":            {kindResumed, "resumed", "resume", false},
	"POST /admin/v1/keys/:id/explain":           {kindOther, "checked why a request would be refused with", "check why a request would be refused with", false},
	"POST /admin/v1/keys/lookup":                {kindOther, "looked up a key by its secret", "look up a key by its secret", true},
	"POST /admin/v1/limits/what-if":             {kindOther, "tried limits on past requests", "try limits on past requests", true},
	"POST /admin/v1/apply":                      {kindChanged, "applied a file", "apply a file", true},
	"POST /admin/v1/tokens/:id/rotate":          {kindRotated, "rotated", "rotate", false},
	"POST /admin/v1/operators/invite":           {kindCreated, "invited", "invite", false},
	"POST /admin/v1/operators/:id/password":     {kindChanged, "set the password of", "set the password of", false},
	"POST /admin/v1/operators/:id/enroll-link":  {kindChanged, "made a link to set up the login again for", "make a link to set up the login again for", false},
	"DELETE /admin/v1/sessions/:id":             {kindLogin, "ended a session", "end a session", true},
	"POST /admin/v1/sessions/end":               {kindLogin, "ended sessions", "end sessions", true},
	"POST /admin/v1/setup-link":                 {kindLogin, "made a set-up link", "make a set-up link", true},
	"POST /admin/v1/reload":                     {kindOther, "reloaded the configuration", "reload the configuration", true},
	"POST /admin/v1/check":                      {kindOther, "checked the store", "check the store", true},
	"POST /admin/v1/confirm":                    {kindLogin, "confirmed the password", "confirm the password", true},
	"POST /admin/v1/factors":                    {kindLogin, "added a second factor", "add a second factor", true},
	"POST /admin/v1/factors/totp":               {kindLogin, "began to add an authenticator app", "add an authenticator app", true},
	"POST /admin/v1/recovery-codes":             {kindLogin, "created recovery codes", "create recovery codes", true},
	"POST /admin/v1/webhooks/release":           {kindOther, "released the webhooks that were held back", "release the webhooks that are held back", true},
	"POST /admin/v1/webhooks/:id/test":          {kindOther, "sent a sample to", "send a sample to", false},
	"POST /admin/v1/webhooks/:id/redeliver":     {kindOther, "sent a delivery again to", "send a delivery again to", false},
	"POST /admin/v1/webhooks/:id/retry-failed":  {kindOther, "sent all failed deliveries again to", "send all failed deliveries again to", false},
	"POST /admin/v1/mail/test":                  {kindOther, "sent a test mail", "send a test mail", true},
	"POST /admin/v1/backups/:name/check":        {kindOther, "checked a backup", "check a backup", true},
	"POST /admin/v1/cluster/nodes/:name/remove": {kindDeleted, "removed", "remove", false},
	"POST /admin/v1/calls/claim":                {kindChanged, "claimed", "claim", false},
	"POST /admin/v1/calls/:id/start":            {kindChanged, "started", "start", false},
	"POST /admin/v1/calls/:id/complete":         {kindChanged, "completed", "complete", false},
	"POST /admin/v1/calls/:id/fail":             {kindChanged, "reported the failure of", "report the failure of", false},
	"POST /admin/v1/calls/:id/heartbeat":        {kindOther, "extended the lease of", "extend the lease of", false},
	"POST /admin/v1/sandbox/reset":              {kindDeleted, "emptied the sandbox of", "empty the sandbox of", false},
	"DELETE /api/v1/key":                        {kindRevoked, "revoked", "revoke", false},
	"PATCH /admin/v1/business-context":          {kindChanged, "changed the values of the business", "change the values of the business", true},
	"GET /admin/v1/backup":                      {kindOther, "made a backup", "make a backup", true},
	"log in":                                    {kindLogin, "logged in", "log in", true},
	"log in anew":                               {kindLogin, "logged in again", "log in again", true},
	"log in by single sign-on":                  {kindLogin, "logged in by single sign-on", "log in by single sign-on", true},
	"link to single sign-on":                    {kindLogin, "linked a login to single sign-on", "link a login to single sign-on", true},
	"confirm by single sign-on":                 {kindLogin, "confirmed the login by single sign-on", "confirm the login by single sign-on", true},
	"confirm password":                          {kindLogin, "confirmed the password", "confirm the password", true},
	"confirm with passkey":                      {kindLogin, "confirmed the login with a passkey", "confirm the login with a passkey", true},
	"add passkey":                               {kindLogin, "added a passkey", "add a passkey", true},
	"remove password":                           {kindLogin, "removed the password", "remove the password", true},
	"change password":                           {kindLogin, "changed the password", "change the password", true},
	"change display":                            {kindChanged, "changed own preferences for the pages", "change own preferences for the pages", true},
	"log out":                                   {kindLogin, "logged out", "log out", true},
	"log out everywhere":                        {kindLogin, "logged out everywhere", "log out everywhere", true},
	"set up":                                    {kindCreated, "created the first operator", "create the first operator", true},
	"accept invitation":                         {kindLogin, "accepted an invitation", "accept an invitation", true},
	"create operator":                           {kindCreated, "created", "create", false},
	"make set-up link":                          {kindLogin, "made a set-up link", "make a set-up link", true},
	"make backup":                               {kindOther, "made a backup", "make a backup", true},
	"restore":                                   {kindOther, "restored a backup", "restore a backup", true},
	"cut audit log":                             {kindOther, "deleted the oldest entries of this log", "delete the oldest entries of this log", true},
	"refusals not written down":                 {kindOther, "counted refusals that are not listed", "count refusals", true},
	"end earlier secrets":                       {kindRotated, "ended the old secrets of", "end the old secrets of", false},
	"pause unused key":                          {kindPaused, "paused", "pause", false},
	"request from another site":                 {kindOther, "sent a request from another site", "send a request from another site", true},
}

// verbOf returns the verb of an action.
func verbOf(action string) auditVerb {
	if v, ok := auditVerbs[action]; ok {
		return v
	}
	method, route, is := strings.Cut(action, " ")
	if !is || !strings.HasPrefix(route, "/") {
		return auditVerb{kindOther, "did \"" + action + "\" with", "do \"" + action + "\" with", false}
	}
	last := route[strings.LastIndexByte(route, '/')+1:]
	switch {
	case last == "import":
		return auditVerb{kindImported, "imported", "import", false}
	case last == "revoke":
		return auditVerb{kindRevoked, "revoked", "revoke", false}
	case last == "cancel":
		return auditVerb{kindChanged, "cancelled", "cancel", false}
	case method == "DELETE":
		return auditVerb{kindDeleted, "deleted", "delete", false}
	case method == "PATCH" || method == "PUT" || last == "context":
		return auditVerb{kindChanged, "changed", "change", false}
	case method == "POST":
		return auditVerb{kindCreated, "created", "create", false}
	}
	return auditVerb{kindOther, "read " + route, "read " + route, true}
}

// verb returns the verb of the sentence about an entry. It is that of the action, except for changes of an operator's login.
func (e AuditEntry) verb() auditVerb {
	if e.Action == "PATCH /admin/v1/operators/:id" {
		password := slices.ContainsFunc(e.Changes, func(c Change) bool { return c.Object == e.Object && slices.Contains(c.Fields, "password") })
		factors := slices.ContainsFunc(e.Changes, func(c Change) bool { return c.Did == kindDeleted && strings.HasPrefix(c.Object, "factor ") })
		switch {
		case password && factors:
			return auditVerb{kindChanged, "reset the login of", "reset the login of", false}
		case password:
			return auditVerb{kindChanged, "set the password of", "set the password of", false}
		case factors:
			return auditVerb{kindChanged, "removed the second factors of", "remove the second factors of", false}
		}
	}
	return verbOf(e.Action)
}

// actionKind returns the kind of an action.
func actionKind(action string) string { return verbOf(action).Kind }

// sentences writes entries of the audit log as sentences. It looks up each object once. It is for one
// transaction.
type sentences struct {
	tx     *Tx
	naming []*Naming
	known  map[string]namedObject
}

// namedObject is what is known of an object now.
type namedObject struct {
	name   string
	exists bool
}

// find returns what is known of an object such as "key key_018c...".
func (s *sentences) find(object string) namedObject {
	if found, ok := s.known[object]; ok {
		return found
	}
	found := namedObject{}
	for _, n := range s.naming {
		if name, exists := n.Of(s.tx, object); exists {
			found = namedObject{cmp.Or(name, found.name), true}
		}
	}
	s.known[object] = found
	return found
}

// Parts returns the sentence about an entry.
func (s *sentences) Parts(e AuditEntry) []sentencePart {
	verb, parts := e.verb(), s.actor(e.Actor)
	say := func(format string, args ...any) {
		parts = append(parts, sentencePart{Text: fmt.Sprintf(format, args...)})
	}
	if e.Result == AuditRefused {
		say(" tried to %s", verb.Try)
	} else {
		say(" %s", verb.Past)
	}
	switch {
	case verb.Whole:
	case verb.Kind == kindImported:
		say(" %s", importedText(e))
	case e.Object != "":
		parts = append(parts, s.object(e, e.mainObject())...)
	default:
		say(" %s", kindOfRoute(e.Action))
	}
	if more := e.more(verb); more != "" {
		say(" (%s)", more)
	}
	if e.Result == AuditRefused {
		say(" and was refused: %s", strings.ReplaceAll(e.Code, "_", " "))
	}
	return parts
}

// text returns the sentence of parts.
func sentenceText(parts []sentencePart) (text string) {
	for _, p := range parts {
		text += p.Text
	}
	return text
}

// actor returns the subject of a sentence.
func (s *sentences) actor(actor string) []sentencePart {
	kind, rest, _ := strings.Cut(actor, " ")
	id, name, _ := strings.Cut(rest, " ")
	switch kind {
	case "operator":
		return []sentencePart{s.named(kind+" "+id, name)}
	case "token", "key":
		return []sentencePart{{Text: "The " + kind + " "}, s.named(kind+" "+id, name)}
	case "nobody":
		return []sentencePart{{Text: "Somebody without a login"}}
	case ActorSelf:
		return []sentencePart{{Text: "Latchkey"}}
	case "":
		return []sentencePart{{Text: "Somebody"}}
	}
	return []sentencePart{{Text: "The " + actor}}
}

// named returns a part that names an object. name is its name at the time, or "" if that is not known.
func (s *sentences) named(object, name string) sentencePart {
	found := s.find(object)
	_, id, _ := strings.Cut(object, " ")
	p := sentencePart{Text: cmp.Or(name, found.name, id)}
	if found.exists {
		p.Object = &object
	}
	if name != "" && found.name != "" && found.name != name {
		p.Now = &found.name
	}
	return p
}

// mainObject returns the object that the action of an entry is for. A new record can have a new owner,
// which the entry names first.
func (e AuditEntry) mainObject() string {
	one := strings.TrimPrefix(strings.TrimPrefix(kindOfRoute(e.Action), "an "), "a ")
	if !strings.HasPrefix(e.Object, one+" ") {
		for _, c := range e.Changes {
			if strings.HasPrefix(c.Object, one+" ") {
				return c.Object
			}
		}
	}
	return e.Object
}

// object returns the object of a sentence about an entry.
func (s *sentences) object(e AuditEntry, object string) []sentencePart {
	name := ""
	if i := slices.IndexFunc(e.Changes, func(c Change) bool { return c.Object == object }); i >= 0 {
		name = e.Changes[i].Name
	}
	kind, _, _ := strings.Cut(object, " ")
	return []sentencePart{{Text: " the " + kind + " "}, s.named(object, name)}
}

// kindOfRoute returns the object of an action that names none, such as "a key".
func kindOfRoute(action string) string {
	_, route, _ := strings.Cut(action, " /")
	for _, segment := range slices.Backward(strings.Split(route, "/")) {
		switch segment {
		case "do-not-call":
			return "a number"
		case "sandbox":
			return "an owner"
		}
		if kind, many := strings.CutSuffix(segment, "s"); many && !strings.HasPrefix(segment, ":") {
			article := "a "
			if strings.ContainsAny(kind[:1], "aeio") {
				article = "an "
			}
			return article + strings.ReplaceAll(kind, "-", " ")
		}
	}
	return "something"
}

// importedText returns what an import was about, such as "12 contacts".
func importedText(e AuditEntry) string {
	one := strings.TrimPrefix(strings.TrimPrefix(kindOfRoute(e.Action), "an "), "a ")
	switch {
	case e.Changed == 1:
		return "one " + one
	case e.Changed > 1:
		return fmt.Sprintf("%d %ss", e.Changed, one)
	}
	return one + "s"
}

// loginFields are the fields of an operator that a sentence leaves out if its verb says what has become of the login.
var loginFields = []string{"password", "changed_at", "initial", "recovery_codes"}

// more returns what a sentence says in brackets about an entry, or "".
func (e AuditEntry) more(verb auditVerb) string {
	if e.Result == AuditRefused || len(e.Changes) == 0 {
		return ""
	}
	c := e.Changes[0]
	if i := slices.IndexFunc(e.Changes, func(c Change) bool { return c.Object == e.Object && c.Did == kindChanged }); i >= 0 {
		c = e.Changes[i]
	}
	switch {
	case verb.Kind == kindRotated && verb.Past == "rotated":
		return overlapText(c, e.At)
	case verb.Past == "applied a file":
		if e.Changed == 1 {
			return "1 record"
		}
		return fmt.Sprintf("%d records", e.Changed)
	case verb.Kind == kindChanged && c.Did == kindChanged:
		fields := []string{}
		for _, name := range c.Fields {
			if name != "updated_at" && (verb.Past == "changed" || !slices.Contains(loginFields, name)) {
				fields = append(fields, strings.ReplaceAll(name, "_", " "))
			}
		}
		if n := len(fields); n > 4 {
			fields = append(fields[:3], fmt.Sprintf("%d more", n-3))
		}
		return strings.Join(fields, ", ")
	}
	return ""
}

// overlapText returns how long the old secret stays valid after a rotation.
func overlapText(c Change, at time.Time) string {
	list, _ := c.After["aliases"].([]any)
	var ends time.Time
	for _, alias := range list {
		fields, _ := alias.(map[string]any)
		text, _ := fields["ends_at"].(string)
		if t, err := clock.ParseTime(text); err == nil && t.After(ends) {
			ends = t
		}
	}
	if !ends.After(at) {
		return "no overlap"
	}
	return "overlap " + spanText(ends.Sub(at))
}

// spanText returns a span in its largest fitting unit, such as "7 days".
func spanText(d time.Duration) string {
	for _, unit := range []struct {
		of   time.Duration
		name string
	}{{24 * time.Hour, "day"}, {time.Hour, "hour"}, {time.Minute, "minute"}, {time.Second, "second"}} {
		if n := int(math.Round(float64(d) / float64(unit.of))); n > 0 && d >= unit.of-unit.of/100 {
			if n == 1 {
				return "1 " + unit.name
			}
			return fmt.Sprintf("%d %ss", n, unit.name)
		}
	}
	return "less than a second"
}
