package main

import (
	"slices"
	"strings"
)

// Section is an entry of the navigation, in a group of entries. Groups stand in
// the order in which they are first named.
type Section struct{ Group, Name, Path string }

// NavGroup is a group of entries as a page shows it.
type NavGroup struct {
	Name    string
	Entries []NavEntry
}

// NavEntry is a section as a page shows it; Here on the section's own pages.
type NavEntry struct {
	Name, Path string
	Here       bool
}

// Navigation groups the sections for a page at a path.
func Navigation(sections []Section, at string) (groups []NavGroup) {
	for _, s := range sections {
		i := slices.IndexFunc(groups, func(g NavGroup) bool { return g.Name == s.Group })
		if i < 0 {
			i, groups = len(groups), append(groups, NavGroup{Name: s.Group})
		}
		here := at == s.Path || strings.HasPrefix(at, s.Path+"/")
		groups[i].Entries = append(groups[i].Entries, NavEntry{s.Name, s.Path, here})
	}
	return groups
}
