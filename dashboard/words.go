package dashboard

// Words are the words of the admin endpoint that pages offer as choices, compare
// with or explain. A test of package main fails if they differ from its own lists.
type Words struct {
	DefaultOwner   string
	LiveKeys       string // filter for keys that are not revoked
	KeyStates      []string
	Carriers       []string // ways to send a key
	CallStates     []string
	CallTypes      []string
	FailReasons    []string // of calls
	EventStates    []string // of the calendar
	EventTypes     []string // of the calendar
	WebhookEvents  []string
	ContactColumns []string // of an import
	VariableTypes  []string
	ContextTypes   []string // of variables
	AgentRoles     []string
	Weekdays       []string
	AuditResults   []string
}

// The words that code of the dashboard uses by name.
const (
	defaultOwner    = "admin"
	liveKeys        = "live"
	keyActive       = "active"
	keyRevoked      = "revoked"
	carrierBearer   = "bearer"
	carrierHeader   = "header"
	carrierQuery    = "query"
	eventCancelled  = "cancelled"
	variableNumber  = "number"
	variableDate    = "date"
	variableBoolean = "boolean"
	variableSelect  = "select"
)

// Vocabulary returns the words. The caller may change the slices.
func Vocabulary() Words {
	return Words{
		DefaultOwner: defaultOwner,
		LiveKeys:     liveKeys,
		KeyStates:    []string{keyActive, "paused", "expired", keyRevoked},
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
			"call.queued", "key.created", "key.rotated", "key.revoked", "key.paused", "key.resumed", "key.expiring", "limit.reached",
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
	}
}
