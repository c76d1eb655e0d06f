package strictjson

import (
	"encoding/json"
	"slices"
	"strings"
	"unicode/utf8"
)

// cleaner finds out that a text is JSON that the package accepts, without an allocation. It knows only
// the usual: no escapes, numbers of up to 15 digits, objects of up to maxCleanMembers members. The
// full check decides about everything else.
type cleaner struct {
	text    string
	at      int
	members [maxCleanMembers]cleanMember // of the outermost object
	count   int                          // number of them
}

// cleanMember is a member of an object. Its value is text[begin:end].
type cleanMember struct {
	name       string
	begin, end int
}

const (
	maxCleanMembers = 16
	maxCleanDigits  = 15
)

// isClean reports whether data is certainly JSON that check accepts.
func isClean(data string) bool {
	c := cleaner{text: data}
	if !utf8.ValidString(data) || !c.value(1) {
		return false
	}
	c.blanks()
	return c.at == len(data)
}

// cleanObject returns the members of data by name, if data is certainly an object that check accepts.
// The values share the memory of data.
func cleanObject(data []byte) (members map[string]json.RawMessage, ok bool) {
	c := cleaner{text: string(data)}
	if !utf8.Valid(data) || c.blanks() != '{' || !c.value(1) {
		return nil, false
	}
	if c.blanks(); c.at != len(data) {
		return nil, false
	}
	members = make(map[string]json.RawMessage, c.count)
	for _, m := range c.members[:c.count] {
		members[m.name] = data[m.begin:m.end:m.end]
	}
	return members, true
}

// blanks skips blanks and returns the next character, or 0 at the end.
func (c *cleaner) blanks() byte {
	for ; c.at < len(c.text); c.at++ {
		if b := c.text[c.at]; b != ' ' && b != '\t' && b != '\r' && b != '\n' {
			return b
		}
	}
	return 0
}

// next skips blanks and the character want, and reports whether it was there.
func (c *cleaner) next(want byte) bool {
	if c.blanks() != want {
		return false
	}
	c.at++
	return true
}

// value skips a value. An object or an array is at level depth.
func (c *cleaner) value(depth int) bool {
	switch c.blanks() {
	case '{':
		c.at++
		return depth <= MaxDepth && c.object(depth)
	case '[':
		c.at++
		return depth <= MaxDepth && c.array(depth)
	case '"':
		_, ok := c.string()
		return ok
	case 't':
		return c.word("true")
	case 'f':
		return c.word("false")
	case 'n':
		return c.word("null")
	}
	return c.number()
}

func (c *cleaner) word(word string) bool {
	ok := strings.HasPrefix(c.text[c.at:], word)
	c.at += len(word)
	return ok
}

func (c *cleaner) object(depth int) bool {
	var names [maxCleanMembers]string
	for n := 0; ; n++ {
		if n == 0 && c.next('}') {
			return true
		}
		if n == maxCleanMembers || c.blanks() != '"' {
			return false
		}
		name, ok := c.string()
		if !ok || slices.Contains(names[:n], name) || !c.next(':') {
			return false
		}
		c.blanks()
		begin := c.at
		if !c.value(depth + 1) {
			return false
		}
		if depth == 1 {
			c.members[n], c.count = cleanMember{name, begin, c.at}, n+1
		}
		if names[n] = name; !c.next(',') {
			return c.next('}')
		}
	}
}

func (c *cleaner) array(depth int) bool {
	if c.next(']') {
		return true
	}
	for {
		if !c.value(depth + 1) {
			return false
		}
		if !c.next(',') {
			return c.next(']')
		}
	}
}

// string skips a string without escapes and returns what is between its quotes.
func (c *cleaner) string() (text string, ok bool) {
	c.at++
	for begin := c.at; c.at < len(c.text); c.at++ {
		switch b := c.text[c.at]; {
		case b == '"':
			c.at++
			return c.text[begin : c.at-1], true
		case b == '\\' || b < ' ':
			return "", false
		}
	}
	return "", false
}

// number skips a number without an exponent.
func (c *cleaner) number() bool {
	begin := c.at
	for c.at < len(c.text) && strings.IndexByte("-.0123456789", c.text[c.at]) >= 0 {
		c.at++
	}
	text := c.text[begin:c.at]
	return len(text) <= maxCleanDigits && isNumber(text)
}
