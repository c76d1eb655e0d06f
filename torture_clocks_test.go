package main

import (
	"fmt"
	"math/rand/v2"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
	"unsafe"

	"latchkey/internal/clock"
	"latchkey/internal/keytext"
	"latchkey/tests/program"
)

// machine is a computer of which the clocks are set, that sleeps and starts
// anew, with the service on it. Its times have a monotonic reading of their
// own, so a step of its wall clock is one to Go too.
type machine struct {
	*testApp
	began  time.Time
	real   time.Duration // what has really passed
	mono   time.Duration // of that what was not slept
	offset time.Duration // by which the wall clock is wrong
	up     time.Duration // the boot clock
	boots  int
}

func newMachine(t testing.TB) *machine {
	m := &machine{testApp: newTestApp(t, inMemory(t)), began: time.Now(), up: time.Hour}
	m.operate(201, "POST", "/admin/v1/agents", `{"name": "Front desk", "phone_number": "+4930555001"}`)
	m.stop()
	m.config.Admin.SessionIdle = 30 * time.Minute
	m.set()
	m.start()
	return m
}

// stepped moves the wall clock of a time and leaves its monotonic reading.
func stepped(t time.Time, d time.Duration) time.Time {
	t = t.Add(d)
	// The layout of time.Time since Go 1.9: wall, monotonic, zone.
	(*struct {
		wall      uint64
		monotonic int64
		zone      *time.Location
	})(unsafe.Pointer(&t)).monotonic -= int64(d)
	return t
}

// set puts the clocks of the test where the machine has them.
func (m *machine) set() {
	m.clocks.mu.Lock()
	defer m.clocks.mu.Unlock()
	m.clocks.Reading = clock.Reading{Wall: stepped(m.began.Add(m.mono), m.real-m.mono+m.offset), Boot: m.up, BootID: fmt.Sprint("boot", m.boots)}
}

func (m *machine) pass(d time.Duration) {
	m.real, m.mono, m.up = m.real+d, m.mono+d, m.up+d
	m.set()
}

// sleep suspends the machine.
func (m *machine) sleep(d time.Duration) {
	m.real, m.up = m.real+d, m.up+d
	m.set()
	m.clock.Catch() // as it is called every second
}

func (m *machine) step(d time.Duration) {
	m.offset += d
	m.set()
}

// stop ends the service cleanly.
func (m *machine) stop() {
	m.t.Helper()
	if err := m.Close(); err != nil {
		m.t.Fatal(err)
	}
}

// crash ends the service without what it does at its end.
func (m *machine) crash() {
	m.t.Helper()
	close(m.App.stop)
	<-m.idle
	m.Sender.Close()
	if err := m.Store.Close(); err != nil {
		m.t.Fatal(err)
	}
	if err := m.folder.Close(); err != nil {
		m.t.Fatal(err)
	}
}

// reboot starts the machine anew, with its service stopped.
func (m *machine) reboot() {
	m.boots, m.up = m.boots+1, 20*time.Second
	m.set()
}

const (
	stepMinute = 5
	stepDay    = 3
)

func (m *machine) stepKey() string {
	_, secret := m.key(everyPermission, fmt.Sprintf(`"limits": {%q: %d, %q: %d}`, RequestsPerMinute, stepMinute, CallsPerDay, stepDay))
	return secret
}

// spend asks until the limit refuses, and says how often it did not.
func (m *machine) spend(key string) (n int) {
	for n < 2*stepMinute && m.ask("GET", "/api/v1/agents", key, "").Code == 200 {
		n++
	}
	return n
}

