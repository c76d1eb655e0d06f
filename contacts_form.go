package main

import (
	"bytes"
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Limits for one contact. Without them, requests that only add could make a
// record grow without end.
const (
	maxPhones = 100
	maxTags   = 100
)

// maxTag is the maximum length of a tag or of a select option, in bytes.
const maxTag = 200

// Values is a JSON object with any keys. Its numbers keep the digits that they
// were sent with, even after they are stored and read again.
type Values map[string]any

// UnmarshalJSON reads numbers as json.Number, so that no digit is lost.
func (v *Values) UnmarshalJSON(data []byte) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	var m map[string]any
	if err := dec.Decode(&m); err != nil {
		return err
	}
	*v = m
	return nil
}

// Phone is one phone number of a contact. Its id is unique across all contacts.
type Phone struct {
	ID          uint64    `json:"id"`
	PhoneNumber string    `json:"phone_number"`
	PhoneType   string    `json:"phone_type,omitempty"`
	Primary     bool      `json:"primary,omitempty"`
	DoNotCall   bool      `json:"do_not_call,omitempty"`
	DNCDate     time.Time `json:"dnc_date,omitzero"`
	DNCReason   string    `json:"dnc_reason,omitempty"`
}

// contactForm holds the contact fields of a request body. They are checked, but
// not yet compared with the stored contact.
type contactForm struct {
	// Texts holds the string fields that the form sets, by name.
	Texts    map[string]string
	Team     uint64
	Tags     []string
	Industry Values

	method string
	body   *Body
	custom Values
	phones []phoneEntry
}

// phoneEntry is one entry of phone_numbers in a body.
type phoneEntry struct {
	body  *Body
	phone Phone
}

// contactTexts returns the string fields and the default of each. The default
// is used if POST or PUT omits the field, or if any method sends null.
func contactTexts() []struct{ name, standard string } {
	return []struct{ name, standard string }{
		{"first_name", ""}, {"last_name", ""}, {"email", ""}, {"company", ""}, {"website", ""},
		{"address", ""}, {"city", ""}, {"state", ""}, {"zip_code", ""}, {"country", "US"},
		{"status", "not_contacted"}, {"stage", "lead"}, {"timezone", "UTC"},
	}
}

// readContactForm reads a body that creates (POST), replaces (PUT) or changes
// (PATCH) a contact. In POST and PUT an omitted field counts as sent with its
// default. It returns ErrMissingFirstName or ErrValidation if the body is
// wrong.
func readContactForm(b *Body, method string) (*contactForm, error) {
	f := &contactForm{Texts: map[string]string{}, Tags: []string{}, method: method, body: b}
	if f.Sent("first_name") && !b.Given("first_name") {
		return nil, ErrMissingFirstName
	}
	var tags []string
	var custom, industry map[string]any
	for _, text := range contactTexts() {
		f.readText(text.name, text.standard)
	}
	b.ID("team_id", &f.Team)
	b.Strings("tags", &tags)
	b.Map("custom_context", &custom)
	b.Map("industry_context", &industry)
	f.custom, f.Industry = custom, industry
	entries := b.Bodies("phone_numbers")
	if err := b.Err(); err != nil {
		return nil, err
	}
	if err := f.checkTexts(); err != nil {
		return nil, err
	}
	if err := f.readTags(tags); err != nil {
		return nil, err
	}
	return f, f.readPhones(entries)
}

// Sent reports whether the form sets a field. POST and PUT set every field,
// PATCH only those in the body.
func (f *contactForm) Sent(name string) bool {
	return f.method != http.MethodPatch || f.body.Has(name)
}

// readText adds a string field to Texts if the form sets it.
func (f *contactForm) readText(name, standard string) {
	if !f.Sent(name) {
		return
	}
	value := standard
	if f.body.Given(name) {
		f.body.String(name, &value)
	}
	f.Texts[name] = value
}

