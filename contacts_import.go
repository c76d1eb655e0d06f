package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"latchkey/internal/fold"
)

// The values of update_by: what a row of an import and a contact of the same owner have in common.
const (
	byEmail = "email"
	byPhone = "phone"
)

// contactMark is an e-mail address or a phone number of an owner's contact. Addresses are folded,
// because no common mail system distinguishes upper and lower case, on either side of the @.
type contactMark struct {
	owner     uint64
	by, value string
}

// marks returns the addresses and numbers of a contact.
func (c contact) marks() (list []contactMark) {
	if c.Email != "" {
		list = append(list, contactMark{c.Owner, byEmail, fold.Text(c.Email)})
	}
	for _, p := range c.PhoneNumbers {
		list = append(list, contactMark{c.Owner, byPhone, p.PhoneNumber})
	}
	return list
}

// contactMatcher finds the contacts that rows of an import may mean. It keeps only what the rows
// mention, so its memory is bounded by the size of the file.
type contactMatcher struct {
	// bearers has an entry for each mark in the rows: the lowest ids of the contacts that have it, at
	// most two.
	bearers map[contactMark][]uint64
	rows    map[uint64]*ImportRow // the first row that created or updated a contact, by the contact's id
	marks   map[*ImportRow][]contactMark
}

// newContactMatcher returns a matcher for the rows. It reads each contact of their owners once if
// the rows have addresses, and the contacts with their numbers through the index.
func newContactMatcher(tx *Tx, r *Request, rows []*ImportRow) (*contactMatcher, error) {
	m := &contactMatcher{map[contactMark][]uint64{}, map[uint64]*ImportRow{}, map[*ImportRow][]contactMark{}}
	owners, mailed, phones := map[string]uint64{}, map[uint64]bool{}, map[string]bool{}
	for _, row := range rows {
		marked, ok, err := readMarks(tx, r, row, owners)
		if err != nil {
			return nil, err
		}
		if !ok {
			continue // loadContacts refuses the row
		}
		m.marks[row] = marked.marks()
		for _, mark := range m.marks[row] {
			m.bearers[mark] = nil
			if mark.by == byEmail {
				mailed[mark.owner] = true
			} else {
				phones[mark.value] = true
			}
		}
	}
	for owner := range mailed {
		ids, err := contactTable.IDs(tx, Scope{Owner: owner}.Query(ContactRecord, Query{}))
		if err != nil {
			return nil, err
		}
		for _, id := range ids {
			if err := m.read(tx, IDKey(id)); err != nil {
				return nil, err
			}
		}
	}
	for phone := range phones {
		for _, key := range contactTable.Find(tx, "phone", phoneKey(phone), Forward) {
			if err := m.read(tx, key); err != nil {
				return nil, err
			}
		}
	}
	return m, nil
}

// readMarks returns a contact that has only the owner, the address and the numbers of a row. ok is
// false if the row is not that of a valid contact. owners has the ids of the owners seen before, by
// name.
func readMarks(tx *Tx, r *Request, row *ImportRow, owners map[string]uint64) (c contact, ok bool, err error) {
	if row.Fault != nil {
		return c, false, nil
	}
	form, err := readContactForm(row.Body, http.MethodPatch)
	if err != nil {
		return c, false, nil
	}
	name := ""
	row.String("owner", NameLength, &name)
	if row.Err() != nil {
		return c, false, nil
	}
	id, known := owners[name]
	if !known {
		o, err := EnsureOwner(tx, name, r.Now)
		if _, bad := errors.AsType[*Error](err); bad {
			return c, false, nil
		}
		if err != nil {
			return c, false, err
		}
		id, owners[name] = o.ID, o.ID
	}
	c.Owner, c.Email = id, form.Texts["email"]
	for _, e := range form.phones {
		c.PhoneNumbers = append(c.PhoneNumbers, e.phone)
	}
	return c, true, nil
}

// read adds the stored contact under key.
func (m *contactMatcher) read(tx *Tx, key []byte) error {
	c, err := contactTable.Get(tx, IDKey(binary.BigEndian.Uint64(key)))
	if err == nil {
		m.add(c)
	}
	return err
}

// add adds a contact to the bearers of its marks.
func (m *contactMatcher) add(c contact) {
	for _, mark := range c.marks() {
		ids, wanted := m.bearers[mark]
		if !wanted || slices.Contains(ids, c.ID) {
			continue
		}
		ids = append(slices.Clone(ids), c.ID)
		slices.Sort(ids)
		m.bearers[mark] = ids[:min(len(ids), 2)]
	}
}

// remove takes a contact off the bearers of its marks, before its marks change.
func (m *contactMatcher) remove(c contact) {
	for _, mark := range c.marks() {
		if ids, wanted := m.bearers[mark]; wanted {
			m.bearers[mark] = slices.DeleteFunc(slices.Clone(ids), func(id uint64) bool { return id == c.ID })
		}
	}
}

