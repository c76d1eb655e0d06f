package main

import (
	"crypto/subtle"
	"net/http"
	"net/url"
	"strings"
)

// credential is the secret of a key and how it was sent: one of the Carrier constants.
type credential struct {
	Secret  string
	Carrier string
}

// ReadCredential returns the key of a request and removes it from the header and the URL, so that
// later code cannot log or forward it. The same key may be sent in several places. ReadCredential
// returns ErrUnauthenticated if no key was sent or if a key in the URL cannot be decoded. It
// returns ErrValidation for two different keys, an empty key or a repeated header field, because
// RFC 6750 section 2 allows only one method per request. After an error the header may still
// contain the key.
func ReadCredential(r *http.Request) (credential, error) {
	var c credential
	query, err := cutQuery(r)
	if err != nil {
		return c, err
	}
	place := "" // where c was sent, for messages
	for _, sent := range [...]struct {
		values         []string
		carrier, place string
	}{
		{r.Header["Authorization"], CarrierBearer, "Authorization"},
		{r.Header["X-Api-Key"], CarrierHeader, "X-API-Key"},
		{query, CarrierQuery, "the query"},
	} {
		if len(sent.values) == 0 {
			continue
		}
		secret := sent.values[0]
		if len(sent.values) > 1 {
			return c, conflicting("The key appears more than once in %s. Send it once.", sent.place)
		}
		if sent.carrier == CarrierBearer {
			var ok bool
			if secret, ok = bearer(secret); !ok {
				continue // credentials of another scheme are not a key
			}
		}
		if secret == "" {
			return c, conflicting("The key in %s is empty. Send the whole key, or remove the empty one.", sent.place)
		}
		if c.Secret != "" && subtle.ConstantTimeCompare([]byte(secret), []byte(c.Secret)) != 1 {
			return c, conflicting("Two different keys were sent, in %s and %s. Send only one.", place, sent.place)
		}
		if c.Secret == "" {
			c, place = credential{secret, sent.carrier}, sent.place
		}
	}
	if c.Secret == "" {
		return c, missingKey(r)
	}
	if values := r.Header["Authorization"]; len(values) > 0 {
		if _, ok := bearer(values[0]); ok { // credentials of another scheme are left for the upstream
			delete(r.Header, "Authorization")
		}
	}
	delete(r.Header, "X-Api-Key")
	return c, nil
}

// missingKey returns the error for a request without a key. Its message names a field or a parameter that
// looks as if it was meant to have one, and never its value.
func missingKey(r *http.Request) *Error {
	if len(r.Header["Authorization"]) > 0 {
		return ErrUnauthenticated.With("No API key was sent: Authorization has no Bearer key. Send Authorization: Bearer KEY, or X-API-Key: KEY.")
	}
	for _, name := range []string{"Api-Key", "Apikey", "X-Apikey", "X-Api-Token", "X-Auth-Token"} {
		if len(r.Header[name]) > 0 {
			return ErrUnauthenticated.With("No API key was sent: %s is not read. Send Authorization: Bearer KEY, or X-API-Key: KEY.", name)
		}
	}
	for pair := range strings.SplitSeq(r.URL.RawQuery, "&") {
		name, _, _ := strings.Cut(pair, "=")
		if strings.EqualFold(strings.NewReplacer("-", "", "_", "").Replace(name), "apikey") {
			return ErrUnauthenticated.With("No API key was sent: the parameter of the query is api_key. Better send Authorization: Bearer KEY, since addresses are logged.")
		}
	}
	return ErrUnauthenticated
}

// conflicting returns an ErrValidation with the challenge invalid_request for the WWW-Authenticate
// field (RFC 6750, section 3.1).
func conflicting(format string, args ...any) error {
	e := ErrValidation.With(format, args...)
	e.Challenge = `Bearer realm="latchkey", error="invalid_request"`
	return e
}

// bearer returns the token of an Authorization value. ok is false if the scheme is not Bearer, in
// upper or lower case (RFC 9110, section 11.1).
func bearer(value string) (token string, ok bool) {
	const scheme = "Bearer"
	if len(value) < len(scheme) || !strings.EqualFold(value[:len(scheme)], scheme) {
		return "", false
	}
	rest := value[len(scheme):]
	if rest != "" && rest[0] != ' ' {
		return "", false
	}
	return strings.Trim(rest, " "), true
}

// cutQuery removes every api_key parameter from the URL of a request and returns their decoded
// values. The rest of the query stays unchanged byte for byte. If a value cannot be decoded,
// cutQuery removes the whole query and returns ErrUnauthenticated.
func cutQuery(r *http.Request) (values []string, err error) {
	raw := r.URL.RawQuery
	if !strings.Contains(raw, "api") && !strings.Contains(raw, "%") {
		return nil, nil // the query cannot contain api_key, neither plain nor escaped
	}
	readable, rest := true, make([]string, 0, 4)
	for pair := range strings.SplitSeq(raw, "&") {
		name, value, _ := strings.Cut(pair, "=")
		plain, nameErr := url.QueryUnescape(name)
		switch {
		case strings.Contains(pair, ";"): // some programs treat ; as a separator, others do not
			readable = readable && !strings.Contains(pair, "api_key") && !strings.Contains(plain, "api_key")
			rest = append(rest, pair)
		case nameErr != nil || plain != "api_key":
			rest = append(rest, pair)
		default:
			secret, err := url.QueryUnescape(value)
			readable = readable && err == nil
			values = append(values, secret)
		}
	}
	if !readable {
		r.URL.RawQuery, r.RequestURI = "", r.URL.Path
		return nil, ErrUnauthenticated.With("The key in the query cannot be decoded. Send the key as Authorization: Bearer KEY.")
	}
	if values != nil {
		r.URL.RawQuery = strings.Join(rest, "&")
		r.RequestURI = r.URL.RequestURI()
	}
	return values, nil
}
