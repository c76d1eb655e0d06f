package main

import (
	"net/http"
	"net/url"
	"time"
)

// EventDesk serves the events of the calendar to the operator, whoever they
// belong to. What it makes costs no daily unit: those are of keys.
type EventDesk struct{ store *Store }

// NewEventDesk serves the events of a store.
func NewEventDesk(store *Store) *EventDesk { return &EventDesk{store} }

// AdminRoutes lists the endpoints.
func (d *EventDesk) AdminRoutes() []Route {
	return []Route{
		{Method: "GET", Path: "/admin/v1/events", Handle: d.list},
		{Method: "POST", Path: "/admin/v1/events", Handle: d.create},
		{Method: "GET", Path: "/admin/v1/events/:id", Handle: d.get},
		{Method: "PATCH", Path: "/admin/v1/events/:id", Handle: d.update},
		{Method: "POST", Path: "/admin/v1/events/:id/cancel", Handle: d.cancel},
	}
}

// ReadZone reads time_zone of a query, UTC where it is left out;
// ErrParameterFormat.
func ReadZone(q url.Values) (*time.Location, error) {
	name := q.Get("time_zone")
	if name == "" {
		return time.UTC, nil
	}
	zone, err := time.LoadLocation(name)
	if err != nil || name == "Local" {
		return nil, ErrParameterFormat.With("time_zone must be a name of the IANA database, such as Europe/Berlin; got %q.", name)
	}
	return zone, nil
}

// list gives the events that overlap a range of days, by their start.
func (d *EventDesk) list(w http.ResponseWriter, r *Request) error {
	q := r.URL.Query()
	page, err := ReadPage(q, 25, 1000)
	if err != nil {
		return err
	}
	zone, err := ReadZone(q)
	if err != nil {
		return err
	}
	dates, err := ReadDates(q, 30, zone, r.Now)
	if err != nil {
		return err
	}
	wanted, err := StateFilter(q.Get("status"))
	if err != nil {
		return err
	}
	rows, count := []any{}, 0
	err = d.store.View(func(tx *Tx) error {
		keys, err := ownerKeys(tx, q.Get("owner"))
		if err != nil {
			return err
		}
		from, to := dates.Bounds()
		spans := wanted(EventsBetween(tx, keys, from, to))
		count = len(spans)
		first, last := page.Bounds(count)
		events, err := GetEvents(tx, spans[first:last])
		for _, e := range events {
			rows = append(rows, showEvent(tx, e))
		}
		return err
	})
	if err != nil {
		return err
	}
	return WriteJSON(w, http.StatusOK, page.Answer(count, "events", rows))
}

// ownerKeys gives the beginnings of the index entries of an owner's own events,
// or with "" of those of every owner.
func ownerKeys(tx *Tx, name string) (keys [][]byte, err error) {
	owners, err := AllOwners(tx)
	for _, o := range owners {
		if name == "" || o.Name == name {
			keys = append(keys, ScopeKeys(o.ID, 0)...)
		}
	}
	return keys, err
}

// showEvent is an event as the operator sees it.
func showEvent(tx *Tx, e Appointment) map[string]any {
	shown := e.Detail(tx)
	shown["owner"] = OwnerName(tx, e.Owner)
	return shown
}

func (d *EventDesk) get(w http.ResponseWriter, r *Request) error {
	var shown map[string]any
	err := d.store.View(func(tx *Tx) error {
		e, err := FindEvent(tx, r.Params.ByName("id"))
		shown = showEvent(tx, e)
		return err
	})
	if err != nil {
		return err
	}
	return WriteJSON(w, http.StatusOK, shown)
}

// answer makes a change and answers with the event that it gives.
func (d *EventDesk) answer(w http.ResponseWriter, r *Request, status int, change func(*Tx) (Appointment, error)) error {
	var shown map[string]any
	err := r.Update(d.store, func(tx *Tx) error {
		e, err := change(tx)
		if err != nil {
			return err
		}
		shown = showEvent(tx, e)
		return nil
	})
	if err != nil {
		return err
	}
	return WriteJSON(w, status, shown)
}

func (d *EventDesk) create(w http.ResponseWriter, r *Request) error {
	body, err := r.ReadBody(false)
	if err != nil {
		return err
	}
	e, err := ReadEvent(body, http.MethodPost, Appointment{CreatedAt: r.Now, UpdatedAt: r.Now})
	if err != nil {
		return err
	}
	name := ""
	if body.String("owner", &name); body.Err() != nil {
		return body.Err()
	}
	return d.answer(w, r, http.StatusCreated, func(tx *Tx) (Appointment, error) {
		made := e
		made.UpdatedAt = r.Now
		owner, err := EnsureOwner(tx, name, r.Now)
		if err != nil {
			return made, err
		}
		made.Owner = owner.ID
		scope, err := ScopeOf(tx, owner.ID)
		if err != nil {
			return made, err
		}
		if err := CheckLinks(tx, scope, made); err != nil {
			return made, err
		}
		if made, err = SaveEvent(tx, made); err != nil {
			return made, err
		}
		return made, RaiseEvent(tx, "calendar.created", made, r.Now, nil)
	})
}

func (d *EventDesk) update(w http.ResponseWriter, r *Request) error {
	body, err := r.ReadBody(false)
	if err != nil {
		return err
	}
	return d.answer(w, r, http.StatusOK, func(tx *Tx) (Appointment, error) {
		before, err := FindEvent(tx, r.Params.ByName("id"))
		if err != nil {
			return before, err
		}
		e, err := ReadEvent(body, http.MethodPatch, before)
		if err != nil {
			return e, err
		}
		scope, err := ScopeOf(tx, e.Owner)
		if err == nil && (e.AgentID != before.AgentID || e.TeamID != before.TeamID) {
			err = CheckLinks(tx, scope, e)
		}
		if err != nil {
			return e, err
		}
		e.UpdatedAt = r.Now
		if e, err = SaveEvent(tx, e); err != nil {
			return e, err
		}
		return e, RaiseChange(tx, before, e, r.Now)
	})
}

// cancel calls an event off. Done twice it changes nothing more.
func (d *EventDesk) cancel(w http.ResponseWriter, r *Request) error {
	reason, err := ReadReason(r)
	if err != nil {
		return err
	}
	return d.answer(w, r, http.StatusOK, func(tx *Tx) (Appointment, error) {
		e, err := FindEvent(tx, r.Params.ByName("id"))
		if err != nil {
			return e, err
		}
		return CancelEvent(tx, e, reason, r.Now)
	})
}
