// The contacts family holds the contacts, the people whom agents call. Read
// contacts.go first, then contacts_form.go (how a request body or a CSV line is
// read), contacts_import.go (which contacts the rows of an import mean) and contacts_variables.go (context variables and their values).

package main

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"latchkey/internal/strictjson"
)

// contact is a person whom agents can call (contract 5).
type contact struct {
	ID              uint64    `json:"id"`
	FirstName       string    `json:"first_name"`
	LastName        string    `json:"last_name,omitempty"`
	Email           string    `json:"email,omitempty"`
	Company         string    `json:"company,omitempty"`
	Website         string    `json:"website,omitempty"`
	Address         string    `json:"address,omitempty"` // street and number; the API calls this field street
	City            string    `json:"city,omitempty"`
	State           string    `json:"state,omitempty"`
	ZipCode         string    `json:"zip_code,omitempty"`
	Country         string    `json:"country,omitempty"`
	Timezone        string    `json:"timezone,omitempty"`
	Status          string    `json:"status"`
	Stage           string    `json:"stage"`
	Tags            []string  `json:"tags,omitempty"`
	PhoneNumbers    []Phone   `json:"phone_numbers,omitempty"` // exactly one is primary, unless the list is empty
	CustomContext   Values    `json:"custom_context,omitempty"`
	IndustryContext Values    `json:"industry_context,omitempty"`
	Notes           []note    `json:"notes,omitempty"`   // oldest first
	TeamID          uint64    `json:"team_id,omitempty"` // 0 if the contact is in no team
	Owner           uint64    `json:"owner"`             // id of the owner
	CreatedAt       time.Time `json:"created_at"`
	LastCallDate    time.Time `json:"last_call_date,omitzero"` // end of the last call, zero if there was none
	Authors
}

// note is a remark about a contact.
type note struct {
	ID         uint64    `json:"id"`
	Content    string    `json:"content"`
	CreatedAt  time.Time `json:"created_at"`
	NoteType   string    `json:"note_type"`
	CallResult string    `json:"call_result,omitempty"`
}

var contactTable = Table[contact]{
	Name: "contacts", Bounded: "contact", Audit: AuditPolicy{Object: "contact", Personal: true},
	Owner: func(c contact) uint64 { return c.Owner },
	Key:   func(c contact) []byte { return IDKey(c.ID) },
	Indexes: []Index[contact]{
		{"phone", func(c contact) (keys [][]byte) {
			for _, p := range c.PhoneNumbers {
				keys = append(keys, phoneKey(p.PhoneNumber))
			}
			return keys
		}},
	},
	List: &Listing[contact]{
		Sets: []Index[contact]{
			{"scope", func(c contact) [][]byte { return ScopeKeys(c.Owner, c.TeamID) }},
			SandboxSet(func(c contact) uint64 { return c.Owner }),
			{"stage", func(c contact) [][]byte { return [][]byte{[]byte(c.Stage)} }},
			{"status", func(c contact) [][]byte { return [][]byte{[]byte(c.Status)} }},
			{"tag", func(c contact) (keys [][]byte) {
				for _, tag := range c.Tags {
					keys = append(keys, []byte(tag))
				}
				return keys
			}},
		},
		Text: func(c contact) []string { return []string{c.FirstName, c.LastName, c.Email} },
	},
}

// phoneTable stores no records. It only provides the ids of the contacts' phone
// numbers.
var phoneTable = Table[Phone]{Name: "contact_phones"}

// phoneKey returns the entry of a phone number in the index "phone". The entry
// ends with a zero byte, so that it is never a prefix of the entry of a longer
// number.
func phoneKey(number string) []byte { return append([]byte(number), 0) }

// FindContact returns the contact with this id. It returns ErrNotFound if there
// is no such contact or if scope s does not include it.
func FindContact(tx *Tx, s Scope, id uint64) (contact, error) {
	if id == 0 {
		return contact{}, ErrNotFound
	}
	c, err := contactTable.Shared(tx, IDKey(id))
	if err != nil {
		return contact{}, err
	}
	if !s.Has(c.place()) {
		return contact{}, ErrNotFound
	}
	return c, nil
}

// contactExists is the Route.Object of routes with the id of a contact.
func contactExists(tx *Tx, key *Key, ref string) error {
	scope, err := ScopeOfKey(tx, key)
	if err != nil {
		return err
	}
	id, err := strconv.ParseUint(ref, 10, 64)
	if err != nil {
		return ErrNotFound
	}
	_, err = FindContact(tx, scope, id)
	return err
}

