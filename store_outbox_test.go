package main

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"testing"
	"time"
)

// TestShareBodies migrates queues and logs of format 2.
func TestShareBodies(t *testing.T) {
	s := newTestStore(t)
	type object = map[string]any
	err := s.Update(func(tx *Tx) error {
		var failed error
		put := func(bucket string, key []byte, v any) {
			failed = errors.Join(failed, putJSON(tx, bucket, key, v))
		}
		for id := uint64(1); id <= 3; id++ {
			if err := saveWebhook(tx, webhook{ID: id, Owner: (id + 1) / 2, Active: true}); err != nil { // owners 1, 1, 2
				return err
			}
			if err := queueTable.Delete(tx, IDKey(id)); err != nil {
				return err
			}
			for n := uint64(1); n <= 3; n++ { // the webhooks share the bodies 2 and 3
				body := fmt.Sprintf(`{"n":%d}`, n)
				if n == 1 {
					body = fmt.Sprintf(`{"of":%d}`, id)
				}
				put("webhook_outbox", pairKey(id, 10+n), object{"webhook": id, "number": 10 + n, "id": fmt.Sprintf("whd_%d_%d", id, n),
					"event": "call.ended", "body": []byte(body), "at": epoch.Add(time.Duration(n) * time.Second)})
			}
			put("webhook_log", pairKey(id, 1), object{"webhook": id, "number": 1, "delivery": "whd_old", "event": "call.ended", "attempt": 1, "status": 200,
				"at": epoch, "took": 5, "body": []byte(`{"n":2}`)})
			put("webhook_log", pairKey(id, 2), object{"webhook": id, "number": 2, "delivery": "whd_x", "event": "call.ended", "attempt": 1, "at": epoch})
			put("webhook_queues", IDKey(id), object{"webhook": id, "next": 14, "waiting": 3, "tries": 2, "first_log": 1, "next_log": 3})
			entry := append(IDKey(0), IDKey(id)...)
			if err := tx.PutRaw("webhook_queues/due", entry, sealEntry(entry, 8)); err != nil {
				return err
			}
		}
		for table, n := range map[string]uint64{"webhook_outbox": 9, "webhook_log": 6, "webhook_queues": 3} {
			if err := tx.Put("counts", []byte(table), IDKey(n)); err != nil {
				return err
			}
		}
		return errors.Join(failed, shareBodies(tx))
	})
	if err != nil {
		t.Fatal(err)
	}
	err = s.Update(func(tx *Tx) error {
		if problems := outboxProblems(tx); len(problems) > 0 {
			t.Errorf("the check reports %q", problems)
		}
		if n := tx.Count("webhook_bodies"); n != 5 {
			t.Errorf("got %d bodies, want 5: three of one webhook each and two that all share", n)
		}
		owners := map[string]uint64{}
		err := readStored(tx, "webhook_bodies", func(_ []byte, b body3) error { owners[string(b.Body)] = b.Owner; return nil })
		if want := map[string]uint64{`{"of":1}`: 1, `{"of":2}`: 1, `{"of":3}`: 2, `{"n":2}`: 0, `{"n":3}`: 0}; err != nil || !maps.Equal(owners, want) {
			t.Errorf("got bodies of the owners %v, %v; want %v: a body that several owners share is of none", owners, err, want)
		}
		for id := uint64(1); id <= 3; id++ {
			if d, err := repeat(tx, id, 1, epoch); err != nil || d.ID != "whd_old" {
				t.Errorf("got %+v, %v; want the delivery of before to be sent again", d, err)
			}
			var got []string
			for range 4 {
				d, err := nextDelivery(tx, id, epoch)
				if err != nil {
					return err
				}
				got = append(got, d.ID+string(d.Body))
				if _, err := Settle(tx, d, Attempt{Status: 200, At: epoch}, epoch); err != nil {
					return err
				}
			}
			want := fmt.Sprintf(`[whd_%d_1{"of":%d} whd_%d_2{"n":2} whd_%d_3{"n":3} whd_old{"n":2}]`, id, id, id, id)
			if fmt.Sprint(got) != want {
				t.Errorf("got %v, want %s", got, want)
			}
		}
		if problems := outboxProblems(tx); len(problems) > 0 {
			t.Errorf("afterwards the check reports %q", problems)
		}
		return push(tx, delivery{Webhook: 1, Event: "call.ended", Body: []byte("{}"), At: epoch})
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestOutbox_Format2 opens the fixture of format 2, which has pending deliveries, and sends them.
func TestOutbox_Format2(t *testing.T) {
	_, data := readFixture(t, 2)
	if err := os.Remove(pepperPath(data)); err != nil {
		t.Fatal(err)
	}
	f, err := openFormat(storePath(data), ReadWrite, StoreFormat)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	err = f.Update(func(tx *Tx) error {
		before := map[string]int{}
		err := readStored(tx, "webhook_outbox", func(_ []byte, d delivery2) error {
			before[fmt.Sprint(d.Webhook, d.ID, string(d.Body))]++
			return nil
		})
		if err != nil || len(before) == 0 {
			return fmt.Errorf("got %d pending deliveries, %w; want some", len(before), err)
		}
		if err := shareBodies(tx); err != nil {
			return err
		}
		for q, err := range queueTable.All(tx, Forward) {
			if err != nil {
				return err
			}
			for range q.Waiting {
				d, err := nextDelivery(tx, q.Webhook, epoch.Add(time.Hour))
				if err != nil {
					return err
				}
				before[fmt.Sprint(d.Webhook, d.ID, string(d.Body))]--
				if _, err := Settle(tx, d, Attempt{Status: 200, At: epoch}, epoch); err != nil {
					return err
				}
			}
		}
		for what, n := range before {
			if n != 0 {
				t.Errorf("%s: %d are missing after the migration", what, n)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
