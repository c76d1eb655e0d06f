// Package commonpassword knows the most common passwords of at least ten characters. The list is a
// part of SecLists; see the file LICENSE.
package commonpassword

import (
	"compress/gzip"
	_ "embed"
	"io"
	"sort"
	"strings"
	"sync"
)

// packed has the 10,000 most common passwords of ten or more characters in ASCII, sorted, in lower case,
// one on each line, compressed by gzip.
//
//go:embed list.txt.gz
var packed string

var lines = sync.OnceValue(func() []string {
	z, err := gzip.NewReader(strings.NewReader(packed))
	if err != nil {
		panic(err) // a test reads the list
	}
	list, err := io.ReadAll(z)
	if err != nil {
		panic(err)
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