// CheckContact returns nil if scope s includes a contact with this id, and
// ErrNotFound if it does not. The id 0 means no contact and is always accepted.
func CheckContact(tx *Tx, s Scope, id uint64) error {
	if id == 0 {
		return nil
	}
	_, err := FindContact(tx, s, id)
	if errors.Is(err, ErrNotFound) {
		return ErrNotFound.With("No contact with the id %d.", id)
	}
	return err
}

// place returns where the contact belongs.
func (c contact) place() Place {
	return Place{Kind: ContactRecord, Owner: c.Owner, Team: c.TeamID, Contact: c.ID}
}

// SaveContact stores c under its id, which must not be 0. It replaces the
// contact that is already stored there.
func SaveContact(tx *Tx, c contact) error { return contactTable.Put(tx, c) }

// ContactBlocks reports whether a contact of the owner of scope s, or of one of the owner's teams, has this
// phone number marked as do_not_call. It also counts contacts that the Resources of a key leave out: who must
// not be called must not be called with that key either.
func ContactBlocks(tx *Tx, s Scope, phone string) (bool, error) {
	s = s.Within(nil)
	for _, key := range contactTable.Find(tx, "phone", phoneKey(phone), Forward) {
		c, err := contactTable.Get(tx, key)
		if err != nil {
			return false, err
		}
		blocks := func(p Phone) bool { return p.DoNotCall && p.PhoneNumber == phone }
		if s.Has(c.place()) && slices.ContainsFunc(c.PhoneNumbers, blocks) {
			return true, nil
		}
	}
	return false, nil
}

// FullName returns the first name and the last name, separated by a space. It
// returns only the first name if there is no last name.
func (c contact) FullName() string { return strings.TrimSpace(c.FirstName + " " + c.LastName) }

// Brief returns the fields of the contact that are shown inside a call: id,
// name, email and company.
func (c contact) Brief() map[string]any {
	return map[string]any{"id": c.ID, "name": c.FullName(), "email": c.Email, "company": c.Company}
}

// row returns the fields that appear both in lists of contacts and in the
// answer for a single contact, to a caller with scope s.
func (c contact) row(tx *Tx, s Scope) map[string]any {
	v := make(map[string]any, contactFields)
	v["id"], v["first_name"], v["last_name"], v["full_name"] = c.ID, c.FirstName, c.LastName, c.FullName()
	v["email"], v["company"], v["stage"], v["status"] = c.Email, c.Company, c.Stage, c.Status
	v["created_date"], v["last_call_date"] = Seconds(c.CreatedAt), Seconds(c.LastCallDate)
	v["tags"], v["team"] = append([]string{}, c.Tags...), s.TeamBrief(tx, c.TeamID)
	return v
}

// contactFields is about how many fields a contact in full has. A map that is made for them need not
// grow.
const contactFields = 24

// primary returns the phone number to call first, or "" if the contact has no
// number.
func (c contact) primary() string {
	for _, p := range c.PhoneNumbers {
		if p.Primary {
			return p.PhoneNumber
		}
	}
	return ""
}

// full returns the fields of the contact in the form in which the API shows
// them, without the owner (contract 5.2).
func (c contact) full(tx *Tx, s Scope) map[string]any {
	v := c.row(tx, s)
	v["website"], v["timezone"] = c.Website, c.Timezone
	v["stage_display"], v["status_display"] = DisplayWord(c.Stage), DisplayWord(c.Status)
	v["address"] = map[string]string{"street": c.Address, "city": c.City, "state": c.State, "zip_code": c.ZipCode, "country": c.Country}
	notes := []any{}
	for _, n := range slices.Backward(c.Notes) {
		notes = append(notes, map[string]any{
			"id": n.ID, "content": n.Content, "created_at": Seconds(n.CreatedAt), "note_type": n.NoteType, "call_result": TextOrNone(n.CallResult),
		})
	}
	v["phone_numbers"], v["recent_notes"] = shownPhones(c.PhoneNumbers), notes
	v["custom_context"], v["industry_context"] = orEmpty(c.CustomContext), orEmpty(c.IndustryContext)
	return v
}

// shownPhones are the phone numbers of a contact in answers. As JSON they are an array, also if there
// are none.
type shownPhones []Phone