// checkTexts checks the string fields that have a fixed format.
func (f *contactForm) checkTexts() error {
	if name, sent := f.Texts["first_name"]; sent && strings.TrimSpace(name) == "" {
		return ErrMissingFirstName.With("first_name is empty. Every contact needs one.")
	}
	if email := f.Texts["email"]; email != "" && !plausibleEmail(email) {
		return ErrValidation.With("email must be an address such as mara@example.net; got %q.", email)
	}
	for _, name := range []string{"status", "stage"} {
		if word, sent := f.Texts[name]; sent && !lowerWord(word) {
			return ErrValidation.With("%s must be made of lower-case letters, digits and underscores, such as qualified_lead; got %q.", name, word)
		}
	}
	if zone, sent := f.Texts["timezone"]; sent && !knownZone(zone) {
		return ErrValidation.With("timezone must be an IANA name such as Europe/Berlin; got %q.", zone)
	}
	return nil
}

// plausibleEmail catches typing errors. Only a delivered mail proves that an
// address works.
func plausibleEmail(s string) bool {
	user, host, _ := strings.Cut(s, "@")
	return user != "" && host != "" && !strings.Contains(host, "@") && !strings.ContainsAny(s, " \t\r\n")
}

func lowerWord(s string) bool {
	return s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789_") == ""
}

func knownZone(name string) bool {
	// LoadLocation also accepts "" (UTC) and "Local" (the zone of this machine).
	if name == "" || name == "Local" {
		return false
	}
	_, err := time.LoadLocation(name)
	return err == nil
}

// readTags checks the tags and stores each of them once.
func (f *contactForm) readTags(tags []string) error {
	if len(tags) > maxTags {
		return ErrValidation.With("tags has %d entries; a contact has at most %d.", len(tags), maxTags)
	}
	for i, tag := range tags {
		if strings.TrimSpace(tag) == "" || len(tag) > maxTag || strings.ContainsRune(tag, 0) {
			return ErrValidation.With("tags[%d] must be a text of 1 to %d bytes.", i, maxTag)
		}
		if !slices.Contains(f.Tags, tag) {
			f.Tags = append(f.Tags, tag)
		}
	}
	return nil
}

func (f *contactForm) readPhones(entries []*Body) error {
	if len(entries) > maxPhones {
		return errPhones()
	}
	for i, b := range entries {
		e := phoneEntry{body: b}
		// A client that copies a contact also sends the old ids. POST ignores
		// them: a new contact gets new ids.
		if f.method != http.MethodPost {
			b.ID("id", &e.phone.ID)
		}
		b.String("phone_number", &e.phone.PhoneNumber)
		b.String("phone_type", &e.phone.PhoneType)
		b.Bool("primary", &e.phone.Primary)
		b.Bool("do_not_call", &e.phone.DoNotCall)
		b.String("dnc_reason", &e.phone.DNCReason)
		if err := b.Err(); err != nil {
			return ErrValidation.With("phone_numbers[%d].%s", i, Public(err).Message)
		}
		if !b.Given("phone_number") {
			return ErrValidation.With("phone_numbers[%d].phone_number is missing.", i)
		}
		if !ValidPhone(e.phone.PhoneNumber) {
			return ErrValidation.With("phone_numbers[%d].phone_number must be an E.164 number such as +4930555044; got %q.", i, e.phone.PhoneNumber)
		}
		f.phones = append(f.phones, e)
	}
	return nil
}

func errPhones() error {
	return ErrValidation.With("phone_numbers: a contact has at most %d numbers.", maxPhones)
}

// Custom returns the custom context after the form is applied to old, which it
// does not change. PATCH merges keys, POST and PUT replace all of them. A key
// with the value null is removed; null instead of the object removes all keys.
func (f *contactForm) Custom(old Values) Values {
	if !f.Sent("custom_context") {
		return old
	}
	merged := Values{}
	if f.method == http.MethodPatch && f.body.Given("custom_context") {
		maps.Copy(merged, old)
	}
	maps.Copy(merged, f.custom)
	maps.DeleteFunc(merged, func(_ string, v any) bool { return v == nil })
	return merged
}

