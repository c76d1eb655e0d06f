package main

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
)

// recordFormat3 has the members of calls and events of format 3 that the sets of format 4 need.
type recordFormat3 struct {
	Contact uint64 `json:"contact_id"`
	AgentID uint64 `json:"ai_agent_id"`
}

// setsFormat4 has the sets that are new in format 4, by table, and the id that a record is found by, 0 if by none.
var setsFormat4 = []struct {
	table, set string
	id         func(recordFormat3) uint64
}{
	{"calls", "contact", func(r recordFormat3) uint64 { return r.Contact }},
	{"events", "agent", func(r recordFormat3) uint64 { return r.AgentID }},
}

// deriveFormat4 calls emit for the data of the new sets, from the records of format 3. Its result is adopted by format4.
func deriveFormat4(tx *Tx, emit func(DerivedEntry) error) error {
	for _, s := range setsFormat4 {
		err := deriveOldTable(tx, s.table, emit, func(value []byte) (l listRecord, err error) {
			var r recordFormat3
			if err := json.Unmarshal(value, &r); err != nil {
				return l, fmt.Errorf("this is not a record of format 3 (%w)", err)
			}
			if id := s.id(r); id != 0 {
				l.sets = []setMember{{s.set, binary.BigEndian.AppendUint64(nil, id)}}
			}
			return l, nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// format4 changes format 3 to format 4. An earlier program must not use a file of this format: it would not see
// that a key is limited to some objects.
func format4(tx *Tx) error {
	for _, s := range setsFormat4 {
		if err := tx.adopt(listBucket(s.table, s.set)); err != nil {
			return err
		}
	}
	return nil
}
