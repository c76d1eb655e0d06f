// Package sorted sorts short lists. The functions of package slices have a copy of the algorithm for each type of
// element, 10 KB and more each. Here the program has it once; each step is an indirect call, so a list that
// is long, or sorted for each request, is sorted by package slices.
package sorted

import "sort"

// Func sorts list like slices.SortFunc.
func Func[T any](list []T, compare func(a, b T) int) { sort.Sort(by[T]{list, compare}) }

// StableFunc sorts list like slices.SortStableFunc: equal elements keep their order.
func StableFunc[T any](list []T, compare func(a, b T) int) { sort.Stable(by[T]{list, compare}) }

type by[T any] struct {
	list    []T
	compare func(a, b T) int
}

func (s by[T]) Len() int           { return len(s.list) }
func (s by[T]) Less(i, j int) bool { return s.compare(s.list[i], s.list[j]) < 0 }
func (s by[T]) Swap(i, j int)      { s.list[i], s.list[j] = s.list[j], s.list[i] }