// TestClock_Rows goes through what may happen to a machine's clocks, with a
// limit used up before.
func TestClock_Rows(t *testing.T) {
	const hour = time.Hour
	for _, tt := range []struct {
		name string
		do   func(m *machine)
		want int
	}{
		{"back 1 h while running", func(m *machine) { m.step(-hour) }, 0},
		{"ahead 1 h while running", func(m *machine) { m.step(hour) }, 0},
		{"ahead 10 years while running", func(m *machine) { m.step(87600 * hour) }, 0},
		{"back 10 years while running", func(m *machine) { m.step(-87600 * hour) }, 0},
		{"ahead 61 s, then a minute", func(m *machine) { m.step(61 * time.Second); m.pass(time.Minute) }, stepMinute},
		{"back 10 years, then a minute", func(m *machine) { m.step(-87600 * hour); m.pass(time.Minute) }, stepMinute},
		{"back 1 h while stopped", func(m *machine) { m.stop(); m.step(-hour); m.start() }, 0},
		{"ahead 1 h while stopped", func(m *machine) { m.stop(); m.step(hour); m.start() }, 0},
		{"ahead 10 years over a crash", func(m *machine) { m.crash(); m.step(87600 * hour); m.start() }, 0},
		{"stopped for a minute, back 1 h", func(m *machine) { m.stop(); m.pass(time.Minute); m.step(-hour); m.start() }, stepMinute},
		{"reboot of 30 s", func(m *machine) { m.stop(); m.pass(30 * time.Second); m.reboot(); m.start() }, 0},
		{"reboot of a minute", func(m *machine) { m.stop(); m.pass(time.Minute); m.reboot(); m.start() }, stepMinute},
		{"reboot of a minute, clock behind", func(m *machine) { m.stop(); m.pass(time.Minute); m.step(-hour); m.reboot(); m.start() }, 0},
		{"the same and a minute more", func(m *machine) {
			m.stop()
			m.pass(time.Minute)
			m.step(-hour)
			m.reboot()
			m.start()
			m.pass(time.Minute)
		}, stepMinute},
		{"reboot, a run without a change, ahead 1 h", func(m *machine) {
			for range 2 {
				m.stop()
				m.reboot()
				m.start()
			}
			m.stop()
			m.step(hour)
			m.start()
		}, 0},
		// The one exception besides a restored backup: nothing tells this from
		// a machine that was off for an hour.
		{"reboot, clock ahead 1 h", func(m *machine) { m.stop(); m.step(hour); m.reboot(); m.start() }, stepMinute},
		{"suspended 8 h", func(m *machine) { m.sleep(8 * hour) }, stepMinute},
		{"suspended 30 s", func(m *machine) { m.sleep(30 * time.Second) }, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := newMachine(t)
			if before := m.clocks.Read().Wall; stepped(before, hour).Sub(before) != 0 || stepped(before, hour).Unix() != before.Unix()+3600 {
				t.Fatal("the layout of time.Time is another: steps of the clock cannot be tested")
			}
			key := m.stepKey()
			if n := m.spend(key); n != stepMinute {
				t.Fatalf("got %d requests through, want %d", n, stepMinute)
			}
			tt.do(m)
			if n := m.spend(key); n != tt.want {
				t.Errorf("got %d more requests through, want %d", n, tt.want)
			}
		})
	}
}

// TestClock_Scripts lets random things happen to a machine and counts what got
// through by the time that really passed. LATCHKEY_CRASH_CLOCKS sets the number
// of scripts.
func TestClock_Scripts(t *testing.T) {
	admitted := 0
	scripts := program.Long(t, "LATCHKEY_CRASH_CLOCKS", 15)
	for i := range scripts {
		seed := rand.Uint64()
		ok := t.Run(fmt.Sprint("script ", i), func(t *testing.T) {
			m := newMachine(t)
			n, err := m.script(rand.New(rand.NewPCG(seed, 0)))
			if admitted += n; err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
		})
		if !ok {
			return
		}
	}
	if admitted < scripts*stepMinute {
		t.Errorf("%d requests were let through in %d scripts, too few to show anything", admitted, scripts)
	}
	t.Logf("%d scripts, %d requests let through, none too many", scripts, admitted)
}

