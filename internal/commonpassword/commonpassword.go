// Package commonpassword knows the most common passwords of at least ten characters. The list is a
// part of SecLists; see the file LICENSE.
package commonpassword

import (
	_ "embed"
	"sort"
	"strings"
	"sync"

	"latchkey/internal/packed"
)

// file has the 10,000 most common passwords of ten or more characters in ASCII, sorted, in lower case,
// one on each line, compressed by gzip.
//
//go:embed list.txt.gz
var file []byte

var lines = sync.OnceValue(func() []string {
	list, err := packed.Unpack(file)
	if err != nil {
		panic(err) // a test reads the list
	}
	return strings.Split(strings.TrimSuffix(string(list), "\n"), "\n")
})

// Has reports whether password is in the list. Upper and lower case are equal. It is safe for
// concurrent use.
func Has(password string) bool {
	all, folded := lines(), strings.ToLower(password)
	i := sort.SearchStrings(all, folded)
	return i < len(all) && all[i] == folded
}
