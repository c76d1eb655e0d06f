package dashboard

// Words holds the words of the admin endpoint that pages offer as choices, compare with, or
// explain. A test of package main compares them with its own lists.
type Words struct {
	DefaultOwner   string // owner of records that are created without an owner
	LiveKeys       string // value of the status filter for keys that are not revoked
	AnyKeys        string // filter for keys of every status
	KeyStates      []string
	KeyTags        []string // values of the filter tag for keys
	Carriers       []string // ways to send a key
	CallStates     []string
	CallTypes      []string
	FailReasons    []string // why a call failed
	EventStates    []string // of calendar events
	EventTypes     []string // of calendar events
	WebhookEvents  []string
	ContactColumns []string // columns that an imported CSV may have
	VariableTypes  []string
	ContextTypes   []string // what a variable belongs to
	AgentRoles     []string
	Weekdays       []string
	AuditResults   []string
	AuditKinds     []string    // kinds of actions
	ActivityKinds  []string    // kinds of entries in the activity of a key
	Roles          []string    // of operators
	TokenScopes    [][2]string // of admin tokens: the name, and what it is for
}

// These are the words that the code of the dashboard refers to.
const (
	defaultOwner    = "admin"
	liveKeys        = "live"
	anyKeys         = "any"
	keyActive       = "active"
	keyRevoked      = "revoked"
	tagStillSent    = "still_sent"
	carrierBearer   = "bearer"
	carrierHeader   = "header"
	carrierQuery    = "query"
	eventCancelled  = "cancelled"
	variableNumber  = "number"
	variableDate    = "date"
	variableBoolean = "boolean"
	variableSelect  = "select"
)

// Vocabulary returns the words. It returns new slices each time, so the caller may change them.
func Vocabulary() Words {
	return Words{
		DefaultOwner: defaultOwner,
		LiveKeys:     liveKeys,
		AnyKeys:      anyKeys,
		KeyStates:    []string{keyActive, "paused", "expired", keyRevoked},
		KeyTags:      []string{"never_used", "expires_soon", "never_expires", "rate_limited", "sent_in_url", "rotating", tagStillSent},
		Carriers:     []string{carrierBearer, carrierHeader, carrierQuery},
		CallStates:   []string{"queued", "in-progress", "completed", "failed"},
		CallTypes:    []string{"inbound", "outbound"},
		FailReasons: []string{
			"twilio-failed-to-connect-call", "no-answer", "busy", "disconnected", "invalid-number", "rejected", "canceled", "failed",
		},
		EventStates: []string{"scheduled", "confirmed", eventCancelled, "completed", "no_show"},
		EventTypes:  []string{"meeting", "appointment", "busy", "voice_call", "video_call"},
		WebhookEvents: []string{
			"call.started", "call.ended", "call.failed", "call.transcript", "call.recording", "call.summary",
			"calendar.created", "calendar.updated", "calendar.cancelled", "calendar.completed", "calendar.reminder",
			"call.queued", "key.created", "key.rotated", "key.revoked", "key.paused", "key.resumed", "key.expiring", "key.new_network", "key.in_url", "key.unused", "limit.warning", "limit.reached", "token.expiring", "operator.factor_reset", "owner.storage_warning", "disk.low",
		},
		ContactColumns: []string{
			"first_name", "last_name", "email", "company", "website", "address", "city", "state", "zip_code", "country",
			"status", "stage", "timezone", "team_id", "tags", "phone", "phone_type", "do_not_call", "owner",
		},
		VariableTypes: []string{"text", variableNumber, variableDate, variableBoolean, variableSelect},
		ContextTypes:  []string{"contact", "business"},
		AgentRoles:    []string{"inbound agent", "outbound agent"},
		Weekdays:      []string{"sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday"},
		AuditResults:  []string{"done", "refused"},
		ActivityKinds: []string{"write", "refusal", "network", "address", "carrier", "left_out"},
		AuditKinds:    []string{"created", "changed", "deleted", "imported", "rotated", "revoked", "paused", "resumed", "login", "other"},
		Roles:         []string{"viewer", "key_manager", "admin"},
		TokenScopes: [][2]string{
			{"metrics", "reads the metrics, for Prometheus"}, {"read", "reads everything except secrets"}, {"dialer", "claims calls and reports their results"},
			{"keys", "manages keys and owners"}, {"write", "changes calls, contacts, webhooks and other records, but no keys"}, {"all", "may do everything that an admin token can do"},
		},
	}
}