// script lets things happen, and gives how much was let through and an error
// where that was too much, or too little at the end.
func (m *machine) script(random *rand.Rand) (n int, err error) {
	key := m.stepKey()
	var minute, day []time.Duration // when something was let through
	spend := func() error {
		for range 1 + random.IntN(stepMinute+2) {
			if m.ask("GET", "/api/v1/agents", key, "").Code == 200 {
				minute = append(minute, m.real)
				n++
			}
		}
		switch w := m.ask("POST", "/api/v1/calls", key, `{"phone_number": "+4930555044", "agent_id": 1}`); w.Code {
		case 201:
			day = append(day, m.real)
			fallthrough
		case 429:
			if w.Code == 201 || strings.Contains(w.Body.String(), CallsPerDay) {
				minute = append(minute, m.real) // the minute is paid for also where the day is refused
			}
		default:
			return fmt.Errorf("a call: got %d %s", w.Code, w.Body)
		}
		for limit, list := range map[int][]time.Duration{stepMinute: minute, stepDay: day} {
			span := map[int]time.Duration{stepMinute: time.Minute, stepDay: 24 * time.Hour}[limit]
			if len(list) > limit && m.real-list[len(list)-1-limit] < span {
				return fmt.Errorf("after %s: more than %d were let through within %s", m.real, limit, span)
			}
		}
		return nil
	}
	steps := []time.Duration{time.Second, 61 * time.Second, time.Hour, 25 * time.Hour, 10 * 365 * 24 * time.Hour}
	pauses := []time.Duration{0, time.Second, 20 * time.Second, 59 * time.Second, time.Minute, time.Hour, 25 * time.Hour}
	wrong := func() time.Duration { return steps[random.IntN(len(steps))] * time.Duration(1-2*random.IntN(2)) }
	pause := func() time.Duration { return pauses[random.IntN(len(pauses))] }
	for range 30 {
		switch random.IntN(8) {
		case 0, 1:
			m.step(wrong())
		case 2:
			m.sleep(pause())
		case 3, 4: // the service is down for a while
			service := m.clock.Steady(m.clock.Now())
			if random.IntN(2) == 0 {
				m.stop()
			} else {
				m.crash()
			}
			down := pause()
			m.pass(down)
			if random.IntN(2) == 0 {
				m.step(wrong())
			}
			if random.IntN(2) == 0 {
				m.reboot()
				if m.clocks.Read().Wall.Round(0).After(service.Add(down)) {
					minute, day = nil, nil // the stated exception: a reboot with the clock ahead
				}
			}
			m.start()
		default:
			m.pass(pause())
		}
		if err := spend(); err != nil {
			return n, err
		}
	}
	m.pass(25 * time.Hour)
	if w := m.ask("POST", "/api/v1/calls", key, `{"phone_number": "+4930555044", "agent_id": 1}`); w.Code != 201 {
		return n, fmt.Errorf("25 h after the last request: got %d %s", w.Code, w.Body)
	}
	return n, nil
}

// ends are a key, an earlier secret, a login and a set-up link that all end within the hour.
type ends struct{ key, old, session, link string }

func (m *machine) endings() (e ends) {
	m.t.Helper()
	_, e.key = m.key(everyPermission, `"expires_at": "`+*Seconds(m.clock.Latest(m.clock.Now()).Add(10 * time.Minute))+`"`)
	var id string
	id, e.old = m.key(everyPermission)
	m.operate(200, "POST", "/admin/v1/keys/"+id+"/rotate", `{"overlap_seconds": 600}`)
	by := m.Deed("test")
	var err1, err2 error
	e.session = keytext.RandomHex(32)
	err1 = by.Update(m.Store, func(tx *Tx) error { // there is no operator, or else the link would not be valid
		return sessionTable.Put(tx, loginSession{Hash: sessionHash(e.session), Operator: 1, CreatedAt: by.Late(), SeenAt: by.Late()})
	})
	e.link, err2 = m.Operators.SetupToken(by)
	if err1 != nil || err2 != nil {
		m.t.Fatal(err1, err2)
	}
	return e
}

