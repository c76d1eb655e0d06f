// Package idlists reads the ids of several kinds of objects from a text such as "agents=8,9 contacts=31".
package idlists

import (
	"fmt"
	"strconv"
	"strings"
)

// Parse returns the ids in text by their kind. Blanks, commas and semicolons separate them. It returns nil if text is
// empty. An error says what the text must be, without a subject.
func Parse(text string) (ids map[string][]uint64, err error) {
	kind := ""
	for _, word := range strings.FieldsFunc(text, func(r rune) bool { return strings.ContainsRune(", ;\t\r\n", r) }) {
		name, id, begins := strings.Cut(word, "=")
		if begins {
			kind = name
		} else {
			id = word
		}
		n, err := strconv.ParseUint(id, 10, 64)
		if err != nil && id != "" || kind == "" {
			return nil, fmt.Errorf("must be kinds with ids, such as agents=8,9 contacts=31; got %q", word)
		}
		if ids == nil {
			ids = map[string][]uint64{}
		}
		if ids[kind] = append(ids[kind], n); id == "" {
			ids[kind] = ids[kind][:len(ids[kind])-1] // the ids follow after a blank
		}
	}
	return ids, nil
}
