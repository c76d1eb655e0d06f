package strictjson

import (
	"encoding/json"
	"strings"
	"unicode/utf8"
)

// parser decodes JSON into maps, slices and simple values, as a json.Decoder with UseNumber does. It
// allocates about a third of what encoding/json does, because strings share the memory of the text
// and maps are made in their final size. It stops at an error, which encoding/json then explains.
type parser struct {
	text    string
	at      int // position in text
	members []parsedMember
	values  []any
}

// parsedMember is a member of an object that is not complete yet.
type parsedMember struct {
	name  string
	value any
}

// parse returns the only JSON value in a text, after which there may be only blanks. ok is false if
// there is an error.
func parse(text string) (v any, ok bool) {
	p := parser{text: text}
	if v, ok = p.value(0); !ok {
		return nil, false
	}
	p.blanks()
	return v, p.at == len(text)
}

// maxParsed is the nesting up to which a parser decodes a text. The answers of Latchkey have less.
const maxParsed = 2 * MaxDepth

func (p *parser) blanks() {
	for p.at < len(p.text) {
		switch p.text[p.at] {
		case ' ', '\t', '\r', '\n':
			p.at++
		default:
			return
		}
	}
}

// next reports whether the next character after blanks is c, and skips it.
func (p *parser) next(c byte) bool {
	if p.blanks(); p.at < len(p.text) && p.text[p.at] == c {
		p.at++
		return true
	}
	return false
}

func (p *parser) value(depth int) (v any, ok bool) {
	if p.blanks(); p.at == len(p.text) || depth > maxParsed {
		return nil, false
	}
	switch p.text[p.at] {
	case '{':
		p.at++
		return p.object(depth + 1)
	case '[':
		p.at++
		return p.array(depth + 1)
	case '"':
		p.at++
		text, ok := p.string()
		return text, ok
	case 't':
		return true, p.word("true")
	case 'f':
		return false, p.word("false")
	case 'n':
		return nil, p.word("null")
	}
	return p.number()
}

// word skips a word and reports whether it was there.
func (p *parser) word(word string) bool {
	ok := strings.HasPrefix(p.text[p.at:], word)
	p.at += len(word)
	return ok
}

// object decodes an object after its opening brace.
func (p *parser) object(depth int) (v any, ok bool) {
	first := len(p.members)
	for more := !p.next('}'); more; {
		if !p.next('"') {
			return nil, false
		}
		name, ok := p.string()
		if !ok || !p.next(':') {
			return nil, false
		}
		value, ok := p.value(depth)
		if !ok {
			return nil, false
		}
		p.members = append(p.members, parsedMember{name, value})
		if more = p.next(','); !more && !p.next('}') {
			return nil, false
		}
	}
	object := make(map[string]any, len(p.members)-first)
	for _, m := range p.members[first:] {
		object[m.name] = m.value
	}
	p.members = p.members[:first]
	return object, true
}

// array decodes an array after its opening bracket.
func (p *parser) array(depth int) (v any, ok bool) {
	first := len(p.values)
	for more := !p.next(']'); more; {
		value, ok := p.value(depth)
		if !ok {
			return nil, false
		}
		p.values = append(p.values, value)
		if more = p.next(','); !more && !p.next(']') {
			return nil, false
		}
	}
	array := make([]any, len(p.values)-first)
	copy(array, p.values[first:])
	p.values = p.values[:first]
	return array, true
}

// string decodes a string after its opening quote.
func (p *parser) string() (text string, ok bool) {
	begin, plain := p.at, true
	for ; p.at < len(p.text); p.at++ {
		switch c := p.text[p.at]; {
		case c == '"':
			text = p.text[begin:p.at]
			if p.at++; plain || utf8.ValidString(text) && !strings.Contains(text, `\`) {
				return text, true
			}
			return unquote(p.text[begin-1 : p.at])
		case c == '\\':
			plain = false
			p.at++
		case c < ' ':
			return "", false
		case c >= utf8.RuneSelf:
			plain = false
		}
	}
	return "", false
}

// unquote decodes a string with its quotes.
func unquote(quoted string) (text string, ok bool) {
	err := json.Unmarshal([]byte(quoted), &text)
	return text, err == nil
}

// number decodes a number.
func (p *parser) number() (v any, ok bool) {
	begin := p.at
	for p.at < len(p.text) && strings.IndexByte("+-.0123456789Ee", p.text[p.at]) >= 0 {
		p.at++
	}
	text := p.text[begin:p.at]
	return json.Number(text), isNumber(text)
}

// isNumber reports whether text is a number of RFC 8259, section 6.
func isNumber(text string) bool {
	digits := func() bool {
		rest := strings.TrimLeft(text, "0123456789")
		some := len(rest) < len(text)
		text = rest
		return some
	}
	text = strings.TrimPrefix(text, "-")
	if zero, ok := strings.CutPrefix(text, "0"); ok {
		text = zero
	} else if !digits() {
		return false
	}
	if rest, ok := strings.CutPrefix(text, "."); ok {
		if text = rest; !digits() {
			return false
		}
	}
	if text != "" && (text[0] == 'e' || text[0] == 'E') {
		if text = text[1:]; text != "" && (text[0] == '+' || text[0] == '-') {
			text = text[1:]
		}
		if !digits() {
			return false
		}
	}
	return text == ""
}
