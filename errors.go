// The errors family has every error code of the API, and the texts of the page /errors that explain
// the codes. It decides nothing: other families choose which error to return, and only server.go
// turns an error into an answer.

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"time"
)

// Error is an error answer: an HTTP status, a code for programs and a sentence for people
// (docs/contract.md, section 1.3). The variables below are shared and must not be changed. With,
// WithField and After return changed copies.
type Error struct {
	Status  int
	Code    string
	Message string
	// RetryAfter is sent as the Retry-After field if it is above zero, in whole seconds rounded up
	// (RFC 9110, section 10.2.3).
	RetryAfter time.Duration
	// Fields are additional members of the JSON body.
	Fields map[string]any
	// Challenge is sent as the WWW-Authenticate field if it is not "".
	Challenge string
}

// The errors of the API. With replaces the message by a more exact one.
var (
	ErrValidation = &Error{Status: http.StatusBadRequest, Code: "validation_error", Message: "The request is not valid."}
	ErrJSON       = &Error{Status: http.StatusBadRequest, Code: "invalid_json", Message: "The body is not valid JSON. Send one JSON object in UTF-8."}
	ErrMissing    = &Error{Status: http.StatusBadRequest, Code: "missing_parameter", Message: "A required parameter is missing."}

	ErrUnauthenticated = &Error{Status: http.StatusUnauthorized, Code: "authentication_required", Message: "No API key was sent. Send it as Authorization: Bearer KEY or as X-API-Key: KEY."}
	ErrKey             = &Error{Status: http.StatusUnauthorized, Code: "invalid_key", Message: "This API key is not valid. Check that it is complete, or create a new one."}
	ErrPermission      = &Error{Status: http.StatusForbidden, Code: "permission_denied", Message: "This API key lacks a permission that this request needs."}
	ErrRateLimit       = &Error{Status: http.StatusTooManyRequests, Code: "rate_limit_exceeded", Message: "A limit of this API key is reached. Wait for the time in Retry-After."}

	ErrNotFound       = &Error{Status: http.StatusNotFound, Code: "not_found", Message: "No such object."}
	ErrRoute          = &Error{Status: http.StatusNotFound, Code: "not_found", Message: "No such endpoint."}
	ErrMethod         = &Error{Status: http.StatusMethodNotAllowed, Code: "method_not_allowed", Message: "This endpoint does not accept this method. Use a method from the Allow field."}
	ErrTooLarge       = &Error{Status: http.StatusRequestEntityTooLarge, Code: "validation_error", Message: "The body is too large."}
	ErrEncoding       = &Error{Status: http.StatusUnsupportedMediaType, Code: "validation_error", Message: "Content-Encoding is not supported. Send the body as it is."}
	ErrConflict       = &Error{Status: http.StatusConflict, Code: "conflict", Message: "The object is not in a state that allows this."}
	ErrBodyTime       = &Error{Status: http.StatusRequestTimeout, Code: "validation_error", Message: "The body was sent too slowly. Send the request again without long pauses."}
	ErrBroken         = &Error{Status: http.StatusBadRequest, Code: "validation_error", Message: "The request ended before it was complete. Send the whole request again."}
	ErrGateway        = &Error{Status: http.StatusBadGateway, Code: "bad_gateway", Message: "The API behind Latchkey cannot be reached, or its answer is not valid. Try again shortly."}
	ErrGatewayTime    = &Error{Status: http.StatusGatewayTimeout, Code: "gateway_timeout", Message: "The API behind Latchkey did not answer in time. Try again, or request less data."}
	ErrUnavailable    = &Error{Status: http.StatusServiceUnavailable, Code: "service_unavailable", Message: "Nothing can be stored at present. Try again shortly.", RetryAfter: 5 * time.Second}
	ErrImportTooLarge = &Error{Status: http.StatusRequestEntityTooLarge, Code: "import_too_large", Message: "The change is too large for a cluster. Send it in parts."}
	ErrStorageFull    = &Error{Status: http.StatusInsufficientStorage, Code: "storage_limit_exceeded", Message: "The storage of this owner is full. Delete what is no longer needed, or ask the operator for more storage."}
	ErrDiskLow        = &Error{Status: http.StatusInsufficientStorage, Code: "storage_unavailable", Message: "The disk of the server is nearly full, so nothing new is stored. Try again later; requests that read, finish or delete something still work.", RetryAfter: time.Minute}
	ErrServer         = &Error{Status: http.StatusInternalServerError, Code: "server_error", Message: "The server failed unexpectedly. Its log has the details under this request id."}

	ErrProof      = &Error{Status: http.StatusForbidden, Code: "confirmation_required", Message: "Confirm your password first: a login alone does not allow this. A confirmation counts for 10 minutes."}
	ErrLogin      = &Error{Status: http.StatusUnauthorized, Code: "invalid_login", Message: "The name or the password is wrong."}
	ErrSetup      = &Error{Status: http.StatusForbidden, Code: "invalid_setup_link", Message: "This set-up link is not valid: it was used, it has expired, or an operator exists already."}
	ErrInvitation = &Error{Status: http.StatusForbidden, Code: "invalid_invitation", Message: "This invitation is not valid: it was accepted, withdrawn or replaced, or it has expired. Ask for another one."}

	ErrMissingPhone  = &Error{Status: http.StatusBadRequest, Code: "missing_phone_number", Message: "phone_number is missing. Send the number to dial, such as +4930555044."}
	ErrMissingAgent  = &Error{Status: http.StatusBadRequest, Code: "missing_agent_id", Message: "agent_id is missing. Send an id from GET /api/v1/agents."}
	ErrInvalidPhone  = &Error{Status: http.StatusBadRequest, Code: "invalid_phone_number", Message: "phone_number is not an E.164 number. Send + and 7 to 15 digits, such as +4930555044."}
	ErrFunds         = &Error{Status: http.StatusPaymentRequired, Code: "insufficient_funds", Message: "The balance of the wallet is too low for this call."}
	ErrDoNotCall     = &Error{Status: http.StatusForbidden, Code: "do_not_call", Message: "This number is on the do-not-call list."}
	ErrAgentNotFound = &Error{Status: http.StatusNotFound, Code: "agent_not_found", Message: "The agent does not exist, or you have no access to it."}
	ErrNoPhone       = &Error{Status: http.StatusNotFound, Code: "no_phone_number", Message: "The agent has no phone number assigned."}

	ErrParameterFormat = &Error{Status: http.StatusBadRequest, Code: "invalid_parameter_format", Message: "A query parameter does not have the required form."}
	ErrDuration        = &Error{Status: http.StatusBadRequest, Code: "invalid_duration", Message: "duration must be a whole number of minutes from 1 to 180."}
	ErrDatetime        = &Error{Status: http.StatusBadRequest, Code: "invalid_datetime_format", Message: "The time is not an ISO 8601 date and time."}

	ErrDuplicate         = &Error{Status: http.StatusBadRequest, Code: "duplicate_variable", Message: "A context variable with this name exists already."}
	ErrInvalidValue      = &Error{Status: http.StatusBadRequest, Code: "invalid_value", Message: "The value does not match the definition of its variable."}
	ErrUndefinedVariable = &Error{Status: http.StatusBadRequest, Code: "undefined_variable", Message: "This context variable does not exist."}
	ErrDeleteNotAllowed  = &Error{Status: http.StatusForbidden, Code: "delete_not_allowed", Message: "Built-in context variables cannot be deleted."}
	ErrReplay            = &Error{Status: http.StatusUnprocessableEntity, Code: "idempotency_key_reused", Message: "This Idempotency-Key was already sent with another body. Use a new one for each object that you create."}

	ErrMissingFirstName = &Error{Status: http.StatusBadRequest, Code: "missing_first_name", Message: "first_name is missing. Send it."}
	ErrTeamNotFound     = &Error{Status: http.StatusNotFound, Code: "team_not_found", Message: "No such team."}
	ErrTeamAccess       = &Error{Status: http.StatusForbidden, Code: "team_access_denied", Message: "This key's owner is not a member of the team."}
)

