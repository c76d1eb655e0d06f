package main

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"slices"
	"time"

	"latchkey/internal/sorted"
)

// DemoOptions are the parts of the service that DemoData fills.
type DemoOptions struct {
	Store    *Store
	Keyring  *Keyring
	Limiter  *Limiter
	Peppers  Peppers
	History  *History
	Requests *Requests
	Refusals *Refusals
}

// errNotEmpty is the error of SeedDemo for a store with data.
var errNotEmpty = errors.New("the store has data already, so no sample data are added to it")

// SeedDemo fills an empty store with keys, operators and a webhook, and with 90 days of requests with
// these keys that end at now, a time of the wall clock. steady is the same time of the service clock.
// The numbers depend only on now, and on the hours of the day and the days of the week. Ids and secrets
// are random. SeedDemo writes nothing and returns an error if the store has data.
func SeedDemo(o DemoOptions, now, steady time.Time) error {
	d := &demoSeed{DemoOptions: o, now: now, steady: steady, random: rand.New(rand.NewPCG(90, 1)), counts: map[subject]*demoCounts{}}
	d.keys = demoKeys()
	err := o.Store.Update(func(tx *Tx) error {
		if err := emptyStore(tx); err != nil {
			return err
		}
		if err := d.life(tx); err != nil {
			return err
		}
		d.pastHours()
		return errors.Join(d.storeCounts(tx), d.storeUses(tx))
	})
	if err != nil {
		return err
	}
	d.lastHours()
	return nil
}

// emptyStore returns errNotEmpty unless the store is new.
func emptyStore(tx *Tx) error {
	return tx.Walk(func(bucket string, _, _ []byte) error {
		if bucket != "meta" {
			return errNotEmpty
		}
		return nil
	})
}

// demoRhythm is how many requests a program makes at the hours of a day, as parts of its busiest hour.
type demoRhythm func(weekday time.Weekday, hour int) float64

func officeHours(day time.Weekday, hour int) float64 {
	if day == time.Saturday || day == time.Sunday {
		return 0.04
	}
	return max(0.03, math.Exp(-math.Pow(float64(hour)-11, 2)/14))
}

func eveningHours(day time.Weekday, hour int) float64 {
	busy := 0.75
	if day == time.Friday || day == time.Saturday || day == time.Sunday {
		busy = 1
	}
	return busy * max(0.06, math.Exp(-math.Pow(float64(hour)-18, 2)/20))
}

func atNight(_ time.Weekday, hour int) float64 {
	if hour == 2 {
		return 1
	}
	return 0
}

func allHours(time.Weekday, int) float64 { return 1 }

// demoRoute is an endpoint that a program of the demo uses.
type demoRoute struct{ method, path string }

// demoKey is a key of the demo and the program that uses it.
type demoKey struct {
	name, owner, environment string
	permissions              Permission
	routes                   []demoRoute // the first one is used most
	carrier                  string
	client                   string // IP address
	peak                     float64
	rhythm                   demoRhythm
	age                      int     // in days
	limited                  float64 // part of the requests that a limit refuses
	denied                   float64 // part of the requests that lack a permission

	ended time.Duration // how long ago the key expired or was revoked; 0: it has not
	key   *Key
}

