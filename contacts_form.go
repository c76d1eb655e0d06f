package main

import (
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"latchkey/internal/clock"
	"latchkey/internal/strictjson"
)

// Values is a JSON object with arbitrary keys. Its numbers keep every digit
// that the client sent, even after they are stored and read again.
type Values map[string]any

// UnmarshalJSON decodes a JSON object. It decodes numbers as json.Number, so
// that no digit is lost.
func (v *Values) UnmarshalJSON(data []byte) error {
	var m map[string]any
	if err := strictjson.Decode(data, &m); err != nil {
		return err
	}
	*v = m
	return nil
}

// AppendJSON appends the object.
func (v Values) AppendJSON(data []byte) ([]byte, error) {
	return strictjson.Append(data, map[string]any(v))
}

// CheckValues returns ErrValidation if after has more values than Bounds.ContextValues or is larger than
// Bounds.ContextBytes, and is also beyond before, which it replaces. field is what the message calls
// it. The bounds apply to the operator too.
func CheckValues(tx *Tx, field string, before, after Values) error {
	most := tx.Bounds.ContextValues
	if most > 0 && len(after) > most && len(after) > len(before) {
		return ErrValidation.With("%s would have %s values; the maximum is %s (context_values). Remove some first by setting them to null.",
			field, Figure(len(after)), Figure(most))
	}
	size, err := after.size()
	if most = tx.Bounds.ContextBytes; err != nil || most == 0 || size <= most {
		return err
	}
	if was, err := before.size(); err != nil || size <= was {
		return err
	}
	return ErrValidation.With("%s would be %s bytes of JSON; the maximum is %s (context_bytes). Shorten values, or remove some first by setting them to null.",
		field, Figure(size), Figure(most))
}

// size returns the length of the values as JSON, in bytes.
func (v Values) size() (int, error) {
	data, err := json.Marshal(v)
	return len(data), err
}

// Phone is one phone number of a contact. Its id is unique across all contacts.
type Phone struct {
	ID          uint64    `json:"id"`
	PhoneNumber string    `json:"phone_number"`
	PhoneType   string    `json:"phone_type,omitempty"`
	Primary     bool      `json:"primary,omitempty"` // the number to call first
	DoNotCall   bool      `json:"do_not_call,omitempty"`
	DNCDate     time.Time `json:"dnc_date,omitzero"` // when DoNotCall was set, zero if it is not set
	DNCReason   string    `json:"dnc_reason,omitempty"`
}

// contactForm holds the contact fields of a request body. Their formats are
// checked. The ids of phone numbers are not: Phones compares them with the
// stored contact.
type contactForm struct {
	// Texts holds the values of the string fields that the form sets, by field
	// name.
	Texts    map[string]string
	Team     uint64 // 0 for no team
	Tags     []string
	Industry Values

	method string
	body   *Body
	custom Values
	phones []phoneEntry
}

// phoneEntry is one entry of phone_numbers in a request body.
type phoneEntry struct {
	body  *Body
	phone Phone
}

// contactText is a string field of a contact. It gets the value standard if POST or
// PUT omits it, or if the body sets it to null.
type contactText struct {
	name     string
	most     int // largest length, in characters
	standard string
}

// contactTexts returns the string fields.
func contactTexts() []contactText {
	return []contactText{
		{"first_name", NameLength, ""}, {"last_name", NameLength, ""}, {"email", EmailLength, ""}, {"company", NameLength, ""}, {"website", URLLength, ""},
		{"address", LineLength, ""}, {"city", NameLength, ""}, {"state", NameLength, ""}, {"zip_code", WordLength, ""}, {"country", NameLength, "US"},
		{"status", WordLength, "not_contacted"}, {"stage", WordLength, "lead"}, {"timezone", AnyLength, "UTC"},
	}
}