// Error returns the code and the message.
func (e *Error) Error() string { return e.Code + ": " + e.Message }

// Is reports whether target is an *Error with the same status and code. The messages may differ. It
// is called by errors.Is.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code && t.Status == e.Status
}

// With returns a copy of e with another message.
func (e *Error) With(format string, args ...any) *Error {
	c := *e
	c.Message = fmt.Sprintf(format, args...)
	return &c
}

// WithField returns a copy of e with an additional member in its JSON body.
func (e *Error) WithField(name string, value any) *Error {
	c := *e
	c.Fields = maps.Clone(e.Fields)
	if c.Fields == nil {
		c.Fields = map[string]any{}
	}
	c.Fields[name] = value
	return &c
}

// After returns a copy of e whose RetryAfter is wait, but at least one second.
func (e *Error) After(wait time.Duration) *Error {
	c := *e
	c.RetryAfter = max(wait, time.Second)
	return &c
}

// Public returns the error that a client may see: the *Error that err is or wraps, or ErrServer if
// there is none.
func Public(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return ErrServer
}

// errorEntry explains an error code to developers of clients, on the page /errors.
type errorEntry struct {
	Code     string
	Statuses []int
	Means    string // what the code means, in one sentence
	When     string // what causes it
	Do       string // what the client should do
	Example  string // the JSON body of an answer
}