func demoKeys() []*demoKey {
	const calendar = "/api/v1/calendar/"
	contacts, calls := demoRoute{"GET", "/api/v1/contacts"}, demoRoute{"GET", "/api/v1/calls"}
	one, newContact := demoRoute{"GET", "/api/v1/contacts/:contact_id"}, demoRoute{"POST", "/api/v1/contacts/create"}
	agents, free := demoRoute{"GET", "/api/v1/agents"}, demoRoute{"GET", calendar + "availability"}
	events, book := demoRoute{"GET", calendar + "events"}, demoRoute{"POST", calendar + "events/create"}
	reader := ReadCalls | ReadAgents | ReadContacts | ReadCalendar
	return []*demoKey{
		{name: "crm", owner: "sales", environment: "live", permissions: ReadContacts | WriteContacts | ReadCalls, routes: []demoRoute{contacts, one, newContact, calls},
			carrier: CarrierBearer, client: "198.51.100.20", peak: 70, rhythm: officeHours, age: 400, denied: 0.002},
		{name: "booking site", owner: "web", environment: "live", permissions: ReadContacts | ReadCalendar | WriteCalendar, routes: []demoRoute{free, events, book},
			carrier: CarrierBearer, client: "203.0.113.8", peak: 55, rhythm: eveningHours, age: 210},
		{name: "mobile app", owner: "web", environment: "live", permissions: reader, routes: []demoRoute{calls, contacts, agents},
			carrier: CarrierHeader, client: "203.0.113.77", peak: 110, rhythm: eveningHours, age: 61, limited: 0.03},
		{name: "nightly report", owner: "analytics", environment: "live", permissions: ReadCalls, routes: []demoRoute{calls},
			carrier: CarrierBearer, client: "192.0.2.14", peak: 260, rhythm: atNight, age: 300},
		{name: "kiosk", owner: "front desk", environment: "live", permissions: ReadCalendar | WriteCalendar, routes: []demoRoute{book, events},
			carrier: CarrierHeader, client: "192.0.2.51", peak: 16, rhythm: officeHours, age: 33, limited: 0.09},
		{name: "old importer", owner: "operations", environment: "live", permissions: ReadContacts | WriteContacts, routes: []demoRoute{newContact, contacts},
			carrier: CarrierQuery, client: "192.0.2.90", peak: 7, rhythm: allHours, age: 500},
		{name: "partner portal", owner: "partner", environment: "live", permissions: ReadCalendar, routes: []demoRoute{events},
			carrier: CarrierBearer, client: "198.51.100.140", peak: 12, rhythm: officeHours, age: 93, ended: 3 * 24 * time.Hour},
		{name: "staging", owner: "web", environment: "test", permissions: reader | WriteCalendar, routes: []demoRoute{agents, calls, events, book},
			carrier: CarrierBearer, client: "198.51.100.31", peak: 9, rhythm: officeHours, age: 120, denied: 0.05},
		{name: "lost laptop", owner: "sales", environment: "live", permissions: ReadContacts, routes: []demoRoute{contacts},
			carrier: CarrierBearer, client: "198.51.100.23", peak: 5, rhythm: officeHours, age: 150, ended: 20 * 24 * time.Hour},
		{name: "field tablets", owner: "operations", environment: "live", permissions: ReadContacts, age: 12},
	}
}

// demoSeed is one run of SeedDemo.
type demoSeed struct {
	DemoOptions
	now, steady time.Time
	random      *rand.Rand
	keys        []*demoKey
	counts      map[subject]*demoCounts
}

// demoCounts are the counts of a subject in the kept days and hours, the oldest first.
type demoCounts struct {
	days  [90]Counts
	hours [7 * 24]Counts
}

// demoOutcome is a kind of answer.
type demoOutcome struct {
	err  *Error // nil: the request was answered
	step string
}

// The outcomes of requests, in the order of the indexes that outcomes returns counts for.
var demoOutcomes = []demoOutcome{
	{}, {ErrNotFound, StepHandler}, {ErrValidation, StepHandler}, {ErrKey, StepState}, {ErrPermission, StepPermission}, {ErrRateLimit, StepLimit}, {ErrServer, StepHandler},
}

// status returns the status of the answer.
func (o demoOutcome) status() int {
	if o.err == nil {
		return 200
	}
	return o.err.Status
}

// whole rounds a number up or down by chance, so that the mean stays.
func (d *demoSeed) whole(n float64) int { return int(n + d.random.Float64()) }

// outcomes returns the number of requests of a key in the hour that begins at at, by outcome.
func (d *demoSeed) outcomes(k *demoKey, at time.Time) (list [7]int) {
	ago := d.now.Sub(at)
	if k.rhythm == nil || ago > time.Duration(k.age)*24*time.Hour {
		return list
	}
	const day = 24 * time.Hour
	growth := 1 - 0.35*float64(ago)/float64(90*day)
	n := d.whole(k.peak * growth * k.rhythm(at.Weekday(), at.Hour()) * (0.8 + 0.4*d.random.Float64()))
	if ago < k.ended {
		list[3] = (n + 3) / 4 // it asks less often, but it asks
		return list
	}
	part := func(share float64) int {
		m := min(n, d.whole(float64(n)*share))
		n -= m
		return m
	}
	broken := 0.0008
	if ago > 9*day && ago < 9*day+4*time.Hour { // an outage
		broken = 0.4
	}
	list[6], list[5], list[4] = part(broken), part(k.limited), part(k.denied)
	list[1], list[2] = part(0.012), part(0.006)
	list[0] = n
	return list
}

