package main

import (
	"maps"
	"net/url"
	"slices"
	"strings"

	"latchkey/internal/fold"
	"latchkey/internal/query"
)

// maxWords is the largest number of different words in a search, because each word is looked for in
// the text of every record.
const maxWords = 16

// SearchWords returns the words of the parameter search of a query, see fold.Words. It returns
// ErrValidation if there are more than maxWords.
func SearchWords(q url.Values) ([]string, error) {
	words := fold.Words(q.Get("search"))
	if len(words) > maxWords {
		return nil, ErrValidation.With("search must have at most %d different words; got %d. Leave some out.", maxWords, len(words))
	}
	return words, nil
}

// CheckQuery returns ErrValidation if the query of the request cannot be read. The message names the
// parameter. The server calls it before every handler except those of guarded routes, whose queries
// are for their upstreams.
func (r *Request) CheckQuery() (err error) {
	if r.query == nil && r.URL.RawQuery != "" {
		r.query, err = query.Parse(r.URL.RawQuery)
	}
	return invalidQuery(err)
}

// CheckQuery returns ErrValidation if the query of an operator's request has a parameter that the route does not have, or cannot
// be read: nobody would notice that a misspelt filter selects everything, or that dry_run belongs in the body. Endpoints outside
// of /admin/v1, such as /metrics, are asked by programs that add parameters of their own.
func (r Route) CheckQuery(q *Request) error {
	if err := q.CheckQuery(); err != nil || !strings.HasPrefix(r.Path, "/admin/v1/") {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(q.query)) {
		if slices.Contains(r.Query, name) || slices.Contains(r.Lists, name) {
			continue
		}
		known := slices.Concat(r.Query, r.Lists)
		if len(known) == 0 {
			return ErrValidation.With("There is no query parameter %q: %s %s has none.", name, r.Method, r.Path)
		}
		return ErrValidation.With("There is no query parameter %q. The parameters are %s.", name, strings.Join(known, ", "))
	}
	return nil
}

// Query returns the parameters of the query that names lists. A parameter with an empty value counts
// as not sent. Query returns ErrValidation if the query cannot be read or if one of these parameters
// appears more than once. Other parameters are ignored (docs/contract.md, section 1.2).
func (r *Request) Query(names ...string) (url.Values, error) {
	if err := r.CheckQuery(); err != nil {
		return nil, err
	}
	q, err := query.Once(r.query, names...)
	return q, invalidQuery(err)
}

// QueryList returns all values of the parameter name of the query, which may appear more than once.
// It returns ErrValidation if the query cannot be read.
func (r *Request) QueryList(name string) ([]string, error) {
	err := r.CheckQuery()
	return r.query[name], err
}

// invalidQuery returns err, which may be nil, as an ErrValidation with the same message.
func invalidQuery(err error) error {
	if err == nil {
		return nil
	}
	return ErrValidation.With("%s", err.Error())
}

// WantsSandbox reports whether a list is to have the records in sandboxes instead of all others. Every list of records of
// owners for the operator has the parameter sandbox, which is "true" or "false".
func WantsSandbox(q url.Values) bool { return q.Get("sandbox") == "true" }

// SpaceQuery is like Query for an operator's list of records of owners. It also returns the space of the list.
func (r *Request) SpaceQuery() (q url.Values, space Space, err error) {
	if q, err = r.Query(r.Parameters...); err == nil {
		space, err = ReadSpace(q)
	}
	return q, space, err
}

// ReadSpace returns the space of a list from the parameter sandbox of its query. It returns ErrValidation if that is neither "true" nor "false".
func ReadSpace(q url.Values) (Space, error) {
	return SpaceWith(WantsSandbox(q)), CheckWord(q, "sandbox", "true", "false")
}

// CheckWord returns ErrValidation if the parameter name of a query is not one of words. A parameter
// that is missing is valid.
func CheckWord(q url.Values, name string, words ...string) error {
	word, last := q.Get(name), len(words)-1
	if word == "" || slices.Contains(words, word) {
		return nil
	}
	return ErrValidation.With("%s must be %s or %s; got %q.", name, strings.Join(words[:last], ", "), words[last], word)
}