// target returns the contact that a row updates, or nil if the row creates one. It returns
// ErrConflict if several contacts have the address or one of the numbers of the row.
func (m *contactMatcher) target(tx *Tx, row *ImportRow, by string) (*contact, error) {
	var ids []uint64
	for _, mark := range m.marks[row] {
		if mark.by == by {
			ids = append(ids, m.bearers[mark]...)
		}
	}
	slices.Sort(ids)
	switch ids = slices.Compact(ids); len(ids) {
	case 0:
		return nil, nil
	case 1:
		c, err := contactTable.Get(tx, IDKey(ids[0]))
		return &c, err
	}
	return nil, ErrConflict.With("%s is that of several contacts, such as %d and %d. Change one of them, or take the row out of the file.", by, ids[0], ids[1])
}

// twin returns the contact other than id that has an address or a number of the row, and by which of
// them. It returns 0 if there is none. If there are several, it returns the oldest.
func (m *contactMatcher) twin(row *ImportRow, id uint64) (other uint64, by []string) {
	for _, mark := range m.marks[row] {
		for _, bearer := range m.bearers[mark] {
			if bearer != id && (other == 0 || bearer < other) {
				other = bearer
			}
		}
	}
	for _, mark := range m.marks[row] {
		if other != 0 && slices.Contains(m.bearers[mark], other) && !slices.Contains(by, mark.by) {
			by = append(by, mark.by)
		}
	}
	return other, by
}

// loadContacts stores the rows of an import in their order. With b.UpdateBy a row updates the
// contact of its owner that has its address or number. Rows that have those of another contact are
// recorded as duplicates, and with b.Skip left out.
func loadContacts(tx *Tx, r *Request, b *ImportBatch) error {
	m, err := newContactMatcher(tx, r, b.Rows)
	if err != nil {
		return err
	}
	for _, row := range b.Rows {
		if row.Fault != nil {
			continue
		}
		if err := row.Refuse(m.store(tx, r, b, row)); err != nil {
			return err
		}
	}
	return nil
}

// store creates or updates the contact of a row.
func (m *contactMatcher) store(tx *Tx, r *Request, b *ImportBatch, row *ImportRow) error {
	old, err := m.target(tx, row, b.UpdateBy)
	if err != nil {
		return err
	}
	if b.Skip {
		if other, by := m.twin(row, 0); other != 0 {
			m.skip(b, row, other, by)
			return nil
		}
	}
	method := http.MethodPost
	if old != nil {
		method, row.Updates = http.MethodPatch, old.ID
	}
	form, err := readContactForm(row.Body, method)
	if err != nil {
		return err
	}
	if old != nil {
		form.keepPhones(old.PhoneNumbers)
		m.remove(*old)
	}
	c, err := form.save(tx, r, old)
	if err != nil {
		return err
	}
	row.Name = c.FullName()
	other, by := m.twin(row, c.ID)
	if m.rows[c.ID] != nil {
		other, by = c.ID, []string{b.UpdateBy}
	}
	if other != 0 {
		m.report(b, row, map[string]any{"contact_id": other, "other_row": nil, "by": by})
	}
	m.add(c)
	if m.rows[c.ID] == nil {
		m.rows[c.ID] = row
	}
	return nil
}

// skip leaves out a row that has an address or a number of the contact other.
func (m *contactMatcher) skip(b *ImportBatch, row *ImportRow, other uint64, by []string) {
	if form, err := readContactForm(row.Body, http.MethodPatch); err == nil { // as in readMarks
		row.Name = contact{FirstName: form.Texts["first_name"], LastName: form.Texts["last_name"]}.FullName()
	}
	same := strings.Join(by, " and ")
	if earlier := m.rows[other]; earlier != nil {
		row.Skipped = fmt.Sprintf("It has the same %s as row %d.", same, earlier.Number)
	} else {
		row.Skipped = fmt.Sprintf("It has the same %s as contact %d.", same, other)
	}
	m.report(b, row, map[string]any{"contact_id": other, "other_row": nil, "by": by})
}

// report records a duplicate, with the number of the row that created or updated its contact before.
// A contact that a dry run creates has no id.
func (m *contactMatcher) report(b *ImportBatch, row *ImportRow, fields map[string]any) {
	id, _ := fields["contact_id"].(uint64)
	if earlier := m.rows[id]; earlier != nil {
		fields["other_row"] = earlier.Number
		if b.Dry && earlier.Updates == 0 {
			fields["contact_id"] = nil
		}
	}
	b.Duplicate(row, fields)
}

// keepPhones makes each number in the form that the contact has already change that number, where it
// would otherwise be added again. old are the numbers of the contact.
func (f *contactForm) keepPhones(old []Phone) {
	taken := map[uint64]bool{}
	for _, e := range f.phones {
		taken[e.phone.ID] = true
	}
	for i := range f.phones {
		e := &f.phones[i].phone
		at := slices.IndexFunc(old, func(p Phone) bool { return p.PhoneNumber == e.PhoneNumber && !taken[p.ID] })
		if e.ID == 0 && at >= 0 {
			e.ID = old[at].ID
			taken[e.ID] = true
		}
	}
}
