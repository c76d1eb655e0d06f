// The errors family has every code that the API answers with, and the sentences
// of /errors about each. It decides nothing: who returns an error chose it, and
// only server.go turns one into an answer.

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"time"
)

// Error is an error answer: an HTTP status, a code for programs and a sentence
// for people (docs/contract.md, section 1.3). The variables below are shared
// and must not be changed; With, WithField and After return copies.
type Error struct {
	Status  int
	Code    string
	Message string
	// RetryAfter, if above zero, is sent as the Retry-After field, in whole
	// seconds rounded up (RFC 9110, section 10.2.3).
	RetryAfter time.Duration
	// Fields are further members of the JSON body.
	Fields map[string]any
	// Challenge, if not "", is sent as the WWW-Authenticate field.
	Challenge string
}

// Every error code of the API, with its usual message.
var (
	ErrValidation = &Error{Status: http.StatusBadRequest, Code: "validation_error", Message: "The request is not valid."}
	ErrJSON       = &Error{Status: http.StatusBadRequest, Code: "invalid_json", Message: "The body is not valid JSON. Send one JSON object in UTF-8."}
	ErrMissing    = &Error{Status: http.StatusBadRequest, Code: "missing_parameter", Message: "A required parameter is missing."}

	ErrUnauthenticated = &Error{Status: http.StatusUnauthorized, Code: "authentication_required", Message: "No API key sent. Send it as Authorization: Bearer KEY, or as X-API-Key: KEY."}
	ErrKey             = &Error{Status: http.StatusUnauthorized, Code: "invalid_key", Message: "This API key is not valid. Check that it is complete, or create a new one."}
	ErrPermission      = &Error{Status: http.StatusForbidden, Code: "permission_denied", Message: "This API key lacks the permission."}
	ErrRateLimit       = &Error{Status: http.StatusTooManyRequests, Code: "rate_limit_exceeded", Message: "A limit of this API key is reached. Wait for the time in Retry-After."}

	ErrNotFound    = &Error{Status: http.StatusNotFound, Code: "not_found", Message: "No such object."}
	ErrRoute       = &Error{Status: http.StatusNotFound, Code: "not_found", Message: "No such endpoint."}
	ErrMethod      = &Error{Status: http.StatusMethodNotAllowed, Code: "method_not_allowed", Message: "This endpoint does not take this method."}
	ErrTooLarge    = &Error{Status: http.StatusRequestEntityTooLarge, Code: "validation_error", Message: "The body is too large."}
	ErrEncoding    = &Error{Status: http.StatusUnsupportedMediaType, Code: "validation_error", Message: "Content-Encoding is not supported. Send the body as it is."}
	ErrConflict    = &Error{Status: http.StatusConflict, Code: "conflict", Message: "The object is not in a state that allows this."}
	ErrBodyTime    = &Error{Status: http.StatusRequestTimeout, Code: "validation_error", Message: "The body came too slowly. Send it again, without long pauses."}
	ErrBroken      = &Error{Status: http.StatusBadRequest, Code: "validation_error", Message: "The request broke off. Send it whole."}
	ErrGateway     = &Error{Status: http.StatusBadGateway, Code: "bad_gateway", Message: "The API behind this one cannot be reached, or its answer cannot be understood. Try again shortly."}
	ErrGatewayTime = &Error{Status: http.StatusGatewayTimeout, Code: "gateway_timeout", Message: "The API behind this one did not answer in time. Try again, or ask for less."}
	ErrUnavailable = &Error{Status: http.StatusServiceUnavailable, Code: "service_unavailable", Message: "The store takes no writes just now. Try again shortly.", RetryAfter: 5 * time.Second}
	ErrServer      = &Error{Status: http.StatusInternalServerError, Code: "server_error", Message: "Unexpected fault. The server's log has the details under this request id."}

	ErrLogin = &Error{Status: http.StatusUnauthorized, Code: "invalid_login", Message: "The name or the password is wrong."}
	ErrSetup = &Error{Status: http.StatusForbidden, Code: "invalid_setup_link", Message: "This set-up link was used, is too old, or there is an operator already."}

	ErrMissingPhone  = &Error{Status: http.StatusBadRequest, Code: "missing_phone_number", Message: "phone_number is missing. Send the number to dial, such as +4930555044."}
	ErrMissingAgent  = &Error{Status: http.StatusBadRequest, Code: "missing_agent_id", Message: "agent_id is missing. Send an id from GET /api/v1/agents."}
	ErrInvalidPhone  = &Error{Status: http.StatusBadRequest, Code: "invalid_phone_number", Message: "phone_number is not an E.164 number. Send + and 7 to 15 digits, such as +4930555044."}
	ErrFunds         = &Error{Status: http.StatusPaymentRequired, Code: "insufficient_funds", Message: "The wallet is too low for this call."}
	ErrDoNotCall     = &Error{Status: http.StatusForbidden, Code: "do_not_call", Message: "This number is on the do-not-call list."}
	ErrAgentNotFound = &Error{Status: http.StatusNotFound, Code: "agent_not_found", Message: "No such agent, or no access to it."}
	ErrNoPhone       = &Error{Status: http.StatusNotFound, Code: "no_phone_number", Message: "The agent has no phone number assigned."}

	ErrParameterFormat = &Error{Status: http.StatusBadRequest, Code: "invalid_parameter_format", Message: "A query parameter does not have the form it needs."}
	ErrDuration        = &Error{Status: http.StatusBadRequest, Code: "invalid_duration", Message: "duration must be a whole number of minutes from 1 to 180."}
	ErrDatetime        = &Error{Status: http.StatusBadRequest, Code: "invalid_datetime_format", Message: "The time is not an ISO 8601 date and time."}

	ErrDuplicate         = &Error{Status: http.StatusBadRequest, Code: "duplicate_variable", Message: "A context variable of this name exists."}
	ErrInvalidValue      = &Error{Status: http.StatusBadRequest, Code: "invalid_value", Message: "The value does not fit the definition of its variable."}
	ErrUndefinedVariable = &Error{Status: http.StatusBadRequest, Code: "undefined_variable", Message: "There is no such context variable."}
	ErrDeleteNotAllowed  = &Error{Status: http.StatusForbidden, Code: "delete_not_allowed", Message: "Built-in context variables cannot be deleted."}
	ErrReplay            = &Error{Status: http.StatusUnprocessableEntity, Code: "idempotency_key_reused", Message: "This Idempotency-Key was sent with another body before. Use a new one for each thing to be made."}

	ErrMissingFirstName = &Error{Status: http.StatusBadRequest, Code: "missing_first_name", Message: "first_name is missing."}
	ErrTeamNotFound     = &Error{Status: http.StatusNotFound, Code: "team_not_found", Message: "No such team."}
	ErrTeamAccess       = &Error{Status: http.StatusForbidden, Code: "team_access_denied", Message: "This key's owner is not a member of the team."}
)