// readContactForm reads the body of a request that creates (POST), replaces
// (PUT) or changes (PATCH) a contact. POST and PUT set every field and use the
// default for a field that the body omits. readContactForm returns
// ErrMissingFirstName if the first name is missing or empty, and ErrValidation
// if another value is wrong.
func readContactForm(b *Body, method string) (*contactForm, error) {
	f := &contactForm{Texts: map[string]string{}, Tags: []string{}, method: method, body: b}
	if f.Sent("first_name") && !b.Given("first_name") {
		return nil, ErrMissingFirstName
	}
	var tags []string
	var custom, industry map[string]any
	for _, text := range contactTexts() {
		f.readText(text)
	}
	b.ID("team_id", &f.Team)
	b.Strings("tags", ListBound{MaxTags, NameLength}, &tags)
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

// Sent reports whether the form sets the field called name. POST and PUT set
// every field. PATCH sets only the fields in the body.
func (f *contactForm) Sent(name string) bool {
	return f.method != http.MethodPatch || f.body.Has(name)
}

// readText adds a string field to Texts if the form sets it.
func (f *contactForm) readText(text contactText) {
	if !f.Sent(text.name) {
		return
	}
	value := text.standard
	if f.body.Given(text.name) {
		f.body.String(text.name, text.most, &value)
	}
	f.Texts[text.name] = value
}

// checkTexts checks the formats of first_name, email, status, stage and
// timezone if the form sets them.
func (f *contactForm) checkTexts() error {
	if name, sent := f.Texts["first_name"]; sent && strings.TrimSpace(name) == "" {
		return ErrMissingFirstName.With("first_name is empty. Every contact needs a first name.")
	}
	if email := f.Texts["email"]; email != "" && !plausibleEmail(email) {
		return ErrValidation.With("email must be an address such as mara@example.net; got %q.", email)
	}
	for _, name := range []string{"status", "stage"} {
		if word, sent := f.Texts[name]; sent && !lowerWord(word) {
			return ErrValidation.With("%s must consist of lower-case letters, digits and underscores, such as qualified_lead; got %q.", name, word)
		}
	}
	if zone, sent := f.Texts["timezone"]; sent {
		if _, err := clock.Zone(zone); err != nil {
			return ErrValidation.With("timezone must be an IANA name such as Europe/Berlin; got %q.", zone)
		}
	}
	return nil
}

// plausibleEmail reports whether s looks like an email address. It catches
// typing errors, but does not check that the address exists.
func plausibleEmail(s string) bool {
	user, host, _ := strings.Cut(s, "@")
	return user != "" && host != "" && !strings.Contains(host, "@") && !strings.ContainsAny(s, " \t\r\n")
}

func lowerWord(s string) bool {
	return s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789_") == ""
}

// readTags stores tags in f.Tags without duplicates. It returns ErrValidation if a
// tag is blank.
func (f *contactForm) readTags(tags []string) error {
	for i, tag := range tags {
		if strings.TrimSpace(tag) == "" {
			return ErrValidation.With("tags[%d] must not be blank.", i)
		}
		if !slices.Contains(f.Tags, tag) {
			f.Tags = append(f.Tags, tag)
		}
	}
	return nil
}

func (f *contactForm) readPhones(entries []*Body) error {
	if len(entries) > MaxPhones {
		return errPhones()
	}
	for i, b := range entries {
		e := phoneEntry{body: b}
		// A client that copies a contact also sends the ids of its phone numbers.
		// POST ignores these ids, because the numbers of the copy get new ones.
		if f.method != http.MethodPost {
			b.ID("id", &e.phone.ID)
		}
		b.String("phone_number", AnyLength, &e.phone.PhoneNumber)
		b.String("phone_type", WordLength, &e.phone.PhoneType)
		b.Bool("primary", &e.phone.Primary)
		b.Bool("do_not_call", &e.phone.DoNotCall)
		b.String("dnc_reason", ReasonLength, &e.phone.DNCReason)
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
	return ErrValidation.With("phone_numbers: a contact can have at most %d numbers.", MaxPhones)
}

// Custom returns the custom context after the form is applied to old. It does
// not change old. PATCH keeps the old keys that the form does not mention. POST
// and PUT remove them. A key with the value null is removed. If custom_context
// itself is null, all keys are removed.
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

// Phones returns the phone numbers after the form is applied to old. It does
// not change old. It calls newID to get the id of each new number. It returns
// ErrValidation if an id in the form is not in old or appears twice, or if the
// contact would have more than MaxPhones numbers.
func (f *contactForm) Phones(old []Phone, now time.Time, newID func() (uint64, error)) ([]Phone, error) {
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
			return nil, ErrValidation.With("phone_numbers[%d].id: this contact has no number with the id %d, or the id appears twice.", i, id)
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
	if len(list) > MaxPhones {
		return nil, errPhones()
	}
	setPrimary(list, primary)
	for i := range list {
		if list[i].ID != 0 {
			continue
		}
		var err error
		if list[i].ID, err = newID(); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// change returns p with the fields that the entry contains. If the entry marks
// the number as do_not_call, now becomes its DNCDate. A number that is not
// do_not_call has no DNCDate and no DNCReason.
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

// setPrimary makes one number in list primary and all others not. If chosen is
// not negative, it is the index of the primary number. Otherwise the first
// number that is already primary remains primary. If no number is primary, the
// first one becomes primary.
func setPrimary(list []Phone, chosen int) {
	if chosen < 0 {
		chosen = max(0, slices.IndexFunc(list, func(p Phone) bool { return p.Primary }))
	}
	for i := range list {
		list[i].Primary = i == chosen
	}
}

// contactColumns returns the names of the columns that a CSV import accepts.
func contactColumns() []string {
	return []string{
		"first_name", "last_name", "email", "company", "website", "address", "city", "state", "zip_code", "country",
		"status", "stage", "timezone", "team_id", "tags", "phone", "phone_type", "do_not_call", "owner",
	}
}

// contactRow converts a line of CSV into the fields of a request body. cells
// holds the cells of the line by column name. The column phone holds the only
// phone number. Tags are separated by semicolons. contactRow returns
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

// csvTags returns the tags in a cell, where semicolons separate them. It drops
// empty tags.
func csvTags(cell string) []string {
	tags := []string{}
	for tag := range strings.SplitSeq(cell, ";") {
		if tag = strings.TrimSpace(tag); tag != "" {
			tags = append(tags, tag)
		}
	}
	return tags
}