// pastHours counts the requests of the past, except those of the last two hours.
func (d *demoSeed) pastHours() {
	for hour := stepHour.Number(d.now) - 90*24; hour < stepHour.Number(d.now)-1; hour++ {
		at := time.Unix(hour*int64(stepHour), 0).UTC()
		for _, k := range d.keys {
			list := d.outcomes(k, at)
			for i, n := range list {
				d.spread(k, hour, demoOutcomes[i], n)
			}
		}
		d.spread(&demoKey{routes: []demoRoute{{"GET", "-"}}}, hour, demoOutcome{ErrRoute, StepRoute}, d.whole(0.4))
		d.spread(&demoKey{routes: []demoRoute{{"GET", "/api/v1/contacts"}}}, hour, demoOutcome{ErrKey, StepKey}, d.whole(0.8))
	}
}

// spread counts n requests of an hour with the same outcome. Half of them use the first route, half of
// the rest the second, and so on.
func (d *demoSeed) spread(k *demoKey, hour int64, o demoOutcome, n int) {
	if n == 0 {
		return
	}
	class := classOf(o.status())
	for i, route := range k.routes {
		m := (n + 1) / 2
		if i == len(k.routes)-1 {
			m = n
		}
		n -= m
		d.count(subject{ofRoute, route.path}, hour, class, m)
		d.count(subject{Kind: ofService}, hour, class, m)
		if k.key != nil {
			d.count(subject{ofKey, k.key.ID}, hour, class, m)
		}
		if o.err != nil {
			d.count(subject{ofCode, o.err.Code}, hour, class, m)
		}
	}
}

// count adds n requests of a class to the counts of a subject.
func (d *demoSeed) count(s subject, hour int64, class, n int) {
	c := d.counts[s]
	if c == nil {
		c = &demoCounts{}
		d.counts[s] = c
	}
	ago := stepHour.Number(d.now) - hour
	days := StepDay.Number(d.now) - hour/(24)
	if days < int64(len(c.days)) {
		c.days[int64(len(c.days))-1-days][class] += uint64(n)
	}
	if ago < int64(len(c.hours)) {
		c.hours[int64(len(c.hours))-1-ago][class] += uint64(n)
	}
}

// storeCounts stores the counts as the history does.
func (d *demoSeed) storeCounts(tx *Tx) error {
	for s, c := range d.counts {
		r := ring{}
		for i, counts := range c.hours {
			if counts.Total() > 0 {
				r.hours = append(r.hours, Slot{stepHour.Number(d.now) - int64(len(c.hours)-1-i), counts})
			}
		}
		for i, counts := range c.days {
			if counts.Total() > 0 {
				r.days = append(r.days, Slot{StepDay.Number(d.now) - int64(len(c.days)-1-i), counts})
			}
		}
		if err := tx.Put(usageBucket, s.key(), r.Append(nil)); err != nil {
			return err
		}
	}
	return nil
}

// lastHours adds the requests of the last two hours one by one, so that lists of single requests have
// them too.
func (d *demoSeed) lastHours() {
	var all []Outcome
	for _, k := range d.keys {
		for back := range 2 {
			hour := time.Unix((stepHour.Number(d.now)-int64(back))*int64(stepHour), 0).UTC()
			length := min(time.Hour, d.now.Sub(hour))
			for i, n := range d.outcomes(k, hour) {
				for range d.whole(float64(n) * float64(length) / float64(time.Hour)) {
					all = append(all, d.request(k, demoOutcomes[i], hour.Add(time.Duration(d.random.Int64N(int64(length)+1)))))
				}
			}
		}
	}
	all = append(all, d.tellingRequests()...)
	sorted.StableFunc(all, func(a, b Outcome) int { return a.Began.Compare(b.Began) })
	for i := range all {
		o := &all[i]
		key, asked := "", Asked{}
		if o.Found != nil {
			key = o.Found.ID
		}
		if o.Status != http.StatusUnauthorized {
			asked = Asked{At: d.steady.Add(o.Began.Sub(d.now)), Units: 1, Charged: 1}
		}
		if o.Status == http.StatusTooManyRequests {
			asked.Charged = 0
		}
		d.History.NoteBy(nil, CountedRequest{Key: key, Route: o.Route, Code: o.Code, Status: o.Status, At: o.Began}, asked)
		d.Requests.Note(o)
		d.Refusals.Note(o)
	}
}