// Error returns the code and the message.
func (e *Error) Error() string { return e.Code + ": " + e.Message }

// Is reports whether target is an Error with the same status and code, whatever
// its message. errors.Is calls it.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code && t.Status == e.Status
}

// With returns a copy with another message.
func (e *Error) With(format string, args ...any) *Error {
	c := *e
	c.Message = fmt.Sprintf(format, args...)
	return &c
}

// WithField returns a copy whose body has one more member.
func (e *Error) WithField(name string, value any) *Error {
	c := *e
	c.Fields = maps.Clone(e.Fields)
	if c.Fields == nil {
		c.Fields = map[string]any{}
	}
	c.Fields[name] = value
	return &c
}

// After returns a copy with a Retry-After of at least one second.
func (e *Error) After(wait time.Duration) *Error {
	c := *e
	c.RetryAfter = max(wait, time.Second)
	return &c
}

// Public returns the Error to show to a client: the one in err's chain, or
// ErrServer if there is none.
func Public(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return ErrServer
}

// errorEntry explains an error code to developers of clients.
type errorEntry struct {
	Code     string
	Statuses []int
	Means    string // one sentence
	When     string
	Do       string
	Example  string // a JSON body
}

// explanation is the source of an errorEntry. All errors in of have the same
// code, and the first one is the example.
type explanation struct {
	of              []*Error
	means, when, do string
}

