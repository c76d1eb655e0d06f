package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"latchkey/internal/clock"
	"latchkey/internal/fold"
	"latchkey/internal/strictjson"
)

// auditParameters are the parameters of the query of list.
func auditParameters() []string {
	return []string{"page", "limit", "actor", "action", "object", "result", "kind", "from", "to", "format"}
}

// list answers with a page of the audit log, newest entry first, or with all entries that the query
// selects as a file.
func (a *AuditLog) list(w http.ResponseWriter, r *Request) error {
	q, err := r.Query(r.Parameters...)
	if err != nil {
		return err
	}
	page, err := ReadPage(q, 25, 1000)
	if err != nil {
		return err
	}
	f, err := readAuditFilter(q)
	if err != nil {
		return err
	}
	if err := CheckWord(q, "format", "json", "csv", "jsonl"); err != nil {
		return err
	}
	switch q.Get("format") {
	case "csv":
		return a.export(r, f, func() auditWriter { return auditCSV(w) })
	case "jsonl":
		return a.export(r, f, func() auditWriter { return auditJSONL(w) })
	}
	rows, count := []any{}, 0
	err = r.View(a.o.Store, func(tx *Tx) error {
		records, n, err := a.page(r.Context(), tx, f, page.Bounds)
		rows, count = a.shown(tx, records), n
		return err
	})
	if err != nil {
		return err
	}
	return WriteJSON(w, http.StatusOK, page.Answer(count, "entries", rows))
}

// readAuditFilter reads the filter from the parameters of a query.
func readAuditFilter(q url.Values) (f AuditFilter, err error) {
	f = AuditFilter{Actor: q.Get("actor"), Action: q.Get("action"), Object: q.Get("object"), Result: q.Get("result")}
	if err := CheckWord(q, "result", AuditResults()...); err != nil {
		return f, err
	}
	if err := CheckWord(q, "kind", AuditKinds()...); err != nil {
		return f, err
	}
	if kind := q.Get("kind"); kind != "" {
		f.Actions = func(action string) bool { return actionKind(action) == kind }
	}
	if f.From, err = readAuditTime(q, "from"); err == nil {
		f.To, err = readAuditTime(q, "to")
	}
	return f, err
}

// readAuditTime reads a parameter that is a time, or a day in UTC. A period that ends with a day has the
// whole day.
func readAuditTime(q url.Values, name string) (time.Time, error) {
	text := q.Get(name)
	if text == "" {
		return time.Time{}, nil
	}
	if day, err := clock.ParseDate(text); err == nil {
		if name == "to" {
			day = day.AddDate(0, 0, 1)
		}
		return day, nil
	}
	at, err := clock.ParseTime(text)
	if err != nil {
		return at, ErrValidation.With("%s must be a day such as 2026-11-28, or a time such as 2026-11-28T09:00:00Z; got %q.", name, text)
	}
	return at, nil
}

// page returns a part of the entries that a filter selects, newest first, and the number of all of them.
func (a *AuditLog) page(ctx context.Context, tx *Tx, f AuditFilter, bounds func(count int) (from, to int)) (records []AuditRecord, count int, err error) {
	if f.Empty() {
		return newestAudit(tx, bounds)
	}
	if f.ActorIDs, err = a.actorsNamed(ctx, tx, f.Actor); err == nil {
		f.ObjectIDs, err = a.named(ctx, tx, f.Object)
	}
	if err != nil {
		return nil, 0, err
	}
	return f.Page(ctx, tx, bounds)
}

// named returns the objects that have a name now, as the audit log calls them. What is a kind of object, or
// a kind and an id, is no name: nothing is searched for it.
func (a *AuditLog) named(ctx context.Context, tx *Tx, name string) (objects []string, err error) {
	words := strings.Fields(name)
	if len(words) == 0 {
		return nil, nil
	}
	isKind := slices.ContainsFunc(a.o.Naming, func(n *Naming) bool { return n.Kind == words[0] })
	if isKind && (len(words) == 1 || len(words) == 2 && ObjectID.MatchString(words[1])) {
		return nil, nil
	}
	if objects, err = a.o.Keyring.NamedAs(ctx, tx, name); err != nil {
		return nil, err
	}
	for _, n := range a.o.Naming {
		found, err := n.Find(ctx, tx, name)
		if err != nil {
			return nil, err
		}
		objects = append(objects, found...)
	}
	return objects, nil
}