// AppendJSON appends the array.
func (l shownPhones) AppendJSON(data []byte) (_ []byte, err error) {
	data = append(data, '[')
	for i := range l {
		if i > 0 {
			data = append(data, ',')
		}
		p, m := &l[i], strictjson.Begin(data)
		m.Time("dnc_date", p.DNCDate, SecondsLayout)
		m.Value("dnc_reason", TextOrNone(p.DNCReason))
		m.Bool("do_not_call", p.DoNotCall)
		m.Value("id", p.ID)
		m.Text("phone_number", p.PhoneNumber)
		m.Text("phone_type", p.PhoneType)
		m.Bool("primary", p.Primary)
		if data, err = m.End(); err != nil {
			return data, err
		}
	}
	return append(data, ']'), nil
}

// MarshalJSON returns the array, for encoding/json.
func (l shownPhones) MarshalJSON() ([]byte, error) { return l.AppendJSON(nil) }

func orEmpty(v Values) Values {
	if v == nil {
		return Values{}
	}
	return v
}

// contacts serves the API endpoints and the admin endpoints for contacts.
type contacts struct {
	store   *Store
	write   Permission // a key needs one of these to create or change contacts
	catalog AdminRecords[contact]
}

// NewContacts returns the endpoints for the contacts in store. write is a set
// of permissions. A key needs at least one of them to create or change
// contacts.
func NewContacts(store *Store, write Permission) *contacts {
	return &contacts{store: store, write: write, catalog: AdminRecords[contact]{
		Store: store, Name: "contacts", Table: contactTable, Save: saveContact, Show: operatorsView, Load: loadContacts, UpdateBy: []string{byEmail, byPhone},
		Filters: []string{"stage", "status", "tag", "search", "owner"}, Filter: ReadFilter, Columns: contactColumns(), Row: contactRow, Body: contactBody(),
		Fields: map[string]string{"phone_numbers[0].phone_number": "phone", "phone_numbers[0].phone_type": "phone_type", "phone_numbers[0].do_not_call": "do_not_call"},
	}}
}

// contactBody returns the members that the body of an admin request may have.
func contactBody() BodyFields {
	set := []string{}
	for _, text := range contactTexts() {
		set = append(set, text.name)
	}
	return BodyFields{
		Set: append(set, "phone_numbers", "team_id", "tags", "custom_context", "industry_context", "owner", "last_call_date"),
		Shown: []string{
			"id", "full_name", "stage_display", "status_display", "team", "recent_notes", "sandbox", "created_date", "created_by", "updated_by",
		},
		Brief: map[string]string{"phone": "phone_numbers"},
		Items: map[string]BodyFields{"phone_numbers": {
			Set: []string{"phone_number", "phone_type", "primary", "do_not_call", "dnc_reason"}, Shown: []string{"id", "dnc_date"},
		}},
	}
}

// AddSampleContacts adds three contacts to a sandbox. The last one must not be called.
func AddSampleContacts(tx *Tx, owner uint64, now time.Time) error {
	for i, name := range []string{"Ada", "Ben", "Cleo"} {
		id, err := contactTable.NextID(tx)
		phone, err2 := phoneTable.NextID(tx)
		if err = errors.Join(err, err2); err != nil {
			return err
		}
		p := Phone{ID: phone, PhoneNumber: fmt.Sprintf("+4930555%d", 101+i), PhoneType: "mobile", Primary: true}
		if i == 2 {
			p.DoNotCall, p.DNCDate, p.DNCReason = true, now, "A sample of a number that is never called"
		}
		c := contact{
			ID: id, Owner: owner, FirstName: name, LastName: "Sample", Email: strings.ToLower(name) + "@example.com", Company: "Sandbox",
			Status: "not_contacted", Stage: "lead", Timezone: "UTC", PhoneNumbers: []Phone{p}, CreatedAt: now,
		}
		if err := SaveContact(tx, c); err != nil {
			return err
		}
	}
	return nil
}

// ContactTables returns the table of contacts, for store checks.
func ContactTables() []Checked { return []Checked{&contactTable} }