// explanation has the texts for an errorEntry. The errors have the same code; the first one is used
// as the example.
type explanation struct {
	errors          []*Error
	means, when, do string
}

// ErrorCatalog returns an explanation of every error code of the API, ordered roughly by status. A
// test checks that no code is missing.
func ErrorCatalog() []errorEntry {
	var list []errorEntry
	for _, x := range explanations() {
		first := x.errors[0]
		e := errorEntry{Code: first.Code, Means: x.means, When: x.when, Do: x.do}
		for _, one := range x.errors {
			e.Statuses = append(e.Statuses, one.Status)
		}
		body := map[string]any{"error": first.Code, "message": first.Message, "request_id": "5f0c1b2e7k"}
		maps.Copy(body, first.Fields)
		text, err := json.MarshalIndent(body, "", "  ")
		if err != nil {
			continue // the test of ErrorCatalog then reports the missing code
		}
		e.Example = string(text)
		list = append(list, e)
	}
	return list
}

// KnownCode reports whether code is an error code of the API.
func KnownCode(code string) bool {
	return slices.ContainsFunc(explanations(), func(x explanation) bool { return x.errors[0].Code == code })
}

func explanations() []explanation {
	return []explanation{
		{[]*Error{ErrValidation.With("limit must be a whole number of at least 1; got \"0\"."), ErrTooLarge, ErrEncoding, ErrBodyTime},
			"The request is not valid, and no more specific code applies.",
			"A member or a query parameter has an invalid value or two different keys were sent (400), the body was sent too slowly (408), is too large (413) or is compressed (415).",
			"Read the message: it names the member and the values that are accepted. Correct the request, because an unchanged one fails again."},
		{[]*Error{ErrJSON}, "The body is not one JSON object.",
			"It is empty, incomplete, not UTF-8, something other than an object, or followed by more data.",
			"Encode the body with a JSON library, and send the whole body."},
		{[]*Error{ErrMissing.With("start_time is missing.")}, "A required member or parameter is missing.",
			"It is absent, null or empty. The message names it.", "Send it."},
		{[]*Error{ErrMissingPhone}, "The number to call is missing.", "phone_number is missing or empty in POST /api/v1/calls.", "Send the number as + and 7 to 15 digits."},
		{[]*Error{ErrMissingAgent}, "The agent for the call is missing.", "agent_id is missing in POST /api/v1/calls.", "Send the id or the assistant_id of an agent from GET /api/v1/agents."},
		{[]*Error{ErrInvalidPhone}, "The number cannot be dialled.", "phone_number is not an E.164 number: + and 7 to 15 digits, of which the first is not 0.", "Send the number with its country code, without spaces or dashes."},
		{[]*Error{ErrMissingFirstName}, "A contact needs a first name.", "first_name is missing or empty when a contact is created.", "Send first_name."},
		{[]*Error{ErrParameterFormat}, "A query parameter does not have the required form.", "For example, a date does not have the form YYYY-MM-DD. The message names the parameter.", "Send the parameter in the form that the message describes."},
		{[]*Error{ErrDatetime}, "A time cannot be read.", "It is not an ISO 8601 date and time.", "Send it as 2026-03-02T09:00:00Z or with an offset such as +01:00."},
		{[]*Error{ErrDuration}, "The duration is not valid.", "duration is not a whole number from 1 to 180 in GET /api/v1/calendar/availability.", "Send the number of minutes, from 1 to 180."},
		{[]*Error{ErrDuplicate}, "A context variable with this name exists already.", "A variable is created, and the owner has a variable with the same name and context.", "Use another name, or change the existing variable."},
		{[]*Error{ErrInvalidValue}, "The value does not match its variable.", "The variable needs a number, a date, a boolean or one of its options, and the value is something else.", "Look up variable_type and select_options of the variable, and send a value that matches them."},
		{[]*Error{ErrUndefinedVariable}, "This context variable does not exist.", "A value is set for a variable that is not defined.", "Define the variable first, or send auto_create_variables: true."},

		{[]*Error{ErrUnauthenticated}, "The request has no API key.", "The request has no Authorization: Bearer, no X-API-Key and no api_key.",
			"Send the key in one of these ways; Authorization: Bearer KEY is the safest."},
		{[]*Error{ErrKey}, "The key is not valid.", "The key is mistyped, incomplete, unknown, paused, expired or revoked, or it was sent in the URL although this is not allowed. Only the operator can see which of these is the cause.",
			"Compare the last four characters with the dashboard. A revoked key never becomes valid again: ask for a new one. Do not retry in a loop, because an address that sends many invalid keys is refused for a while."},
		{[]*Error{ErrLogin}, "The name or the password of an operator is wrong.", "An operator logs in to the dashboard.", "Try again, or set a new password with \"latchkey admin passwd\"."},

		{[]*Error{ErrFunds.WithField("current_balance", 0.12).WithField("required_rate", 0.4)}, "The balance of the wallet is too low for the call.",
			"The owner of the key has a wallet, and its balance is below the price of one minute.", "Add funds to the wallet. Nothing was charged and no call was made."},

		{[]*Error{ErrPermission.With("This key lacks the permission can_initiate_calls. It has can_read_calls.")}, "The key is valid, but it must not do this.",
			"The key lacks the permission that the message names, or it must not be used from this address.", "Ask for the permission or the address to be added to the key. The request counts against the minute limit, but had no other effect."},
		{[]*Error{ErrDoNotCall}, "This number must not be called.", "The number is on the operator's do-not-call list, or the contact asked not to be called.", "Do not call this number. Nothing was charged."},
		{[]*Error{ErrTeamAccess}, "The owner of the key is not a member of this team.", "The request assigns a record to the team, or reads a record of the team.", "Use one of the owner's teams, or ask for the owner to be added to this team."},
		{[]*Error{ErrDeleteNotAllowed}, "This variable is built in.", "The request deletes a context variable that every account has.", "Delete only context variables that you have created."},
		{[]*Error{ErrProof}, "The operator has to confirm the password.", "A request with a login changes who may administer the service, or reads a backup, and the operator has not entered the password in the last 10 minutes.",
			"Confirm the password in the dashboard or with POST /admin/v1/confirm, or run the command on the machine of the service."},
		{[]*Error{ErrSetup}, "The set-up link is not valid.", "The link was used, is older than half an hour, or an operator exists already.", "Create a new link with \"latchkey admin setup-link\", or log in."},
		{[]*Error{ErrInvitation}, "The invitation is not valid.", "The link of an invitation was used, is older than 24 hours, was replaced by another, or the operator was removed or disabled.", "Ask an operator with the role admin for another invitation, or log in."},

		{[]*Error{ErrNotFound}, "The object does not exist or belongs to somebody else. The answer is the same for both.", "The id is wrong, the object belongs to another owner, or there is no endpoint at the path.", "Check the id and the path; paths begin with /api/v1."},
		{[]*Error{ErrAgentNotFound}, "The agent does not exist, or you must not use it.", "agent_id is not the id of an agent, or the agent belongs to another owner.", "Use an id from GET /api/v1/agents."},
		{[]*Error{ErrNoPhone}, "The agent has no number to call from.", "A call is started with an agent without phone_number.", "Assign a number to the agent, or use another agent."},
		{[]*Error{ErrTeamNotFound}, "The team does not exist.", "team_id is not the id of a team.", "Omit team_id, or send the id of one of the owner's teams."},

		{[]*Error{ErrMethod}, "The endpoint does not accept this method.", "The path exists, but not with this method.", "Use a method from the Allow field of the answer."},
		{[]*Error{ErrConflict}, "The object is not in a state that allows this.", "A name is taken, a call has ended already, or a key is revoked. The message says which.", "Read the object again, and then decide what to do."},
		{[]*Error{ErrReplay}, "One Idempotency-Key was used for two different requests.", "The same Idempotency-Key was sent within the last 24 hours with another body.", "Use a new Idempotency-Key for each object that you create. Repeat one only to send the same request again."},
		{[]*Error{ErrRateLimit}, "A limit of the key is reached.", "The key has used up a limit, such as its requests per minute or its calls per 24 hours. This code is also sent to an address that has sent many invalid keys.",
			"Wait for the seconds in Retry-After, after which the same request can succeed. A request that is refused for this reason is not counted. X-RateLimit-Remaining on every answer shows how many units remain of the limit that has the fewest left. GET /api/v1/key, which costs nothing, shows this for each limit."},

		{[]*Error{ErrImportTooLarge}, "The change is larger than a cluster takes at once.", "Several servers share one store, and the request changes more records than they agree on in one step, such as an import of many thousand rows.",
			"Send the rows in several requests. The message says how many fit. Nothing was changed."},
		{[]*Error{ErrStorageFull.With("This change needs 1,204 more bytes, but 268,434,990 of the 268,435,456 bytes that the owner may store are used. Delete what is no longer needed, or ask the operator for more storage.")},
			"The storage of the owner is full.", "The change makes the records of an owner larger than the operator allows. Requests that finish, cancel or delete something, or that make a record smaller, still work.",
			"Delete or shorten what is no longer needed, or ask the operator for more storage. The same request fails until then."},
		{[]*Error{ErrDiskLow}, "The disk of the server is nearly full.", "A request with a key stores something while little disk space is free. Requests that read, finish, cancel or delete something still work.",
			"Try again after the seconds in Retry-After. The operator has to free disk space."},
		{[]*Error{ErrServer}, "The server failed.", "The server has an error that the request did not cause.", "Try again later. The operator can find the cause in the log under the request_id."},
		{[]*Error{ErrGateway}, "The API behind Latchkey cannot be reached, or its answer is not valid.", "On a guarded route: its upstream does not accept connections, or its answer is not valid HTTP.",
			"Try again shortly. The operator can find the cause in the log under the request_id."},
		{[]*Error{ErrGatewayTime}, "The API behind Latchkey did not answer in time.", "On a guarded route: the answer of its upstream did not begin within the timeout of the route.",
			"Try again, or request less data in one request."},
		{[]*Error{ErrUnavailable}, "The server cannot store anything at present.", "A write to the disk has failed, or the server is stopping. A request is answered with success only if its changes are on disk.",
			"Try again after the seconds in Retry-After, with the same Idempotency-Key if you sent one."},
	}
}
