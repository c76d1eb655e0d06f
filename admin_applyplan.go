package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strings"

	"latchkey/internal/clock"
	"latchkey/internal/sorted"
	"latchkey/internal/strictjson"
)

// patch returns a body with the fields that differ between a record and an entry. A field that the entry lacks gets
// its default.
func (k *applyKind) patch(entry *Body, was *applied) (*Body, error) {
	patch := &Body{}
	for _, f := range k.fields {
		raw, old := entry.Raw(f.name), was.fields[f.name]
		if raw == nil {
			if old != nil && f.unset != keepAsIs {
				raw = json.RawMessage(cmp.Or(f.unset, "null"))
			} else {
				continue
			}
		} else if same, err := sameValue(f.name, old, raw); err != nil || same {
			if err != nil {
				return nil, err
			}
			continue
		}
		if f.merged && old != nil {
			var err error
			if raw, err = withNulls(raw, old); err != nil {
				return nil, err
			}
		}
		patch = patch.Replaced(f.name, raw)
	}
	return patch, nil
}

// withNulls returns the object in raw with the value null for each member that only the object old has. It returns
// raw if that is another value, which the form of the record then refuses.
func withNulls(raw json.RawMessage, old any) (json.RawMessage, error) {
	var members map[string]any
	if strictjson.Decode(raw, &members) != nil {
		return raw, nil
	}
	if members == nil {
		members = map[string]any{}
	}
	before, err := decoded(old)
	if err != nil {
		return nil, err
	}
	had, _ := before.(map[string]any)
	for name := range had {
		if _, ok := members[name]; !ok {
			members[name] = nil
		}
	}
	return strictjson.Encode(members)
}

// decoded returns v as it would be decoded from JSON.
func decoded(v any) (out any, err error) {
	data, err := strictjson.Encode(v)
	if err == nil {
		err = strictjson.Decode(data, &out)
	}
	return out, err
}

// sameValue reports whether the value of a field in JSON is that of a record, apart from its spelling.
func sameValue(field string, old any, raw json.RawMessage) (bool, error) {
	before, err := decoded(old)
	if err != nil {
		return false, err
	}
	var after any
	if err := strictjson.Decode(raw, &after); err != nil {
		return false, err
	}
	return reflect.DeepEqual(plainValue(field, before), plainValue(field, after)), nil
}

// plainValue returns a value without what makes no difference: the order of a list, the zone of a time and how a
// number is written.
func plainValue(field string, v any) any {
	switch v := v.(type) {
	case json.Number:
		n, err := v.Float64()
		if err != nil {
			return v
		}
		return n
	case string:
		if t, err := clock.ParseTime(v); err == nil && strings.HasSuffix(field, "_at") {
			return *Seconds(t)
		}
	case []any:
		list := slices.Clone(v)
		sorted.Func(list, func(a, b any) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
		return slices.CompactFunc(list, func(a, b any) bool { return reflect.DeepEqual(a, b) })
	case map[string]any:
		plain := map[string]any{}
		for name, value := range v {
			plain[name] = plainValue(name, value)
		}
		return plain
	}
	return v
}

// differences returns the fields in which two states of a record differ, in alphabetical order.
func differences(before, after map[string]any) ([]applyDiff, error) {
	was, err1 := flat(before)
	now, err2 := flat(after)
	list := []applyDiff{}
	for name := range maps.Keys(was) {
		if !reflect.DeepEqual(was[name], now[name]) {
			list = append(list, applyDiff{name, was[name], now[name]})
		}
	}
	for name := range maps.Keys(now) {
		if _, both := was[name]; !both {
			list = append(list, applyDiff{name, nil, now[name]})
		}
	}
	sorted.Func(list, func(a, b applyDiff) int { return strings.Compare(a.Field, b.Field) })
	return list, errors.Join(err1, err2)
}

// flat returns the fields of a record as decoded from JSON, with the members of objects as fields such as
// "limits.NAME".
func flat(fields map[string]any) (map[string]any, error) {
	all := map[string]any{}
	for name, v := range fields {
		v, err := decoded(v)
		if err != nil {
			return nil, err
		}
		members, ok := v.(map[string]any)
		if !ok {
			all[name] = v
		}
		for member, value := range members {
			all[name+"."+member] = value
		}
	}
	return all, nil
}

// explain adds the mistakes of an entry. err is the first that was found; each field is then checked alone, in a
// record that has nothing else but samples, so that all mistakes of the entry are named at once. was is nil for a new record.
func (run *applyRun) explain(kind *applyKind, row int, body *Body, err error, was *applied) error {
	first, ok := errors.AsType[*Error](err)
	if !ok || first.Status >= http.StatusInternalServerError {
		return err
	}
	base := &Body{}
	for _, f := range kind.fields {
		switch {
		case f.shared && body.Has(f.name):
			base = base.Replaced(f.name, body.Raw(f.name))
		case f.sample != "":
			base = base.Replaced(f.name, json.RawMessage(f.sample))
		}
	}
	without, told := kind.check(run.tx, run.request, base), map[string]bool{}
	try := func(field string, candidate *Body) error {
		err := kind.check(run.tx, run.request, candidate)
		if err == nil {
			return nil
		}
		message := Public(err).Message
		if told[message] || without != nil && message == Public(without).Message {
			return nil // no mistake of this field alone
		}
		told[message] = true
		return run.fault(applyFault{Kind: kind.name, Row: row, Field: field}, err)
	}
	for _, f := range kind.fields {
		raw := body.Raw(f.name)
		switch {
		case raw == nil && (f.sample == "" || was != nil) || f.shared:
			continue
		case raw == nil:
			if err := try(f.name, base.Replaced(f.name, nil)); err != nil {
				return err
			}
			continue
		}
		for _, part := range valueParts(f.name, raw) {
			if err := try(part.name, base.Replaced(f.name, part.value)); err != nil {
				return err
			}
		}
	}
	if told[first.Message] {
		return nil
	}
	var field any
	if name := first.Message[:max(0, strings.IndexAny(first.Message+" ", " .:["))]; slices.ContainsFunc(kind.fields, func(f applyField) bool { return f.name == name }) {
		field = name
	}
	return run.fault(applyFault{Kind: kind.name, Row: row, Field: field}, first)
}

// namedPart is a part of the value of a field that can be checked alone.
type namedPart struct {
	name  string
	value json.RawMessage
}

// valueParts returns the members of an object, each as an object of its own, or else the value itself.
func valueParts(field string, raw json.RawMessage) (list []namedPart) {
	members, err := strictjson.Object(raw)
	if err != nil || len(members) == 0 {
		return []namedPart{{field, raw}}
	}
	for _, name := range slices.Sorted(maps.Keys(members)) {
		one, err := strictjson.Encode(map[string]json.RawMessage{name: members[name]})
		if err != nil {
			return []namedPart{{field, raw}}
		}
		list = append(list, namedPart{field + "." + name, one})
	}
	return list
}