// live lists what of it holds, as the doors ask.
func (m *machine) live(e ends) (list string) {
	now := m.clock.Latest(m.clock.Now())
	_, err := m.sessions.Find(e.session, sessionUse{At: now})
	for _, one := range []struct {
		name  string
		holds bool
	}{
		{"key ", m.ask("GET", "/api/v1/agents", e.key, "").Code == 200}, {"old ", m.ask("GET", "/api/v1/agents", e.old, "").Code == 200},
		{"session ", err == nil}, {"link ", m.Operators.SetupHolds(e.link, now) == nil},
	} {
		if one.holds {
			list += one.name
		}
	}
	return list
}

const allLive = "key old session link "

// TestClock_Endings sets the wall clock back after everything has ended, which must not
// begin again, and ahead before, which must not end it for ever.
func TestClock_Endings(t *testing.T) {
	const hour = time.Hour
	const years = 87600 * hour
	for _, tt := range []struct {
		name string
		do   func(m *machine)
		want string
	}{
		{"nothing", func(*machine) {}, allLive},
		{"an hour", func(m *machine) { m.pass(hour) }, ""},
		{"an hour, back 2 h", func(m *machine) { m.pass(hour); m.step(-2 * hour) }, ""},
		{"an hour, back 10 years", func(m *machine) { m.pass(hour); m.step(-years) }, ""},
		{"back 2 h, an hour", func(m *machine) { m.step(-2 * hour); m.pass(hour) }, ""},
		{"an hour asleep, back 2 h", func(m *machine) { m.sleep(hour); m.step(-2 * hour) }, ""},
		{"back 2 h and started again", func(m *machine) { m.pass(hour); m.step(-2 * hour); m.stop(); m.start() }, ""},
		{"back 2 h over a crash", func(m *machine) { m.pass(hour); m.crash(); m.step(-2 * hour); m.start() }, ""},
		{"stopped for an hour, back 2 h", func(m *machine) { m.stop(); m.pass(hour); m.step(-2 * hour); m.start() }, ""},
		{"back 10 years by a reboot", func(m *machine) {
			m.pass(hour)
			m.key(everyPermission) // a change, with which the time is stored
			m.stop()
			m.step(-years)
			m.reboot()
			m.start()
		}, ""},
		{"back 2 h for 23 h", func(m *machine) { m.pass(hour); m.step(-2 * hour); m.clock.Catch(); m.pass(23 * hour); m.clock.Catch() }, ""},
		{"ahead 10 years and back", func(m *machine) {
			m.step(years)
			m.clock.Catch()
			if list := m.live(ends{}); list != "" {
				m.t.Errorf("got %s", list)
			}
			now := m.clock.Now()
			if err := m.Keyring.Sweep(m.clock.Earliest(now)); err != nil {
				m.t.Error(err)
			}
			if err := m.sessions.Sweep(m.clock.Earliest(now)); err != nil {
				m.t.Error(err)
			}
			m.step(-years)
		}, allLive},
		{"started again 10 years ahead, and back", func(m *machine) { m.stop(); m.step(years); m.start(); m.step(-years) }, allLive},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := newMachine(t)
			e := m.endings()
			tt.do(m)
			if list := m.live(e); list != tt.want {
				t.Errorf("got %q, want %q", list, tt.want)
			}
		})
	}
}

