package main

import "testing"

// TestTx_Sign stores records by keys and by the service: the key that created a record stays, and nobody chooses whose name is
// in a new one.
func TestTx_Sign(t *testing.T) {
	type signed struct{ Authors }
	forged := Authors{CreatedBy: "key_forged", UpdatedBy: "key_forged"}
	for _, tt := range []struct {
		name, key string
		old       any
		want      Authors
	}{
		{"new, by a key", "key_1", nil, Authors{CreatedBy: "key_1"}},
		{"changed, by another key", "key_2", &signed{Authors{CreatedBy: "key_1"}}, Authors{"key_1", "key_2"}},
		{"changed once more", "key_3", &signed{Authors{"key_1", "key_2"}}, Authors{"key_1", "key_3"}},
		{"changed, before by the service", "key_1", &signed{}, Authors{UpdatedBy: "key_1"}},
		{"by the service", "", nil, forged},
	} {
		tx, record := &Tx{Writer: Writer{Key: tt.key}}, &signed{forged}
		if tx.sign(tt.old, record); record.Authors != tt.want {
			t.Errorf("%s: got %+v, want %+v", tt.name, record.Authors, tt.want)
		}
	}
	(&Tx{Writer: Writer{Key: "key_1"}}).sign(nil, &thing{}) // has no authors
}