// Phones returns the phone numbers after the form is applied to old, which it
// does not change. It calls next for the id of each new number. It returns
// ErrValidation if an id is not in old or appears twice, or if the contact
// would have more than maxPhones numbers.
func (f *contactForm) Phones(old []Phone, now time.Time, next func() (uint64, error)) ([]Phone, error) {
	if !f.Sent("phone_numbers") {
		return old, nil
	}
	list, primary := []Phone{}, -1
	if f.method == http.MethodPatch {
		list = slices.Clone(old)
	}
	used := map[uint64]bool{}
	for i, e := range f.phones {
		id := e.phone.ID
		was := slices.IndexFunc(old, func(p Phone) bool { return p.ID == id })
		if id != 0 && (was < 0 || used[id]) {
			return nil, ErrValidation.With("phone_numbers[%d].id: this contact has no number with the id %d, or it appears here twice.", i, id)
		}
		used[id] = true
		at := len(list)
		switch {
		case id != 0 && f.method == http.MethodPatch:
			at, list[was] = was, e.change(old[was], now)
		case id != 0:
			list = append(list, e.change(Phone{ID: id, DNCDate: old[was].DNCDate}, now))
		default:
			list = append(list, e.change(Phone{}, now))
		}
		if e.phone.Primary && primary < 0 {
			primary = at
		}
	}
	if len(list) > maxPhones {
		return nil, errPhones()
	}
	setPrimary(list, primary)
	for i := range list {
		if list[i].ID != 0 {
			continue
		}
		var err error
		if list[i].ID, err = next(); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// change returns p with the fields of the entry. now is the new DNCDate if the
// number has just become do_not_call.
func (e phoneEntry) change(p Phone, now time.Time) Phone {
	p.PhoneNumber = e.phone.PhoneNumber
	if e.body.Has("phone_type") {
		p.PhoneType = e.phone.PhoneType
	}
	if e.body.Has("primary") {
		p.Primary = e.phone.Primary
	}
	if e.body.Has("do_not_call") {
		p.DoNotCall = e.phone.DoNotCall
	}
	if e.body.Has("dnc_reason") {
		p.DNCReason = e.phone.DNCReason
	}
	switch {
	case !p.DoNotCall:
		p.DNCDate, p.DNCReason = time.Time{}, ""
	case p.DNCDate.IsZero():
		p.DNCDate = now
	}
	return p
}

// setPrimary makes exactly one number primary: the one at index chosen. If
// chosen is negative it is the first primary number, or else the first number.
func setPrimary(list []Phone, chosen int) {
	if chosen < 0 {
		chosen = max(0, slices.IndexFunc(list, func(p Phone) bool { return p.Primary }))
	}
	for i := range list {
		list[i].Primary = i == chosen
	}
}

// contactColumns returns the columns of a CSV import.
func contactColumns() []string {
	return []string{
		"first_name", "last_name", "email", "company", "website", "address", "city", "state", "zip_code", "country",
		"status", "stage", "timezone", "team_id", "tags", "phone", "phone_type", "do_not_call", "owner",
	}
}

// contactRow turns one line of CSV, by column, into the fields of a request
// body. phone is the only number; tags are separated by semicolons. It returns
// ErrValidation if a cell is wrong.
func contactRow(cells map[string]string) (map[string]any, error) {
	fields, phone := map[string]any{}, map[string]any{}
	for name, cell := range cells {
		switch name {
		case "phone":
			phone["phone_number"] = cell
		case "phone_type":
			phone["phone_type"] = cell
		case "do_not_call":
			stop, err := strconv.ParseBool(strings.ToLower(cell))
			if err != nil {
				return nil, ErrValidation.With("do_not_call must be true or false; got %q.", cell)
			}
			phone["do_not_call"] = stop
		case "team_id":
			id, err := strconv.ParseUint(cell, 10, 63)
			if err != nil {
				return nil, ErrValidation.With("team_id must be a whole number from 1; got %q.", cell)
			}
			fields["team_id"] = id
		case "tags":
			fields["tags"] = csvTags(cell)
		default:
			fields[name] = cell
		}
	}
	if cells["phone"] != "" {
		fields["phone_numbers"] = []any{phone}
	} else if phone["do_not_call"] == true {
		return nil, ErrValidation.With("do_not_call is true, but phone is empty.")
	}
	return fields, nil
}

// csvTags splits a cell at its semicolons and drops empty tags.
func csvTags(cell string) []string {
	tags := []string{}
	for tag := range strings.SplitSeq(cell, ";") {
		if tag = strings.TrimSpace(tag); tag != "" {
			tags = append(tags, tag)
		}
	}
	return tags
}