// ErrorCatalog returns an explanation of every error code of the API, roughly
// in the order of the statuses. A test compares it with the variables in this
// file.
func ErrorCatalog() []errorEntry {
	var list []errorEntry
	for _, x := range explanations() {
		first := x.of[0]
		e := errorEntry{Code: first.Code, Means: x.means, When: x.when, Do: x.do}
		for _, one := range x.of {
			e.Statuses = append(e.Statuses, one.Status)
		}
		body := map[string]any{"error": first.Code, "message": first.Message, "request_id": "5f0c1b2e7k"}
		maps.Copy(body, first.Fields)
		text, err := json.MarshalIndent(body, "", "  ")
		if err != nil {
			continue // the test would then report a missing code
		}
		e.Example = string(text)
		list = append(list, e)
	}
	return list
}

func explanations() []explanation {
	return []explanation{
		{[]*Error{ErrValidation.With("limit must be a whole number from 1; got \"0\"."), ErrTooLarge, ErrEncoding, ErrBodyTime},
			"The request cannot be taken as it is, and no more exact code applies.",
			"A member or a query parameter has a value it must not have, two different keys were sent (400), the body is too large (413), or it is compressed (415).",
			"Read the message: it names the member and what it takes. The same request will fail again."},
		{[]*Error{ErrJSON}, "The body is not one JSON object.",
			"It is empty, cut off, not UTF-8, an array or text where an object is asked for, or has more after its end.",
			"Encode the body with a JSON library, and send it whole."},
		{[]*Error{ErrMissing.With("start_time is missing.")}, "A member or a parameter that is needed is missing.",
			"It is absent, null or empty. The message names it.", "Send it."},
		{[]*Error{ErrMissingPhone}, "There is no number to call.", "phone_number is missing or empty in POST /api/v1/calls.", "Send the number as + and 7 to 15 digits."},
		{[]*Error{ErrMissingAgent}, "No agent is named who should speak.", "agent_id is missing in POST /api/v1/calls.", "Send the id or the assistant_id of an agent from GET /api/v1/agents."},
		{[]*Error{ErrInvalidPhone}, "The number cannot be dialled.", "phone_number is not of the form of E.164: + and 7 to 15 digits, the first not 0.", "Send it with the country code, without spaces and dashes."},
		{[]*Error{ErrMissingFirstName}, "A contact needs a first name.", "first_name is missing or empty when a contact is created.", "Send first_name."},
		{[]*Error{ErrParameterFormat}, "A query parameter is not of the form it needs.", "A date is not YYYY-MM-DD, for instance. The message names the parameter.", "Send it in that form."},
		{[]*Error{ErrDatetime}, "A time cannot be read.", "It is not an ISO 8601 date and time.", "Send it as 2026-03-02T09:00:00Z or with an offset such as +01:00."},
		{[]*Error{ErrDuration}, "The duration cannot be used.", "duration is no whole number from 1 to 180 in GET /api/v1/calendar/availability.", "Send minutes from 1 to 180."},
		{[]*Error{ErrDuplicate}, "There is a context variable of this name already.", "A variable is created under a name that the owner has for this context.", "Use another name, or change the one that exists."},
		{[]*Error{ErrInvalidValue}, "The value does not fit its variable.", "A number, date, boolean or choice is asked for and something else was sent.", "Look at variable_type and select_options of the variable, and send a value that fits."},
		{[]*Error{ErrUndefinedVariable}, "There is no such context variable.", "A value is set for a name that was never defined.", "Define it first, or send auto_create_variables: true."},

		{[]*Error{ErrUnauthenticated}, "No API key came with the request.", "There is no Authorization: Bearer, no X-API-Key and no api_key, or what is there is empty.",
			"Send the key in one of them; Authorization: Bearer KEY is the safest."},
		{[]*Error{ErrKey}, "The key that came does not hold.", "It is mistyped or cut off, was never made here, is paused, has expired or was revoked, or is sent in the URL where that is switched off. Which of these is told to nobody but the operator.",
			"Compare its last four characters with those in the dashboard. A revoked key never holds again: have a new one made. Do not retry in a loop, as wrong keys are throttled by address."},
		{[]*Error{ErrLogin}, "The name or the password of an operator is wrong.", "At the login of the dashboard.", "Try again, or have the password set with \"latchkey admin passwd\"."},

		{[]*Error{ErrFunds.WithField("current_balance", 0.12).WithField("required_rate", 0.4)}, "The wallet does not cover the call.",
			"The owner of the key has a wallet, and its balance is below the rate of a minute.", "Fill the wallet; nothing was charged and no call was made."},

		{[]*Error{ErrPermission.With("This key lacks the permission can_initiate_calls. It has can_read_calls.")}, "The key holds, and may not do this.",
			"It lacks the permission that the message names, or it may not be used from this address.", "Have the permission or the address added to the key. The request was counted against the minute limit, and nothing was done."},
		{[]*Error{ErrDoNotCall}, "This number must not be called.", "It is on the operator's list, or the contact asked not to be called.", "Do not call it. Nothing was charged."},
		{[]*Error{ErrTeamAccess}, "The owner of the key is not in this team.", "A record is given to a team, or read by way of one, that the owner is no member of.", "Use one of the owner's teams, or have the owner added."},
		{[]*Error{ErrDeleteNotAllowed}, "This variable is built in.", "A context variable that every account has is to be deleted.", "Leave it; those that you made can be deleted."},
		{[]*Error{ErrSetup}, "The set-up link does not hold.", "It was used, is older than half an hour, or there is an operator by now.", "Have another made with \"latchkey admin setup-link\", or log in."},

		{[]*Error{ErrNotFound}, "There is no such thing, or it is somebody else's; the two are not told apart.", "The id is wrong, the object is another owner's, or the path has no endpoint.", "Check the id and the path; paths begin with /api/v1."},
		{[]*Error{ErrAgentNotFound}, "There is no such agent that you may use.", "agent_id names none, or one of another owner.", "Take an id from GET /api/v1/agents."},
		{[]*Error{ErrNoPhone}, "The agent has no number to call from.", "A call is started with an agent without phone_number.", "Have a number assigned to the agent, or use another one."},
		{[]*Error{ErrTeamNotFound}, "There is no such team.", "team_id names none.", "Leave it out, or send the id of a team of the owner."},

		{[]*Error{ErrMethod}, "The path is right, the method is not.", "An endpoint is asked with a method that it does not take.", "Use one of those in the Allow field."},
		{[]*Error{ErrConflict}, "The object is not in a state that allows this.", "A name is taken, a call has ended already, or a key is revoked. The message says which.", "Read the object again and decide anew."},
		{[]*Error{ErrReplay}, "One Idempotency-Key was used for two different things.", "A request came with a key of the last 24 hours and another body.", "Use a new key for each thing to be made, and the same one only to send the same again."},
		{[]*Error{ErrRateLimit}, "A limit of the key is reached.", "In the last minute or the last 24 hours as much was used as the key may. Also after many wrong keys from one address.",
			"Wait for the seconds in Retry-After: that is the first moment at which the same request passes. A refused request costs nothing. X-RateLimit-Remaining on every answer tells how much is left, and GET /api/v1/key, which is free, tells it for each limit."},

		{[]*Error{ErrServer}, "The server met a fault of its own.", "Something went wrong that is no fault of the request.", "Try again later. The operator finds the cause in the log under the request_id."},
		{[]*Error{ErrGateway}, "The API behind this one cannot be reached.", "On a guarded route, where nothing listens at its upstream, or what comes from there is no HTTP answer.",
			"Try again shortly. The operator's log says why, under the request id."},
		{[]*Error{ErrGatewayTime}, "The API behind this one did not answer in time.", "On a guarded route, where the upstream's answer did not begin within the time that the route allows.",
			"Try again, or ask for less at once."},
		{[]*Error{ErrUnavailable}, "The server cannot store anything just now.", "A write to the disk has failed, or the server is stopping. Nothing is answered with success that is not on disk.",
			"Try again after the seconds in Retry-After, with the same Idempotency-Key where you sent one."},
	}
}
