package main

import (
	"encoding/binary"
	"encoding/json"
	"slices"
	"strconv"
	"time"
)

// Authors are the ids of the keys that created a record and that last changed it. Each is "" if no key
// did, or if only an earlier version of the program saw it. A change by the operator or by the service
// leaves both as they are. Only the operator is shown them. putRecord sets them, so a type of record
// that keys can change only has to embed Authors.
type Authors struct {
	CreatedBy string `json:"created_by,omitempty"`
	UpdatedBy string `json:"updated_by,omitempty"`
}

func (a *Authors) authors() *Authors { return a }

// ShowAuthors adds the ids to an answer for the operator.
func (a Authors) ShowAuthors(shown map[string]any) {
	shown["created_by"], shown["updated_by"] = nil, nil
	if a.CreatedBy != "" {
		shown["created_by"] = a.CreatedBy
	}
	if a.UpdatedBy != "" {
		shown["updated_by"] = a.UpdatedBy
	}
}

// sign sets the Authors of a record that the key of the Writer stores. old is the stored record, or nil
// if there is none. Both are pointers.
func (tx *Tx) sign(old, record any) {
	now, ok := record.(interface{ authors() *Authors })
	if !ok || tx.Writer.Key == "" {
		return
	}
	if old == nil {
		*now.authors() = Authors{CreatedBy: tx.Writer.Key}
		return
	}
	*now.authors() = Authors{old.(interface{ authors() *Authors }).authors().CreatedBy, tx.Writer.Key}
}

// AsService makes the writes that follow those of the service itself and not of the key of the Writer,
// until the returned function is called.
func (tx *Tx) AsService() (end func()) {
	key := tx.Writer.Key
	tx.Writer.Key = ""
	return func() { tx.Writer.Key = key }
}

// Touched is a record that a key has created, changed or deleted.
type Touched struct {
	Object string `json:"object"` // as the audit log calls it, such as "contact 7"
	Did    string `json:"did"`    // created, changed or deleted
}

// maxTouched is the number of records of one change that Tx.Touched lists.
const maxTouched = 8

// Touch notes that the key of the Writer has changed an object. It does nothing if there is no key.
func (tx *Tx) Touch(object, did string) {
	if tx.Writer.Key == "" || slices.ContainsFunc(tx.Touched, func(t Touched) bool { return t.Object == object && did == "changed" }) {
		return
	}
	if len(tx.Touched) == maxTouched {
		tx.TouchedMore++
		return
	}
	tx.Touched = append(tx.Touched, Touched{object, did})
}

// touchRecord is Touch for a change of a record in a table.
func (tx *Tx) touchRecord(kind string, c tableChange) {
	if tx.Writer.Key == "" || kind == "" {
		return
	}
	id, did := string(c.key), "changed"
	if len(c.key) == 8 {
		id = strconv.FormatUint(binary.BigEndian.Uint64(c.key), 10)
	}
	switch {
	case c.before == nil:
		did = "created"
	case c.after == nil:
		did = "deleted"
	}
	tx.Touch(kind+" "+id, did)
}

// authorsBucket returns the bucket with the Authors of the records of an OwnedBucket.
func (b OwnedBucket) authorsBucket() string { return string(b) + "_authors" }

// Authors returns the Authors of the record of an owner.
func (b OwnedBucket) Authors(tx *Tx, owner uint64) (a Authors, err error) {
	value, err := tx.Get(b.authorsBucket(), IDKey(owner))
	if err == nil && value != nil {
		err = json.Unmarshal(value, &a)
	}
	return a, err
}

// sign stores the Authors of the record of an owner that the key of the Writer stores.
func (b OwnedBucket) sign(tx *Tx, owner uint64, created bool) error {
	if tx.Writer.Key == "" {
		return nil
	}
	a := Authors{CreatedBy: tx.Writer.Key}
	if !created {
		was, err := b.Authors(tx, owner)
		if err != nil {
			return err
		}
		a = Authors{was.CreatedBy, tx.Writer.Key}
	}
	value, err := json.Marshal(a)
	if err != nil {
		return err
	}
	return tx.Put(b.authorsBucket(), IDKey(owner), value)
}

// Created is a record that a key has created.
type Created struct {
	Key   string
	Owner uint64
	At    time.Time
}

// CreatedByKeys returns the records of a table that keys have created since a time, the oldest first. T must
// embed Authors, and the records must have been created in the order of their keys.
func CreatedByKeys[T any](tx *Tx, table *Table[T], since time.Time, at func(T) time.Time) (list []Created, err error) {
	const (
		slack        = time.Hour // by which the wall clock may have been set back
		decodedBytes = 1 << 10   // about the size of a record
	)
	ids := map[string]string{}
	for v, err := range table.All(tx, Backward) {
		if err != nil {
			return nil, err
		}
		made := at(v)
		if made.Before(since.Add(-slack)) {
			break
		}
		tx.Yield(decodedBytes)
		by := any(&v).(interface{ authors() *Authors }).authors().CreatedBy
		if by == "" || made.Before(since) {
			continue
		}
		if ids[by] == "" {
			ids[by] = by // one text for all records of a key
		}
		list = append(list, Created{ids[by], table.Owner(v), made})
	}
	slices.Reverse(list)
	return list, nil
}
