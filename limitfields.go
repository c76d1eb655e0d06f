package main

import (
	"net/http"
	"slices"
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
	// All values are cut out of one string, and stand in one array: of a small
	// answer, making the fields is the dearest part.
	var room [256]byte
	var cuts [5]int
	b := strconv.AppendInt(room[:0], int64(tight.Limit.Max), 10)
	cuts[0] = len(b)
	b = strconv.AppendInt(b, int64(tight.Remaining()), 10)
	cuts[1] = len(b)
	b = strconv.AppendInt(b, now.Add(tight.Next+time.Second-1).Unix(), 10)
	cuts[2] = len(b)
	if draft {
		b = appendPolicy(b, list)
		cuts[3] = len(b)
		b = appendState(b, list)
		cuts[4] = len(b)
	}
	all := string(b)
	n := &[5]string{all[:cuts[0]], all[cuts[0]:cuts[1]], all[cuts[1]:cuts[2]]}
	// Assigned rather than Set, which would make a slice for each.
	h["X-Ratelimit-Limit"], h["X-Ratelimit-Remaining"], h["X-Ratelimit-Reset"] = n[0:1:1], n[1:2:2], n[2:3:3]
	if vary := h["Vary"]; vary == nil {
		h["Vary"] = varyOnKey
	} else {
		h["Vary"] = append(slices.Clip(vary), varyOnKey...)
	}
	if draft {
		n[3], n[4] = all[cuts[2]:cuts[3]], all[cuts[3]:]
		h["Ratelimit-Policy"], h["Ratelimit"] = n[3:4:4], n[4:5:5]
	}
}

var varyOnKey = []string{"Authorization, X-API-Key"}

func appendPolicy(b []byte, list []Standing) []byte {
	for i, s := range list {
		if i > 0 {
			b = append(b, ", "...)
		}
		b = appendName(b, s)
		b = strconv.AppendInt(append(b, ";q="...), int64(s.Limit.Max), 10)
		b = strconv.AppendInt(append(b, ";w="...), int64(s.Limit.Window/time.Second), 10)
	}
	return b
}

func appendState(b []byte, list []Standing) []byte {
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
	return b
}

// appendName writes the name of a limit's policy: its own without "_limit".
func appendName(b []byte, s Standing) []byte {
	b = append(b, '"')
	b = append(b, strings.TrimSuffix(s.Limit.Name, "_limit")...)
	return append(b, '"')
}
