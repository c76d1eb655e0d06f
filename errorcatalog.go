package main

import (
	"encoding/json"
	"maps"
)

// ErrorEntry explains an error code to those who get it.
type ErrorEntry struct {
	Code     string
	Statuses []int
	Means    string // one sentence
	When     string
	Do       string
	Example  string // a body
}

// explanation is an entry as it is written down: the errors with one code, of
// which the first gives the example.
type explanation struct {
	of              []*Error
	means, when, do string
}

// ErrorCatalog explains every code that the API can answer with, by status. A
// test holds it against errors.go.
func ErrorCatalog() []ErrorEntry {
	var list []ErrorEntry
	for _, x := range explanations() {
		first := x.of[0]
		e := ErrorEntry{Code: first.Code, Means: x.means, When: x.when, Do: x.do}
		for _, one := range x.of {
			e.Statuses = append(e.Statuses, one.Status)
		}
		body := map[string]any{"error": first.Code, "message": first.Message, "request_id": "5f0c1b2e7k"}
		maps.Copy(body, first.Fields)
		text, err := json.MarshalIndent(body, "", "  ")
		if err != nil {
			continue // the test would miss its code
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
