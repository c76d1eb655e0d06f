package rowcut

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"latchkey/internal/csvtable"
)

// TestFile_Part cuts files at every row and compares the parts with the whole.
func TestFile_Part(t *testing.T) {
	const text = "name;note\n\"A \"\"x\"\"\";\"two\nlines\"\n;\nB;c, d\n"
	f, err := CSV([]byte(text), "")
	if err != nil || f.Len() != 3 || f.Line(0) != 2 || f.Line(1) != 4 || f.Line(2) != 5 || f.Line(3) != 0 {
		t.Fatalf("got %+v, %v", f, err)
	}
	whole, err := csvtable.Read([]byte(text), "")
	if err != nil {
		t.Fatal(err)
	}
	for cut := range f.Len() + 1 {
		var cells [][]string
		for _, part := range [][]byte{f.Part(0, cut), f.Part(cut, f.Len())} {
			table, err := csvtable.Read(part, "")
			if err != nil || !slices.Equal(table.Columns, whole.Columns) {
				t.Fatalf("%q: %v, %v", part, table.Columns, err)
			}
			for _, row := range table.Rows {
				cells = append(cells, row.Cells)
			}
		}
		want := fmt.Sprint(whole.Rows[0].Cells, whole.Rows[1].Cells, whole.Rows[2].Cells)
		if got := fmt.Sprint(cells[0], cells[1], cells[2]); got != want || len(cells) != 3 {
			t.Errorf("cut at %d: got %s, want %s", cut, got, want)
		}
	}
	single, err := CSV([]byte("name\nA\n\"\"\nB\n"), "")
	if err != nil || single.Len() != 3 {
		t.Fatalf("got %+v, %v", single, err)
	}
	if again, err := CSV(single.Part(0, 3), ""); err != nil || again.Len() != 3 {
		t.Errorf("got %+v, %v; want an empty cell alone to stay a row", again, err)
	}
	for _, text := range []string{`[{"a": 1.0}, 2]`, `{"list": [{"a": 1.0}, 2]}`} {
		f, err := JSON([]byte(text), "list")
		if err != nil || string(f.Part(0, 1)) != `[{"a": 1.0}]` || string(f.Part(1, 2)) != "[2]" || f.Line(0) != 0 {
			t.Errorf("%s: got %+v, %v", text, f, err)
		}
	}
	for _, text := range []string{"", "{}", `{"list": 1}`, "[1"} {
		if _, err := JSON([]byte(text), "list"); err == nil {
			t.Errorf("%q: want an error", text)
		}
	}
	if _, err := CSV([]byte("a,b\n1\n"), ""); err == nil {
		t.Error("a row with too few cells: want an error")
	}
}

// TestFile_Send sends parts that get smaller, and stops at an error.
func TestFile_Send(t *testing.T) {
	f, err := JSON([]byte("[0,1,2,3,4,5,6,7,8,9]"), "")
	if err != nil {
		t.Fatal(err)
	}
	large, broken := errors.New("too large"), errors.New("broken")
	for _, tt := range []struct {
		size, most, fit, breaks int
		want                    string
	}{
		{4, 9, 0, 99, "[0-4 4-8 8-10] 10 0 <nil>"},
		{4, 3, 3, 99, "[0-3 3-6 6-9 9-10] 10 0 <nil>"},
		{4, 3, 4, 99, "[0-3 3-6 6-9 9-10] 10 0 <nil>"},
		{4, 9, 0, 5, "[0-4] 4 4 broken"},
		{2, 0, 1, 99, "[] 0 1 too large"},
	} {
		var parts []string
		sent, failed, err := f.Send(tt.size, func(from, to int) (int, error) {
			if to-from > tt.most {
				return tt.fit, large
			}
			if to > tt.breaks {
				return 0, broken
			}
			parts = append(parts, fmt.Sprintf("%d-%d", from, to))
			return 0, nil
		})
		if got := fmt.Sprintf("%v %d %d %v", parts, sent, failed, err); got != tt.want {
			t.Errorf("size %d: got %s, want %s", tt.size, got, tt.want)
		}
	}
}