// Routes returns the API endpoints for contacts.
func (c *contacts) Routes() []Route {
	return []Route{
		{Method: "GET", Path: "/api/v1/contacts", Permission: ReadContacts, Handle: c.list, Heavy: HeavyWith("stage", "status", "tag", "search")},
		{Method: "GET", Path: "/api/v1/contacts/:contact_id", Permission: ReadContacts, Handle: c.get, Object: contactExists},
		{Method: "POST", Path: "/api/v1/contacts/create", Permission: c.write, Handle: c.create},
		{Method: "PUT", Path: "/api/v1/contacts/:contact_id/update", Permission: c.write, Handle: c.update, Object: contactExists},
		{Method: "PATCH", Path: "/api/v1/contacts/:contact_id/update", Permission: c.write, Handle: c.update, Object: contactExists},
	}
}

// AdminRoutes returns the admin endpoints for contacts.
func (c *contacts) AdminRoutes() []Route { return c.catalog.Routes() }

func (c *contacts) list(w http.ResponseWriter, r *Request) error {
	q, err := r.Query("page", "limit", "stage", "status", "tag", "search")
	if err != nil {
		return err
	}
	page, err := ReadPage(q, 25, 100)
	if err != nil {
		return err
	}
	query := Query{Context: r.Context()}
	if query.Words, err = SearchWords(q); err != nil {
		return err
	}
	for _, name := range []string{"stage", "status", "tag"} {
		if value := q.Get(name); value != "" {
			query.All = append(query.All, Filter{name, []byte(value)})
		}
	}
	rows, count := []any{}, 0
	err = r.View(c.store, func(tx *Tx) error {
		scope, err := ScopeOfKey(tx, r.Key)
		if err != nil {
			return err
		}
		contacts, n, err := contactTable.Page(tx, scope.Query(ContactRecord, query), page.Bounds)
		if err != nil {
			return err
		}
		count = n
		for _, contact := range contacts {
			row := contact.row(tx, scope)
			row["phone"] = contact.primary()
			rows = append(rows, row)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return WriteJSON(w, http.StatusOK, page.Answer(count, "contacts", rows))
}

func (c *contacts) get(w http.ResponseWriter, r *Request) error {
	id, err := r.NumberParam("contact_id")
	if err != nil {
		return err
	}
	var shown map[string]any
	err = c.store.View(func(tx *Tx) error {
		scope, err := ScopeOfKey(tx, r.Key)
		if err != nil {
			return err
		}
		contact, err := FindContact(tx, scope, id)
		if err != nil {
			return err
		}
		shown = showContact(tx, contact, scope)
		return nil
	})
	if err != nil {
		return err
	}
	return WriteJSON(w, http.StatusOK, shown)
}

// showContact returns all fields of a contact in the form in which the API
// shows them, with the id and the name of its owner.
func showContact(tx *Tx, c contact, s Scope) map[string]any {
	shown := c.full(tx, s)
	shown["owner"] = map[string]any{"id": LiveOwner(c.Owner), "name": OwnerName(tx, c.Owner)}
	return shown
}

func (c *contacts) create(w http.ResponseWriter, r *Request) error {
	return c.save(w, r, savedAnswer{http.StatusCreated, "Created."}, func(*Tx, Scope) (contact, error) {
		return contact{Owner: r.Key.Owner, CreatedAt: r.Now}, nil
	})
}

func (c *contacts) update(w http.ResponseWriter, r *Request) error {
	id, err := r.NumberParam("contact_id")
	if err != nil {
		return err
	}
	return c.save(w, r, savedAnswer{http.StatusOK, "Updated."}, func(tx *Tx, s Scope) (contact, error) {
		return FindContact(tx, s, id)
	})
}

// savedAnswer is the part of an answer that depends on whether a contact was
// created or changed.
type savedAnswer struct {
	Status  int    // HTTP status
	Message string // value of the field message
}

// save applies the request body to the contact that find returns and stores the
// result. find returns the stored contact, or a contact without an id to create
// one. The answer contains the stored contact.
func (c *contacts) save(w http.ResponseWriter, r *Request, a savedAnswer, find func(*Tx, Scope) (contact, error)) error {
	body, err := r.ReadBody()
	if err != nil {
		return err
	}
	form, err := readContactForm(body, r.Method)
	if err != nil {
		return err
	}
	var shown map[string]any
	err = r.Update(c.store, func(tx *Tx) error {
		scope, err := ScopeOfKey(tx, r.Key)
		if err != nil {
			return err
		}
		contact, err := find(tx, scope)
		if err != nil {
			return err
		}
		if form.Sent("team_id") {
			if err := CheckTeam(tx, scope, form.Team); err != nil {
				return err
			}
		}
		if contact, err = contact.apply(tx, form, r.Now); err != nil {
			return err
		}
		if err := scope.CheckStored(contact.place()); err != nil {
			return err
		}
		shown = showContact(tx, contact, scope)
		return nil
	})
	if err != nil {
		return err
	}
	shown["message"] = a.Message
	return WriteJSON(w, a.Status, shown)
}

// apply sets the fields that the form contains, stores the contact and returns
// it. If the id is 0, the contact is new and gets an id.
func (c contact) apply(tx *Tx, f *contactForm, now time.Time) (contact, error) {
	for name, into := range map[string]*string{
		"first_name": &c.FirstName, "last_name": &c.LastName, "email": &c.Email, "company": &c.Company,
		"website": &c.Website, "address": &c.Address, "city": &c.City, "state": &c.State, "zip_code": &c.ZipCode,
		"country": &c.Country, "status": &c.Status, "stage": &c.Stage, "timezone": &c.Timezone,
	} {
		if value, sent := f.Texts[name]; sent {
			*into = value
		}
	}
	if f.Sent("team_id") {
		c.TeamID = f.Team
	}
	if f.Sent("tags") {
		c.Tags = f.Tags
	}
	var err error
	if f.Sent("industry_context") {
		if err = CheckValues(tx, "industry_context", c.IndustryContext, f.Industry); err != nil {
			return c, err
		}
		c.IndustryContext = f.Industry
	}
	if f.Sent("custom_context") {
		custom := f.Custom(c.CustomContext)
		if err = CheckValues(tx, "custom_context", c.CustomContext, custom); err != nil {
			return c, err
		}
		c.CustomContext = custom
	}
	c.PhoneNumbers, err = f.Phones(c.PhoneNumbers, now, func() (uint64, error) { return phoneTable.NextID(tx) })
	if err != nil {
		return c, err
	}
	if c.ID == 0 {
		if c.ID, err = contactTable.NextID(tx); err != nil {
			return c, err
		}
	}
	return c, SaveContact(tx, c)
}

// saveContact creates a contact if old is nil, and changes old otherwise. It
// serves the admin endpoint, which also accepts owner and last_call_date. The
// API does not.
func saveContact(tx *Tx, r *Request, old *contact, b *Body) (contact, error) {
	method := http.MethodPost
	if old != nil {
		method = http.MethodPatch
	}
	form, err := readContactForm(b, method)
	if err != nil {
		return contact{}, err
	}
	return form.save(tx, r, old)
}

// save does what saveContact does, with a form that is read already.
func (f *contactForm) save(tx *Tx, r *Request, old *contact) (contact, error) {
	c, b, owner := contact{CreatedAt: r.Now}, f.body, ""
	if old != nil {
		c = *old
	}
	b.String("owner", NameLength, &owner)
	b.Time("last_call_date", &c.LastCallDate)
	if err := b.Err(); err != nil {
		return c, err
	}
	team := c.TeamID
	if f.Sent("team_id") {
		team = f.Team
	}
	if f.Sent("owner") {
		o, err := EnsureOwner(tx, owner, r.Now)
		if err != nil {
			return c, err
		}
		c.Owner = SameSpace(o.ID, c.Owner)
	}
	if f.Sent("team_id") || f.Sent("owner") {
		scope, err := ScopeOf(tx, c.Owner)
		if err != nil {
			return c, err
		}
		if err := CheckTeam(tx, scope, team); err != nil {
			return c, err
		}
	}
	return c.apply(tx, f, r.Now)
}

func operatorsView(tx *Tx, c contact) (any, error) {
	shown := c.full(tx, Scope{All: true})
	shown["phone"], shown["owner"], shown["sandbox"], shown["team_id"] = c.primary(), OwnerName(tx, c.Owner), IsSandbox(c.Owner), nil
	if c.TeamID != 0 {
		shown["team_id"] = c.TeamID
	}
	c.ShowAuthors(shown)
	return shown, nil
}

// PromptVariables returns the values that replace {{name}} in the prompts of a call. Each name in
// business gets the prefix business_. If a name then appears more than once, call takes precedence
// over contact, and contact over business (contract 3.3).
func PromptVariables(business, contact, call Values) Values {
	all := Values{}
	for name, value := range business {
		all["business_"+name] = value
	}
	maps.Copy(all, contact)
	maps.Copy(all, call)
	return all
}