// tellingRequests returns a few requests of the last minutes, whatever the hour of the day is, so that
// each kind of outcome is among the latest.
func (d *demoSeed) tellingRequests() (all []Outcome) {
	for i, name := range []string{"crm", "crm", "mobile app", "kiosk", "kiosk", "old importer", "partner portal", "booking site", "staging", "mobile app"} {
		k := d.named(name)
		o := demoOutcomes[0]
		switch i {
		case 1:
			o = demoOutcomes[1]
		case 2, 3, 4:
			o = demoOutcomes[5]
		case 6:
			o = demoOutcomes[3]
		case 8:
			o = demoOutcomes[4]
		}
		all = append(all, d.request(k, o, d.now.Add(-time.Duration(10-i)*17*time.Second)))
	}
	stranger := &demoKey{routes: []demoRoute{{"GET", "/api/v1/contacts"}}, client: "203.0.113.250"}
	return append(all, d.request(stranger, demoOutcome{ErrKey, StepKey}, d.now.Add(-95*time.Second)))
}

// named returns the key of the demo with this name.
func (d *demoSeed) named(name string) *demoKey {
	i := slices.IndexFunc(d.keys, func(k *demoKey) bool { return k.name == name })
	return d.keys[i]
}

// request returns a request with a key.
func (d *demoSeed) request(k *demoKey, out demoOutcome, at time.Time) Outcome {
	route := k.routes[min(int(d.random.ExpFloat64()), len(k.routes)-1)]
	o := Outcome{
		ID: fmt.Sprintf("%016x", d.random.Uint64()), Method: route.method, Route: route.path, Status: out.status(), Client: netip.MustParseAddr(k.client),
		Began: at, Took: time.Duration((0.4 + d.random.ExpFloat64()) * float64(time.Millisecond)), Found: k.key,
	}
	if out.err == nil {
		return o
	}
	o.Code, o.Text, o.Step = out.err.Code, out.err.Message, out.step
	switch {
	case k.key == nil:
	case out.err == ErrKey:
		if bad, ok := errors.AsType[*Error](k.key.Check(d.now)); ok {
			o.Text = bad.Message
		}
	case out.err == ErrRateLimit:
		name := RequestsPerMinute
		if k.name == "kiosk" {
			name = EventsPerDay
		}
		for _, c := range k.key.Charge(nil, name, 1) {
			if bad, ok := errors.AsType[*Error](c.Refused(time.Minute)); ok {
				o.Text = bad.Message
			}
			o.Limits = append(o.Limits, LimitStatus{Limit: c.Limit, Used: c.Limit.Max, Next: time.Minute, Wait: time.Minute})
		}
	}
	return o
}

// life creates the keys, the operators and the webhook, at the times at which people did that.
func (d *demoSeed) life(tx *Tx) error {
	const day = 24 * time.Hour
	at := func(ago time.Duration) time.Time { return d.now.Add(-ago).Truncate(time.Second) }
	deeds := []demoDeed{{at(520 * day), d.createOperators}}
	for _, k := range d.keys {
		deeds = append(deeds, demoDeed{at(time.Duration(k.age) * day), func(tx *Tx, by AuditContext) error { return d.createKey(tx, by, k) }})
	}
	change := func(ago time.Duration, name string, action string, edit func(tx *Tx, by AuditContext, key *Key) error) {
		deeds = append(deeds, demoDeed{at(ago), func(tx *Tx, by AuditContext) error {
			k := d.named(name).key
			by.Action, by.Object = action, "key "+k.ID
			return by.In(tx, func(tx *Tx) error { return edit(tx, by, k) })
		}})
	}
	change(61*day, "crm", "PATCH /admin/v1/keys/:id", func(tx *Tx, _ AuditContext, key *Key) error {
		key.Limits = map[string]int{RequestsPerMinute: 120}
		return d.Keyring.Save(tx, key)
	})
	change(20*day, "lost laptop", "POST /admin/v1/keys/:id/revoke", func(tx *Tx, by AuditContext, key *Key) error {
		key.RevokedAt = by.Now
		return d.Keyring.Save(tx, key)
	})
	change(2*day, "crm", "POST /admin/v1/keys/:id/rotate", func(tx *Tx, by AuditContext, key *Key) error {
		_, err := d.Keyring.Rotate(tx, key, by.Now, by.Now.Add(7*day))
		return err
	})
	deeds = append(deeds, demoDeed{at(8 * day), d.createWebhook}, demoDeed{at(26 * time.Hour), d.refuse})
	sorted.StableFunc(deeds, func(a, b demoDeed) int { return a.at.Compare(b.at) })
	for i, deed := range deeds {
		by := AuditContext{Actor: "operator 1 Ann", Client: netip.MustParseAddr("192.0.2.7"), Request: fmt.Sprintf("%016x", d.random.Uint64()), Now: deed.at, Latest: deed.at}
		if i%3 == 2 {
			by.Actor, by.Client = "operator 2 Ben", netip.MustParseAddr("192.0.2.8")
		}
		if err := deed.do(tx, by); err != nil {
			return err
		}
	}
	return d.reachLimit(tx)
}

