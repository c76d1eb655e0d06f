package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"path/filepath"
	"testing"
)

// TestStore_CopyUnderWrites copies a store while each of its records is written
// over again and again: a copy has all of them as they were at one moment.
func TestStore_CopyUnderWrites(t *testing.T) {
	const records = 500
	dir := memoryDir(t)
	if err := CreateStore(filepath.Join(dir, "test.db"), "test", epoch); err != nil {
		t.Fatal(err)
	}
	s, err := OpenStore(filepath.Join(dir, "test.db"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	name := func(i int) []byte { return fmt.Appendf(nil, "%04d", i) }
	write := func(round uint64) error {
		value := bytes.Repeat(binary.BigEndian.AppendUint64(nil, round), 100)
		return s.Update(func(tx *Tx) error {
			for i := range records {
				if err := tx.Put("x", name(i), value); err != nil {
					return err
				}
			}
			_, err := tx.Bolt.Bucket([]byte("x")).NextSequence()
			return err
		})
	}
	if err := write(1); err != nil {
		t.Fatal(err)
	}
	stop, over := make(chan struct{}), make(chan error)
	go func() {
		for round := uint64(2); ; round++ {
			select {
			case <-stop:
				over <- nil
				return
			default:
			}
			if err := write(round); err != nil {
				over <- err
				return
			}
		}
	}()
	last := uint64(0)
	for i := range 20 {
		path := filepath.Join(dir, fmt.Sprint("copy", i))
		if err := s.CopyTo(path); err != nil {
			t.Fatal(err)
		}
		last = wholeCopy(t, path, records, name, last)
	}
	close(stop)
	if err := <-over; err != nil {
		t.Error(err)
	}
}

// wholeCopy wants all records of a copy to be of one round, not before last, and
// gives that.
func wholeCopy(t *testing.T, path string, records int, name func(int) []byte, last uint64) (round uint64) {
	t.Helper()
	f, err := OpenFile(path, true)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	err = f.View(func(tx *Tx) error {
		if round = tx.Bolt.Bucket([]byte("x")).Sequence(); round < last {
			t.Errorf("got round %d, want no earlier one than %d", round, last)
		}
		for i := range records {
			value, err := tx.Get("x", name(i))
			if err != nil {
				return err
			}
			if want := bytes.Repeat(binary.BigEndian.AppendUint64(nil, round), 100); !bytes.Equal(value, want) {
				t.Errorf("record %d: got %x..., want that of round %d", i, value[:min(8, len(value))], round)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	return round
}
