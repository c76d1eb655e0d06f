package clock

import (
	"cmp"
	"errors"
	"regexp"
	"time"
)

// Last is the last second that RFC 3339 can write, because it has four digits for the year.
var Last = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)

// LastDate is the last date that RFC 3339 can write, as midnight UTC.
var LastDate = time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC)

var (
	errTime = errors.New("not a time such as 2026-02-03T09:15:00Z")
	errYear = errors.New("the year in UTC is not from 1 to 9999")
)

// InRange reports whether t is a time that an answer can contain: in UTC its year is from 1 to 9999.
// The zero time is not in range, because it means that there is no time.
func InRange(t time.Time) bool {
	year := t.UTC().Year()
	return !t.IsZero() && year >= 1 && year <= 9999
}

// isoTime matches an ISO 8601 time. Its groups are the date with hour and minute, the seconds and the
// offset from UTC. The last two can be empty.
var isoTime = regexp.MustCompile(`^(\d{4}-\d\d-\d\dT\d\d:\d\d)(:\d\d(?:\.\d+)?)?(Z|[+-](?:[01]\d|2[0-3]):[0-5]\d)?$`)

// ParseTime returns the time in text, in UTC. text must be in the format of RFC 3339, with a second
// below 60, and the time must be InRange. A fraction of a second is cut to nanoseconds.
func ParseTime(text string) (time.Time, error) {
	// time.Parse alone also accepts an hour of one digit, a comma and an offset of 24 hours.
	if part := isoTime.FindStringSubmatch(text); part == nil || part[2] == "" || part[3] == "" {
		return time.Time{}, errTime
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return time.Time{}, errTime
	}
	if t = t.UTC(); !InRange(t) {
		return time.Time{}, errYear
	}
	return t, nil
}

// ParseISO does the same as ParseTime, but the seconds and the offset may be missing. A time without
// an offset is UTC.
func ParseISO(text string) (time.Time, error) {
	part := isoTime.FindStringSubmatch(text)
	if part == nil {
		return time.Time{}, errTime
	}
	return ParseTime(part[1] + cmp.Or(part[2], ":00") + cmp.Or(part[3], "Z"))
}

// ParseDate returns the date in text, such as 2026-03-02, as midnight UTC. The year must be from 1 to
// 9999.
func ParseDate(text string) (time.Time, error) {
	t, err := time.Parse(time.DateOnly, text)
	if err != nil || t.Year() < 1 {
		return time.Time{}, errors.New("not a date such as 2026-03-02")
	}
	return t, nil
}

// ErrSkipped means that clocks in the time zone never show a time, because they are put forward over
// it.
var ErrSkipped = errors.New("the clocks skip this time")

// ParseLocal returns the moment, in UTC, at which clocks in zone show the time in text. text has no
// offset, such as 2026-03-02T09:00 or 2026-03-02T09:00:30. If clocks show the time twice, ParseLocal
// returns the first moment. If they skip it, it returns ErrSkipped.
func ParseLocal(text string, zone *time.Location) (time.Time, error) {
	part := isoTime.FindStringSubmatch(text)
	if part == nil || part[3] != "" {
		return time.Time{}, errTime
	}
	wall, err := ParseISO(text)
	if err != nil {
		return time.Time{}, err
	}
	t := Instant(wall, wall.Hour()*60+wall.Minute(), zone)
	t = t.Add(wall.Sub(wall.Truncate(time.Minute)))
	if local := t.In(zone); local.Hour() != wall.Hour() || local.Minute() != wall.Minute() || local.Second() != wall.Second() || local.Day() != wall.Day() {
		return time.Time{}, ErrSkipped
	}
	if !InRange(t) {
		return time.Time{}, errYear
	}
	return t.UTC(), nil
}

// SortKey returns a number that sorts in the order of time: the nanoseconds from 1970 to t. It
// returns 0 for a time before 1970, and the largest number for a time after the year 2554.
func SortKey(t time.Time) uint64 {
	const last = 1<<63/500_000_000 - 1 // whole seconds of which a uint64 can count the nanoseconds
	switch seconds := t.Unix(); {
	case seconds < 0:
		return 0
	case seconds > last:
		return 1<<64 - 1
	default:
		return uint64(seconds)*1_000_000_000 + uint64(t.Nanosecond())
	}
}

// Span is a period of time. It includes Start and excludes End.
type Span struct{ Start, End time.Time }

// Spans returns the periods in which clocks in zone show the date and a time that is at least from
// and less than to, both in minutes after midnight. They are in order and do not touch each other.
// There is usually one. There are several if clocks are put back during the window, and none if they
// are put forward over the whole window.
func Spans(date time.Time, from, to int, zone *time.Location) (spans []Span) {
	midnight := time.Date(date.Year(), date.Month(), date.Day(), 0, 0, 0, 0, time.UTC)
	first, last := midnight.Add(time.Duration(from)*time.Minute), midnight.Add(time.Duration(to)*time.Minute)
	const far = 26 * time.Hour // more than any offset
	for at := first.Add(-far); at.Before(last.Add(far)); {
		local := at.In(zone)
		_, seconds := local.Zone()
		offset := time.Duration(seconds) * time.Second
		start, end := local.ZoneBounds() // zero: without bound
		s := Span{first.Add(-offset), last.Add(-offset)}
		if !start.IsZero() && s.Start.Before(start) {
			s.Start = start.UTC()
		}
		if !end.IsZero() && end.Before(s.End) {
			s.End = end.UTC()
		}
		switch n := len(spans); {
		case !s.Start.Before(s.End):
		case n > 0 && spans[n-1].End.Equal(s.Start):
			spans[n-1].End = s.End
		default:
			spans = append(spans, s)
		}
		if end.IsZero() {
			break
		}
		at = end
	}
	return spans
}
