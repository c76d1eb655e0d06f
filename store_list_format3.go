package main

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	bolterrors "go.etcd.io/bbolt/errors"

	"latchkey/internal/clock"
)

// recordFormat2 has the members of records of format 2 that the lists of format 3 need. A record has
// only some of them; in each table a member means the same.
type recordFormat2 struct {
	Owner     uint64    `json:"owner"`
	Team      uint64    `json:"team_id"`
	Status    string    `json:"status"`
	Stage     string    `json:"stage"`
	Tags      []string  `json:"tags"`
	Type      string    `json:"type"`
	Context   string    `json:"context_type"`
	CreatedAt time.Time `json:"created_at"`
	StartedAt time.Time `json:"started_at"`
	Start     time.Time `json:"start_time"`
	End       time.Time `json:"end_time"`
	Name      string    `json:"name"`
	FirstName string    `json:"first_name"`
	LastName  string    `json:"last_name"`
	Email     string    `json:"email"`
	Phone     string    `json:"phone_number"`
	Reason    string    `json:"reason"`
	Entry     struct {
		Actor   string `json:"actor"`
		Action  string `json:"action"`
		Object  string `json:"object"`
		Result  string `json:"result"`
		Changes []struct {
			Object string `json:"object"`
		} `json:"changes"`
	} `json:"entry"`
	Agent struct {
		ID          uint64 `json:"id"`
		AssistantID string `json:"assistant_id"`
	} `json:"agent"`
}

// scope returns the members of the set "scope".
func (r recordFormat2) scope() []setMember {
	members := []setMember{{"scope", binary.BigEndian.AppendUint64([]byte{'o'}, r.Owner)}}
	if r.Team != 0 {
		members = append(members, setMember{"scope", binary.BigEndian.AppendUint64([]byte{'t'}, r.Team)})
	}
	return members
}

// call returns what the lists of calls need.
func (r recordFormat2) call() listRecord {
	at := r.StartedAt
	if at.IsZero() {
		at = r.CreatedAt
	}
	return listRecord{
		sets: append(r.scope(), setMember{"status", []byte(r.Status)}, setMember{"type", []byte(r.Type)},
			setMember{"agent", binary.BigEndian.AppendUint64(nil, r.Agent.ID)}, setMember{"agent", []byte(r.Agent.AssistantID)}),
		columns: []listColumn{{"order", clock.SortKey(at)}},
	}
}

// contact returns what the lists of contacts need.
func (r recordFormat2) contact() listRecord {
	sets := append(r.scope(), setMember{"stage", []byte(r.Stage)}, setMember{"status", []byte(r.Status)})
	for _, tag := range r.Tags {
		sets = append(sets, setMember{"tag", []byte(tag)})
	}
	return listRecord{sets: sets, text: listText([]string{r.FirstName, r.LastName, r.Email})}
}

// entry returns what the lists of the audit log need.
func (r recordFormat2) entry() listRecord {
	e := r.Entry
	l := listRecord{sets: []setMember{{"action", []byte(e.Action)[:min(len(e.Action), 200)]}, {"fact", []byte("result " + e.Result)}}}
	add := func(kind, text string) { l.sets = append(l.sets, setMember{"fact", []byte(kind + " " + text)}) }
	for i := range len(e.Actor) {
		if e.Actor[i] == ' ' {
			add("actor", e.Actor[:i])
		}
	}
	add("actor", e.Actor)
	objects := []string{e.Object}
	for _, c := range e.Changes {
		objects = append(objects, c.Object)
	}
	for _, object := range objects {
		if object != "" {
			kind, _, _ := strings.Cut(object, " ")
			add("object", object)
			add("kind", kind)
		}
	}
	return l
}

// event returns what the lists of calendar events need.
func (r recordFormat2) event() listRecord {
	order := func(t time.Time) uint64 { return uint64(t.UnixMilli()) + 1<<63 }
	return listRecord{
		sets:    append(r.scope(), setMember{"status", []byte(r.Status)}),
		columns: []listColumn{{"order", order(r.Start)}, {"end", order(r.End)}},
	}
}

// listsFormat3 has the tables with lists of format 3, and what the lists need of a record.
var listsFormat3 = map[string]func(recordFormat2) listRecord{
	"agents":   func(r recordFormat2) listRecord { return listRecord{sets: r.scope(), text: listText([]string{r.Name})} },
	"audit":    recordFormat2.entry,
	"calls":    recordFormat2.call,
	"contacts": recordFormat2.contact,
	"do_not_call": func(r recordFormat2) listRecord {
		return listRecord{text: listText([]string{r.Phone, r.Reason})}
	},
	"events":    recordFormat2.event,
	"owners":    func(r recordFormat2) listRecord { return listRecord{text: listText([]string{r.Name})} },
	"schedules": func(recordFormat2) listRecord { return listRecord{} },
	"teams":     func(recordFormat2) listRecord { return listRecord{} },
	"variables": func(r recordFormat2) listRecord {
		sets := append(recordFormat2{Owner: r.Owner}.scope(), setMember{"context_type", []byte(r.Context)})
		return listRecord{sets: sets, text: listText([]string{r.Name})}
	},
	"webhooks": func(recordFormat2) listRecord { return listRecord{} },
}

// deriveLists calls emit for the data of lists of format 3, from the records of format 2. Its result is
// adopted by addLists.
func deriveLists(tx *Tx, emit func(DerivedEntry) error) error {
	for table, read := range listsFormat3 {
		err := deriveOldTable(tx, table, emit, func(value []byte) (listRecord, error) {
			var r recordFormat2
			if err := json.Unmarshal(value, &r); err != nil {
				return listRecord{}, fmt.Errorf("this is not a record of format 2 (%w)", err)
			}
			l := read(r)
			l.sets = append(l.sets, setMember{allRecords, nil})
			return l, nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// deriveOldTable calls emit for the data of the lists of a table with records of an earlier format. read returns what the
// lists need of a record.
func deriveOldTable(tx *Tx, table string, emit func(DerivedEntry) error, read func(value []byte) (listRecord, error)) error {
	var failed error
	lists := listScan{table: table, emit: func(at recordPlace, contents []byte) {
		if failed == nil {
			failed = emit(chunkEntry(at, contents))
		}
	}}
	seen := tx.countBucket("reading "+table, table)
	for key, stored := range tx.Range(table, nil) {
		value, err := Unseal(table, key, stored)
		if err = errors.Join(err, failed, seen.next()); err != nil {
			return err
		}
		l, err := read(value)
		if err == nil && len(key) != 8 {
			err = errors.New("this is not a record: its key is not a number")
		}
		if err != nil {
			return fmt.Errorf("%s/%x: %w", table, key, err)
		}
		if err := lists.add(binary.BigEndian.Uint64(key), &l); err != nil {
			return err
		}
	}
	lists.flush()
	return failed
}

// addLists adopts the data of lists that deriveLists has made, and deletes the indexes and counts that
// lists of format 2 used. It is a step of the migration to format 3.
func addLists(tx *Tx) error {
	for table := range listsFormat3 {
		if err := tx.adopt(table + "~"); err != nil {
			return err
		}
	}
	for _, bucket := range []string{"audit/object", "calls/scope", "call_tallies", "contacts/scope", "agents/scope"} {
		if err := tx.Bolt.DeleteBucket([]byte(bucket)); err != nil && !errors.Is(err, bolterrors.ErrBucketNotFound) {
			return fmt.Errorf("delete bucket %s: %w", bucket, err)
		}
	}
	return nil
}