// TestClock_Believed starts a machine with a wall clock that is years ahead and put right
// then: what ends at a date is of use again once the clock has gone so for a day. New
// logins and links hold meanwhile, too.
func TestClock_Believed(t *testing.T) {
	const years = 87600 * time.Hour
	m := newMachine(t)
	_, key := m.key(everyPermission, `"expires_at": "`+*Seconds(m.clock.Now().Add(30 * 24 * time.Hour))+`"`)
	m.stop()
	m.step(years)
	m.reboot()
	m.start()
	m.key(everyPermission)
	m.step(-years)
	if m.App.catch(); !strings.Contains(m.log.String(), "the wall clock is behind") {
		t.Error("the log does not tell of it")
	}
	if behind := m.clock.Behind(m.clock.Now()).Round(time.Hour); behind != years {
		t.Errorf("got %s behind, want %s", behind, years)
	}
	if w := m.ask("GET", "/api/v1/agents", key, ""); w.Code != 401 {
		t.Errorf("at once: got %d, want 401", w.Code)
	}
	if list := m.live(m.endings()); list != allLive {
		t.Errorf("made meanwhile: got %q", list)
	}
	m.stop()
	m.start() // the day counts anew
	m.clock.Catch()
	m.pass(23 * time.Hour)
	m.clock.Catch()
	if w := m.ask("GET", "/api/v1/agents", key, ""); w.Code != 401 {
		t.Errorf("after 23 h: got %d, want 401", w.Code)
	}
	m.pass(2 * time.Hour)
	m.clock.Catch()
	if w := m.ask("GET", "/api/v1/agents", key, ""); w.Code != 200 {
		t.Errorf("after a day: got %d %s, want 200", w.Code, w.Body)
	}
	m.stop()
	m.start()
	if w := m.ask("GET", "/api/v1/agents", key, ""); w.Code != 200 {
		t.Errorf("after a restart: got %d %s, want 200", w.Code, w.Body)
	}
	m.pass(30 * 24 * time.Hour)
	m.step(-2 * 24 * time.Hour)
	if w := m.ask("GET", "/api/v1/agents", key, ""); w.Code != 401 {
		t.Errorf("once it has ended: got %d, want 401", w.Code)
	}
}

// TestClock_Once sets the wall clock before and after a request with an Idempotency-Key. The key is known for a day of real time all
// the same, to the requests and to what deletes old ones.
func TestClock_Once(t *testing.T) {
	const call, key = `{"phone_number": "+4930555044", "agent_id": 1}`, `{"name": "made once", "permissions": ["can_read_agents"]}`
	for _, tt := range []struct{ before, after time.Duration }{{0, 30 * time.Hour}, {-30 * time.Hour, 30 * time.Hour}, {-30 * time.Hour, 60 * time.Hour}, {30 * time.Hour, -31 * time.Hour}} {
		m := newMachine(t)
		_, secret := m.key(everyPermission)
		create := func() int {
			r := httptest.NewRequest("POST", "/admin/v1/keys", strings.NewReader(key))
			r.Header.Set("Content-Type", "application/json")
			r.Header.Set("Idempotency-Key", "key-1")
			w := httptest.NewRecorder()
			m.local.ServeHTTP(w, r)
			return w.Code
		}
		again := func(what string, replayed bool, status int) {
			t.Helper()
			for _, w := range m.work {
				if w.what == "delete old idempotency keys" {
					if err := w.run(m.clock.Now()); err != nil {
						t.Fatal(err)
					}
				}
			}
			if w := m.retry(secret, "call-1", call); w.Code != 201 || (w.Header().Get("Idempotency-Replayed") != "") != replayed {
				t.Errorf("%v, %s: got %d %v, want a repeated answer: %t", tt, what, w.Code, w.Header(), replayed)
			}
			if got := create(); got != status {
				t.Errorf("%v, %s: the key is created again: got %d, want %d", tt, what, got, status)
			}
		}
		m.step(tt.before)
		again("first", false, 201)
		m.step(tt.after)
		again("after the step", true, 409)
		m.pass(23 * time.Hour)
		again("after 23 hours", true, 409)
		if tt.before <= 0 { // else the record seems to be from the future, and is known for longer
			m.pass(time.Hour)
			again("after a day", false, 201)
		}
	}
}