// demoDeed is something that somebody did at a time.
type demoDeed struct {
	at time.Time
	do func(tx *Tx, by AuditContext) error
}

// createOperators creates two operators, as whom nobody can log in: they have no password.
func (d *demoSeed) createOperators(tx *Tx, by AuditContext) error {
	by.Actor, by.Client, by.Action = "control socket", netip.Addr{}, "POST /admin/v1/operators"
	for _, op := range []operator{{Name: "Ann", Role: RoleAdmin}, {Name: "Ben", Role: RoleKeyManager}} {
		err := by.In(tx, func(tx *Tx) (err error) {
			op.ID, err = OperatorTable.NextID(tx)
			op.CreatedAt, op.Joined, op.LastLoginAt = by.Now, true, d.now.Add(-time.Duration(op.ID)*5*time.Hour)
			return errors.Join(err, OperatorTable.Put(tx, op))
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// createKey creates a key of the demo, which nobody has the secret of.
func (d *demoSeed) createKey(tx *Tx, by AuditContext, k *demoKey) error {
	by.Action = "POST /admin/v1/keys"
	return by.In(tx, func(tx *Tx) error {
		owner, err := EnsureOwner(tx, k.owner, by.Now)
		if err != nil {
			return err
		}
		key := &Key{StoredKey: StoredKey{
			ID: NewKeyID(by.Now), Name: k.name, Environment: k.environment, Permissions: k.permissions, Owner: owner.ID, OwnerName: owner.Name, CreatedAt: by.Now,
		}}
		switch k.name {
		case "partner portal":
			key.ExpiresAt = d.now.Add(-k.ended)
		case "nightly report":
			key.ExpiresAt = d.now.Add(5 * 24 * time.Hour).Truncate(time.Hour)
		case "kiosk":
			key.Limits = map[string]int{EventsPerDay: 20}
		}
		if _, err = d.Keyring.Create(tx, key); err != nil {
			return err
		}
		k.key, err = d.Keyring.Get(tx, key.ID)
		return err
	})
}

// createWebhook creates a webhook whose receiver has been down for two days.
func (d *demoSeed) createWebhook(tx *Tx, by AuditContext) error {
	by.Action = "POST /admin/v1/webhooks"
	return by.In(tx, func(tx *Tx) error { return AddFailingWebhook(tx, d.Peppers, by.Now, d.now) })
}

// refuse records that an operator without the right to do so tried to make a backup.
func (d *demoSeed) refuse(tx *Tx, by AuditContext) error {
	by.Actor, by.Client, by.Action = "operator 2 Ben", netip.MustParseAddr("192.0.2.8"), "GET /admin/v1/backup"
	return by.Refused(tx, ErrPermission.Status, ErrPermission.Code)
}

// reachLimit uses up the daily limit of the kiosk.
func (d *demoSeed) reachLimit(tx *Tx) error {
	key := d.named("kiosk").key
	_, err := d.Limiter.SpendIn(tx, key.Charge(nil, EventsPerDay, key.Limits[EventsPerDay]), d.steady)
	return err
}

// storeUses stores when and how each key was last used.
func (d *demoSeed) storeUses(tx *Tx) error {
	for i, k := range d.keys {
		if k.rhythm == nil {
			continue
		}
		ip := netip.MustParseAddr(k.client)
		uses := d.counts[subject{ofKey, k.key.ID}]
		var n uint64
		for _, day := range uses.days {
			n += day.Total()
		}
		use := LastUse{At: d.now.Add(-time.Duration(i+1)*19*time.Second - k.ended), IP: ip, Carrier: k.carrier}
		switch k.carrier {
		case CarrierHeader:
			use.Header = n
		case CarrierQuery:
			use.Query, use.QueryAt, use.QueryIP = n, use.At, ip
		default:
			use.Bearer = n
		}
		if err := d.Keyring.AddUse(tx, k.key, k.key.Serial, use); err != nil {
			return err
		}
		if k.key.Serial > 0 { // another server still has the old secret
			old := LastUse{At: d.now.Add(-23 * time.Minute), IP: netip.MustParseAddr("198.51.100.21"), Carrier: k.carrier, Carriers: Carriers{Bearer: 412}}
			if err := d.Keyring.AddUse(tx, k.key, 0, old); err != nil {
				return err
			}
		}
	}
	return nil
}
