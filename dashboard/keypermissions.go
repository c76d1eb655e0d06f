package dashboard

import (
	"net/http"
	"slices"
	"strings"
)

// keyChoice is a permission in a form.
type keyChoice struct {
	Name, Description, Label string
	Chosen                   bool
}

// keyGroup is a group of permissions in a form.
type keyGroup struct {
	Name    string
	Choices []keyChoice
}

// keyNumber is a limit in a form. An empty Value means the default.
type keyNumber struct {
	Name, Label string
	Default     int
	Least       int // 0 or 1
	Value       string
	Fault       string // error about the limit; "" if there is none
	Recorded    bool   // it can be tried on past requests
}

// keyPreset is a button that ticks some permissions. Permissions holds their names, separated by
// spaces. Word is the name of the preset in an address.
type keyPreset struct{ Name, Word, Permissions string }

// permissions holds the permissions and presets that the admin endpoint offers.
type permissions struct {
	all     []permission
	presets []keyPreset
}

// permission is a permission as the admin endpoint describes it.
type permission struct {
	name, label, about, group string
	limits                    []string // names of the limits on requests that need the permission
}

// readPermissions reads the permissions and presets from the admin endpoint.
func readPermissions(v *pageRequest) (p permissions, e *Fault) {
	answer, e := v.call(http.MethodGet, "/admin/v1/permissions", nil)
	if e != nil {
		return p, e
	}
	rows, _ := answer["permissions"].([]any)
	for _, row := range rows {
		r, _ := row.(map[string]any)
		p.all = append(p.all, permission{textOf(r["name"]), textOf(r["label"]), textOf(r["description"]), textOf(r["group"]), texts(r["limits"])})
	}
	rows, _ = answer["presets"].([]any)
	for _, row := range rows {
		r, _ := row.(map[string]any)
		p.presets = append(p.presets, keyPreset{textOf(r["label"]), textOf(r["name"]), strings.Join(texts(r["permissions"]), " ")})
	}
	return p, nil
}

// groups returns the permissions in groups, with those in chosen ticked. The groups are in the
// order of their first permissions.
func (p permissions) groups(chosen []string) (groups []keyGroup) {
	for _, one := range p.all {
		i := slices.IndexFunc(groups, func(g keyGroup) bool { return g.Name == one.group })
		if i < 0 {
			i, groups = len(groups), append(groups, keyGroup{Name: one.group})
		}
		groups[i].Choices = append(groups[i].Choices, keyChoice{one.name, one.about, one.label, slices.Contains(chosen, one.name)})
	}
	return groups
}

// groupsOf does the same as groups, but adds a group for the permissions in chosen that the
// configuration does not define. Otherwise a form would lose them although nobody changed them.
func (p permissions) groupsOf(chosen []string) []keyGroup {
	other := keyGroup{Name: "Not in the configuration"}
	for _, name := range chosen {
		if !slices.ContainsFunc(p.all, func(one permission) bool { return one.name == name }) {
			other.Choices = append(other.Choices, keyChoice{name, "has no effect until the configuration defines it", name, true})
		}
	}
	if len(other.Choices) == 0 {
		return p.groups(chosen)
	}
	return append(p.groups(chosen), other)
}

// label returns the label of a permission, or name if the permission is unknown.
func (p permissions) label(name string) string {
	for _, one := range p.all {
		if one.name == name {
			return one.label
		}
	}
	return name
}

// unused reports whether a key with the permissions held can never use a limit. That is so if the
// limit counts only requests that need a permission which is not in held.
func (p permissions) unused(limit string, held []string) bool {
	return slices.ContainsFunc(p.all, func(one permission) bool {
		return slices.Contains(one.limits, limit) && !slices.Contains(held, one.name)
	})
}

// keyNumbers returns the limits of keys for a form. list is the list of limits in the admin
// endpoint's answer. value returns the text in the field of a limit, by the limit's name.
func keyNumbers(list any, value func(name string) string) (numbers []keyNumber) {
	rows, _ := list.([]any)
	for _, l := range rows {
		row, _ := l.(map[string]any)
		if row["scope"] == "owner" { // such a limit is shared by all keys of an owner
			continue
		}
		name, _ := row["name"].(string)
		standard := numberOf(row["default"])
		least := 1
		if row["kind"] == kindConcurrent {
			least = 0 // no limit
		}
		numbers = append(numbers, keyNumber{Name: name, Label: limitLabel(name), Default: int(standard), Least: least, Value: value(name), Recorded: row["recorded"] == true})
	}
	return numbers
}