// actorsNamed returns the actors with a name: those that named returns, and the operators and tokens that
// had it, or a name that begins with its words, until they were deleted.
func (a *AuditLog) actorsNamed(ctx context.Context, tx *Tx, name string) (actors []string, err error) {
	if actors, err = a.named(ctx, tx, name); err != nil || strings.TrimSpace(name) == "" {
		return actors, err
	}
	known := &sentences{tx, a.o.Naming, map[string]namedObject{}}
	for _, kind := range []string{"operator ", "token "} {
		for actor, err := range AuditActors(tx, kind) {
			if err == nil {
				err = ctx.Err()
			}
			if err != nil {
				return nil, err
			}
			id, had, _ := strings.Cut(strings.TrimPrefix(actor, kind), " ")
			if had != "" && fold.Search(had) == fold.Search(name) && !known.find(kind+id).exists {
				actors = append(actors, actor)
			}
		}
	}
	return actors, nil
}

// newestAudit returns a part of the whole log, newest entry first, and the number of all entries. The
// numbers of entries have no gaps, so it reads only the entries of the part.
func newestAudit(tx *Tx, bounds func(count int) (from, to int)) (records []AuditRecord, count int, err error) {
	if count, err = CountAudit(tx); err != nil {
		return nil, 0, err
	}
	head, err := ReadAuditHead(tx)
	if err != nil {
		return nil, 0, err
	}
	from, to := bounds(count)
	for i := from; i < to; i++ {
		l, err := AuditRecordAt(tx, head.Number-uint64(i))
		if errors.Is(err, ErrNotFound) {
			continue // somebody removed the entry from the database file; verify reports it
		}
		if err != nil {
			return nil, 0, err
		}
		records = append(records, l)
	}
	return records, count, nil
}

// shown returns the JSON fields of entries: the stored fields, the hash in hex, and the entry as a
// sentence.
func (a *AuditLog) shown(tx *Tx, records []AuditRecord) []any {
	rows, words := []any{}, &sentences{tx, a.o.Naming, map[string]namedObject{}}
	for _, l := range records {
		var shown map[string]any
		if err := strictjson.Decode(l.Entry, &shown); err != nil {
			shown = map[string]any{"number": l.Number, "damaged": true}
		}
		shown["hash"] = fmt.Sprintf("%x", l.Hash)
		if e, err := l.Open(); err == nil {
			parts := words.Parts(e)
			shown["summary"], shown["sentence"] = sentenceText(parts), parts
		}
		rows = append(rows, shown)
	}
	return rows
}

// exportPart is the number of entries that an export reads in one transaction, so that a slow client
// does not keep one open, and so that its memory is bounded.
const exportPart = 500

// auditWriter writes the JSON fields of an entry to an answer.
type auditWriter func(entry map[string]any) error

// export answers with all entries that f selects, newest first. begin begins the answer. If reading fails
// after that, export breaks the connection, so that the client notices.
func (a *AuditLog) export(r *Request, f AuditFilter, begin func() auditWriter) error {
	var write auditWriter
	for more := true; more; {
		var rows []any
		err := r.View(a.o.Store, func(tx *Tx) error {
			records, count, err := a.page(r.Context(), tx, f, func(count int) (int, int) { return 0, min(count, exportPart) })
			rows = a.shown(tx, records)
			if more = count > len(records) && len(records) > 0; more {
				f.Before = records[len(records)-1].Number
			}
			return err
		})
		if err != nil && write == nil {
			return err
		}
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		if write == nil {
			write = begin()
		}
		for _, row := range rows {
			entry, _ := row.(map[string]any)
			if write(entry) != nil {
				panic(http.ErrAbortHandler)
			}
		}
	}
	return nil
}

// auditJSONL begins an answer with one JSON object on each line.
func auditJSONL(w http.ResponseWriter) auditWriter {
	w.Header().Set("Content-Type", "application/jsonl")
	w.Header().Set("Content-Disposition", `attachment; filename="audit.jsonl"`)
	return func(entry map[string]any) error {
		line, err := EncodeJSON(entry)
		if err != nil {
			return err
		}
		_, err = w.Write(line)
		return err
	}
}

// auditColumns returns the names of the columns of the audit log as CSV, which are members of an entry.
func auditColumns() []string {
	return []string{"number", "at", "summary", "actor", "client", "action", "object", "result", "status", "code", "request_id", "hash"}
}

// auditCSV begins an answer with one line of CSV for each entry.
func auditCSV(w http.ResponseWriter) auditWriter {
	out := newCSV(w, "audit", auditColumns())
	out.Flush() // without entries too
	return func(entry map[string]any) error {
		line := []string{}
		for _, name := range auditColumns() {
			cell := ""
			if value := entry[name]; value != nil {
				cell = plainCell(fmt.Sprint(value))
			}
			line = append(line, cell)
		}
		if err := out.Write(line); err != nil {
			return err
		}
		out.Flush()
		return out.Error()
	}
}
