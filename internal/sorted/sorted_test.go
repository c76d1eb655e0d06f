package sorted

import (
	"cmp"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func TestFunc(t *testing.T) {
	type pair struct{ a, b int }
	rapid.Check(t, func(rt *rapid.T) {
		var list []pair
		for i, a := range rapid.SliceOf(rapid.IntRange(0, 5)).Draw(rt, "list") {
			list = append(list, pair{a, i})
		}
		byA := func(x, y pair) int { return cmp.Compare(x.a, y.a) }
		both := func(x, y pair) int { return cmp.Or(byA(x, y), cmp.Compare(y.b, x.b)) }
		got, want := slices.Clone(list), slices.Clone(list)
		Func(got, both)
		slices.SortFunc(want, both)
		if !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
		got, want = slices.Clone(list), slices.Clone(list)
		StableFunc(got, byA)
		slices.SortStableFunc(want, byA)
		if !slices.Equal(got, want) {
			t.Errorf("stable: got %v, want %v", got, want)
		}
	})
}
