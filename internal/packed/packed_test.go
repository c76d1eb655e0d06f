package packed

import (
	"bytes"
	"testing"
)

func TestPack(t *testing.T) {
	for _, data := range [][]byte{{}, []byte("x"), bytes.Repeat([]byte("the same "), 1000)} {
		packed := Pack(data)
		if got, err := Unpack(packed); err != nil || !bytes.Equal(got, data) {
			t.Errorf("got %d bytes, %v, want %d", len(got), err, len(data))
		}
		if _, err := Unpack(packed[:len(packed)-1]); err == nil {
			t.Error("data that was cut off is taken")
		}
	}
	if _, err := Unpack(nil); err == nil {
		t.Error("no data is taken")
	}
}
