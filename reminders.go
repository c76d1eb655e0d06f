package main

import "time"

// maxReminders bounds how many events one transaction reminds of.
const maxReminders = 100

// FireReminders tells of the events whose reminder is due, each once: that it
// was is stored with what is told, so neither a restart nor a crash repeats or
// loses one. What came due while nobody looked is told of as long as the event
// has not begun. It is to be called about every second.
func FireReminders(store *Store, now time.Time) error {
	for {
		count := 0
		err := store.View(func(tx *Tx) error {
			due, err := DueReminders(tx, now, 1)
			count = len(due)
			return err
		})
		if err != nil || count == 0 {
			return err
		}
		err = store.Update(func(tx *Tx) error {
			due, err := DueReminders(tx, now, maxReminders)
			count = len(due)
			if err != nil {
				return err
			}
			for _, e := range due {
				e.RemindedFor = e.Start
				if e, err = SaveEvent(tx, e); err != nil {
					return err
				}
				if !now.Before(e.Start) {
					continue
				}
				if err := RaiseEvent(tx, "calendar.reminder", e, now, nil); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil || count < maxReminders {
			return err
		}
	}
}
