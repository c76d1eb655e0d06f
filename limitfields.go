package main

import (
	"net/http"
	"strconv"
	"strings"
	"time"
)

// WriteLimitFields sets the header fields that tell how limits stand at a
// time: X-RateLimit-* for the tightest of them, Reset as seconds since 1970,
// and with draft RateLimit-Policy and RateLimit for all, in the syntax of
// draft-ietf-httpapi-ratelimit-headers-11.
func WriteLimitFields(h http.Header, list []Standing, now time.Time, draft bool) {
	if len(list) == 0 {
		return
	}
	tight := list[0]
	for _, s := range list[1:] {
		if s.Remaining() < tight.Remaining() {
			tight = s
		}
	}
	n := &[3]string{
		strconv.Itoa(tight.Limit.Max), strconv.Itoa(tight.Remaining()),
		strconv.FormatInt(now.Add(tight.Next+time.Second-1).Unix(), 10),
	}
	// Assigned rather than Set, which would make a slice for each.
	h["X-Ratelimit-Limit"], h["X-Ratelimit-Remaining"], h["X-Ratelimit-Reset"] = n[0:1:1], n[1:2:2], n[2:3:3]
	h["Vary"] = varyOnKey
	if draft {
		h["Ratelimit-Policy"], h["Ratelimit"] = draftPolicy(list), draftState(list)
	}
}

var varyOnKey = []string{"Authorization, X-API-Key"}

func draftPolicy(list []Standing) []string {
	b := make([]byte, 0, 128)
	for i, s := range list {
		if i > 0 {
			b = append(b, ", "...)
		}
		b = appendName(b, s)
		b = strconv.AppendInt(append(b, ";q="...), int64(s.Limit.Max), 10)
		b = strconv.AppendInt(append(b, ";w="...), int64(s.Limit.Window/time.Second), 10)
	}
	return []string{string(b)}
}

func draftState(list []Standing) []string {
	b := make([]byte, 0, 128)
	for i, s := range list {
		if i > 0 {
			b = append(b, ", "...)
		}
		b = appendName(b, s)
		b = strconv.AppendInt(append(b, ";r="...), int64(s.Remaining()), 10)
		if s.Used > 0 {
			b = strconv.AppendInt(append(b, ";t="...), int64((s.Next+time.Second-1)/time.Second), 10)
		}
	}
	return []string{string(b)}
}

// appendName writes the name of a limit's policy: its own without "_limit".
func appendName(b []byte, s Standing) []byte {
	b = append(b, '"')
	b = append(b, strings.TrimSuffix(s.Limit.Name, "_limit")...)
	return append(b, '"')
}
