package main

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"time"
)

// Error is an answer other than success: a status, the code clients match on
// and a sentence for people (contract 1.3). The values of the catalogue below
// are shared and never changed; With and its kin return copies.
type Error struct {
	Status  int
	Code    string
	Message string
	// RetryAfter, where above zero, goes out as the Retry-After field, in
	// whole seconds rounded up (RFC 9110 section 10.2.3).
	RetryAfter time.Duration
	// Fields are further members of the body.
	Fields map[string]any
	// Challenge is the value of WWW-Authenticate, where one is due.
	Challenge string
}

// Every code the API can answer with, with its usual message.
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

// Error gives the code and the message.
func (e *Error) Error() string { return e.Code + ": " + e.Message }

// Is makes two errors of one status and code equal for errors.Is, whatever
// their messages say.
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

// Public gives what a caller may see of err: err itself where it is an Error,
// ErrServer otherwise.
func Public(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return ErrServer
}
