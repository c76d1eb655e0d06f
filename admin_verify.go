package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"mime"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"latchkey/internal/keytext"
	"latchkey/internal/sorted"
	"latchkey/internal/strictjson"
)

// carrierVerify is the carrier that is recorded in the last use of a key if another service
// sent the key to be checked.
const carrierVerify = "verify"

// verifier serves the endpoints at which another service checks a key that it received from
// a client.
type verifier struct {
	store   *Store
	keyring *Keyring
	limiter *Limiter
	history *History
}

// NewVerifier returns a verifier for the keys in keyring. What it asks of their limit per minute is counted in history.
func NewVerifier(store *Store, keyring *Keyring, limiter *Limiter, history *History) *verifier {
	return &verifier{store: store, keyring: keyring, limiter: limiter, history: history}
}

// Routes returns the routes of the API listener. The other service needs its own key with the
// permission VerifyKeys. The limits of that key are charged as for any other request.
func (v *verifier) Routes() []Route {
	return []Route{
		{Method: "POST", Path: "/api/v1/verify", Permission: VerifyKeys, Handle: v.verify},
		{Method: "POST", Path: "/api/v1/introspect", Permission: VerifyKeys, Handle: v.introspect},
	}
}

// AdminRoutes returns the routes for operators.
func (v *verifier) AdminRoutes() []Route {
	return []Route{{Method: "POST", Path: "/admin/v1/keys/lookup", Handle: v.lookup}}
}

// questionBody are the members of a request to verify a key. Unlike in the rest of the API, others are refused:
// a service that misspells permission would be told that a key without the permission is valid.
var questionBody = OnlyFields("key", "permissions", "permission", "ip", "sandbox", "limit", "cost", "limits")

// question is the body of a request to verify a key.
type question struct {
	secret      string      // the key to check
	permissions Permission  // the permissions that the key must have
	costs       []limitCost // units to charge, in the order of the names; empty: none
	ip          netip.Addr  // address of the client that sent the key; invalid: not known
	sandbox     bool        // whether the service accepts sandbox keys
}

// limitCost is a number of units to charge to a limit.
type limitCost struct {
	name string
	cost int
}

// maxCost is the maximum number of units that one request may charge to one limit.
const maxCost = 10_000

// question reads a question from the body of a request.
func (v *verifier) question(body *Body) (q question, err error) {
	names, one, ip := []string{}, "", ""
	if err := questionBody.Check(body); err != nil {
		return q, err
	}
	body.String("key", AnyLength, &q.secret)
	body.Strings("permissions", ListBound{MaxWords, AnyLength}, &names)
	body.String("permission", AnyLength, &one)
	body.String("ip", AnyLength, &ip)
	body.Bool("sandbox", &q.sandbox)
	if err := body.Err(); err != nil {
		return q, err
	}
	if q.costs, err = readCosts(body); err != nil {
		return q, err
	}
	if q.secret == "" {
		return q, ErrMissing.With("key is missing. Send the key that your service received from its client.")
	}
	if one != "" {
		names = append(names, one)
	}
	if q.permissions, err = v.keyring.Rights().Parse(names); err != nil {
		return q, err
	}
	if q.ip, err = netip.ParseAddr(ip); err != nil && ip != "" {
		return q, ErrValidation.With("ip must be the IP address of your service's client, such as 192.0.2.1; got %q.", ip)
	}
	return q, nil
}

// readCosts returns the units to charge, in the order of the names of the limits. It reads them
// either from the fields limit and cost, or from the field limits, an object with the cost for
// each limit. The default is one unit of RequestsPerMinute.
func readCosts(body *Body) (costs []limitCost, err error) {
	limit, cost := RequestsPerMinute, 1
	body.String("limit", AnyLength, &limit)
	if body.Given("cost") {
		body.Int("cost", &cost, 0, maxCost)
	}
	if !body.Given("limits") {
		if err := body.Err(); err != nil || limit == "" {
			return nil, err
		}
		return []limitCost{{limit, cost}}, nil
	}
	list := map[string]any{}
	body.Map("limits", &list)
	if err := body.Err(); err != nil {
		return nil, err
	}
	if body.Given("limit") || body.Given("cost") {
		return nil, ErrValidation.With("limits replaces limit and cost. Send either limits, or limit and cost.")
	}
	for _, name := range slices.Sorted(maps.Keys(list)) {
		number, _ := list[name].(json.Number)
		n, err := strconv.Atoi(string(number))
		if err != nil || n < 0 || n > maxCost {
			return nil, ErrValidation.With("limits.%s must be a whole number from 0 to %d; got %v.", name, maxCost, list[name])
		}
		costs = append(costs, limitCost{name, n})
	}
	return costs, nil
}

// verify checks a key for another service. It makes the same checks in the same order, with
// the same charges, as if the client had sent its request to Latchkey. The status is 200
// even if the key is refused. The body has the result.
func (v *verifier) verify(w http.ResponseWriter, r *Request) error {
	body, err := r.ReadBody()
	if err != nil {
		return err
	}
	q, err := v.question(body)
	if err != nil {
		return err
	}
	q.sandbox = q.sandbox || r.Key.Sandbox()
	key, holder, err := v.find(r, q.secret)
	if err != nil && !errors.Is(err, ErrKey) {
		return err
	}
	answer := verification{now: r.Now, latest: r.Latest}
	if err == nil {
		answer.key = key
		for _, c := range q.costs {
			rule, ok := v.keyring.Rights().Limit(c.name)
			if !ok {
				return ErrValidation.With("limit: a key has no limit %q. GET /api/v1/key lists the limits of a key. Send null to charge no limit.", c.name)
			}
			if rule.Concurrent() {
				return ErrValidation.With("limit: %s limits requests in flight, and a verification has no end at which its place would be free again. Name a limit with a window.", c.name)
			}
		}
		err = v.check(keyCheck{q, key, holder}, r, &answer)
	}
	if err != nil {
		if answer.refusal = Public(err); answer.refusal.Status >= http.StatusInternalServerError {
			return err
		}
	}
	return WriteJSON(w, http.StatusOK, &answer)
}

// find returns the key with this secret, like Keyring.Find. A service with a sandbox key finds only sandbox keys.
func (v *verifier) find(r *Request, secret string) (*Key, *CacheEntry, error) {
	key, holder, err := v.keyring.Find(secret)
	if err == nil && r.Key.Sandbox() && !key.Sandbox() {
		return nil, nil, ErrKey
	}
	return key, holder, err
}

// verification is the answer to a request to verify a key.
type verification struct {
	key         *Key          // nil: there is no such key
	refusal     *Error        // nil: the key is valid
	charged     bool          // the limits were checked
	limits      []LimitStatus // their status
	now, latest time.Time     // of the request
}

// AppendJSON appends the answer, with its members in alphabetical order.
func (a *verification) AppendJSON(data []byte) ([]byte, error) {
	m := strictjson.Begin(data)
	code, message, status := "valid", "The key is valid.", http.StatusOK
	if a.refusal != nil {
		code, message, status = a.refusal.Code, a.refusal.Message, a.refusal.Status
	}
	m.Text("code", code)
	k := a.key
	if k != nil {
		m.Text("environment", k.Environment)
		m.Time("expires_at", k.ExpiresAt, SecondsLayout)
		m.Text("key_id", k.ID)
	}
	if len(a.limits) > 0 {
		m.Value("limit", &limitInUse{Tightest(a.limits)})
	}
	if a.charged {
		m.Value("limits", &limitsInUse{a.limits, a.now})
	}
	m.Text("message", message)
	if k != nil {
		if k.Metadata == nil {
			m.Value("metadata", map[string]string{})
		} else {
			m.Value("metadata", k.Metadata)
		}
		m.Text("name", k.Name)
		m.Text("owner", k.OwnerName)
		m.Value("permissions", k.PermissionNames())
	}
	if len(a.limits) > 0 {
		tight := Tightest(a.limits)
		m.Int("remaining", tight.Remaining())
		m.Time("resets_at", tight.ResetsAt(a.now), SecondsLayout)
	}
	if a.refusal != nil && a.refusal.RetryAfter > 0 {
		m.Int("retry_after", int((a.refusal.RetryAfter+time.Second-1)/time.Second))
	}
	if k != nil {
		m.Bool("sandbox", k.Sandbox())
		m.Time("secret_ends_at", k.SecretEnds(), SecondsLayout)
		m.Text("status", k.Status(a.latest))
	}
	m.Int("status_code", status)
	m.Bool("valid", a.refusal == nil)
	return m.End()
}

// limitInUse is the limit with the fewest remaining units in a verification.
type limitInUse struct{ *LimitStatus }

// AppendJSON appends the limit.
func (l *limitInUse) AppendJSON(data []byte) ([]byte, error) {
	m := strictjson.Begin(data)
	m.Int("max", l.Limit.Max)
	m.Text("name", l.Limit.Name)
	m.Int("used", l.Used)
	return m.End()
}

// limitsInUse are the limits in a verification, each under its name.
type limitsInUse struct {
	list []LimitStatus
	now  time.Time
}

// AppendJSON appends the limits in the order of their names.
func (l *limitsInUse) AppendJSON(data []byte) ([]byte, error) {
	if len(l.list) > 1 {
		l.list = slices.Clone(l.list)
		sorted.Func(l.list, func(a, b LimitStatus) int { return strings.Compare(a.Limit.Name, b.Limit.Name) })
	}
	m := strictjson.Begin(data)
	for i := range l.list {
		m.Value(l.list[i].Limit.Name, &oneLimitInUse{&l.list[i], l.now})
	}
	return m.End()
}

// oneLimitInUse is one of limitsInUse.
type oneLimitInUse struct {
	*LimitStatus
	now time.Time
}

// AppendJSON appends the state of the limit.
func (l *oneLimitInUse) AppendJSON(data []byte) ([]byte, error) {
	m := strictjson.Begin(data)
	m.Int("max", l.Limit.Max)
	m.Int("remaining", l.Remaining())
	m.Time("resets_at", l.ResetsAt(l.now), SecondsLayout)
	m.Int("used", l.Used)
	return m.End()
}

// keyCheck is the check of a key that was found.
type keyCheck struct {
	question
	key    *Key
	holder *CacheEntry // the entry of key in the key cache; it records the use of the key
}

// check makes all checks of a key that was found, and returns the first refusal. It records
// the use of the key once its state and the address have passed. If it has checked the
// limits, it adds them to answer.
func (v *verifier) check(c keyCheck, r *Request, answer *verification) error {
	key := c.key
	if err := key.Check(r.Latest); err != nil {
		return err
	}
	if len(key.AllowedIPs) > 0 && !c.ip.IsValid() {
		return ErrPermission.With("This key may be used only from certain addresses. Send the IP address of your client as ip.")
	}
	if !key.Allows(c.ip) {
		return ErrPermission.With("This key may not be used from %s. Its allowed_ips say from where.", AddrText(c.ip))
	}
	v.keyring.Used(c.holder, LastUse{At: r.Now, IP: c.ip, Carrier: carrierVerify})
	if len(c.costs) > 0 {
		list, err := v.spend(c, r.Steady)
		for _, one := range c.costs {
			if one.name == RequestsPerMinute {
				v.history.NoteAsked(&c.holder.Tally, key.ID, AskedOf(r.Steady, one.cost, err))
			}
		}
		if err != nil && !errors.Is(err, ErrRateLimit) {
			return err
		}
		if answer.charged, answer.limits = true, list; err != nil {
			return err
		}
	}
	if key.Sandbox() && !c.sandbox {
		return ErrPermission.With("This is a sandbox key. Send \"sandbox\": true with the key if your service accepts sandbox keys.")
	}
	if missing := c.permissions &^ key.Permissions; missing != 0 {
		return ErrPermission.With("This key lacks the permission %s. It has %s.", strings.Join(v.keyring.Rights().Names(missing), ", "), key.Holds())
	}
	return nil
}

// spend charges units to limits of a key, and returns the status of these limits. Either all limits
// are charged or none. If every cost is 0, spend only reads the limits. It returns ErrRateLimit if a
// limit has too few units left.
func (v *verifier) spend(c keyCheck, now time.Time) ([]LimitStatus, error) {
	if short := c.key.ShortLimits(); short != nil && len(c.costs) == 1 && c.costs[0] == (limitCost{RequestsPerMinute, 1}) {
		return v.limiter.SpendBy(CountedID{c.key.ID, &c.holder.Meter}, short, now, nil)
	}
	var charges []Charge
	for _, one := range c.costs {
		charges = c.key.Charge(charges, one.name, one.cost)
	}
	if slices.ContainsFunc(charges, func(c Charge) bool { return c.Cost > 0 }) {
		return v.limiter.SpendAll(charges, now, nil)
	}
	return v.limiter.Statuses(slices.DeleteFunc(charges, func(c Charge) bool { return c.Observe }), now)
}

// introspect checks a key for another service and answers in the form of RFC 7662 section
// 2.2. If the key may not be used, the answer is only {"active": false}, and so it is for a sandbox key unless the form has
// sandbox=true. introspect charges
// no limit of the key that it checks.
func (v *verifier) introspect(w http.ResponseWriter, r *Request) error {
	data, err := r.ReadAll()
	if err != nil {
		return err
	}
	if kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); kind != "application/x-www-form-urlencoded" {
		return ErrValidation.With("Send the body as application/x-www-form-urlencoded, such as token=KEY (RFC 7662 section 2.1).")
	}
	form, err := url.ParseQuery(string(data))
	if err != nil || len(form["token"]) != 1 || form.Get("token") == "" {
		return ErrMissing.With("token is missing or was sent more than once. Send token=KEY.")
	}
	key, holder, err := v.find(r, form.Get("token"))
	if err == nil && key.Sandbox() && !r.Key.Sandbox() && form.Get("sandbox") != "true" {
		err = ErrKey
	}
	if err == nil {
		err = key.Check(r.Latest)
	}
	if errors.Is(err, ErrKey) {
		return WriteJSON(w, http.StatusOK, map[string]any{"active": false})
	}
	if err != nil {
		return err
	}
	v.keyring.Used(holder, LastUse{At: r.Now, Carrier: carrierVerify})
	answer := map[string]any{
		"active": true, "scope": strings.Join(key.PermissionNames(), " "), "client_id": key.ID, "sub": key.OwnerName,
		"token_type": "Bearer", "iat": key.CreatedAt.Unix(),
	}
	if key.Sandbox() {
		answer["sandbox"] = true
	}
	if end := earliest(key.ExpiresAt, key.SecretEnds()); !end.IsZero() {
		answer["exp"] = end.Unix()
	}
	return WriteJSON(w, http.StatusOK, answer)
}

// earliest returns the earlier of two times. The zero time means never: if one time is zero,
// earliest returns the other.
func earliest(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// lookup answers which SHA-256 digests in the request belong to secrets of keys. A program
// that scans for leaked keys can check a text this way without sending the text.
func (v *verifier) lookup(w http.ResponseWriter, r *Request) error {
	body, err := r.ReadFields(OnlyFields("sha256"))
	if err != nil {
		return err
	}
	var list []string
	if body.Strings("sha256", ListBound{MaxWords, AnyLength}, &list); body.Err() != nil {
		return body.Err()
	}
	if !body.Given("sha256") {
		return ErrValidation.With("sha256 must be an array of at most %d SHA-256 digests of keys, in hex.", MaxWords)
	}
	found := []any{}
	for n, text := range list {
		d, err := keytext.ParseDigest(strings.ToLower(text))
		if err != nil {
			return ErrValidation.With("sha256[%d] %s.", n, err)
		}
		key, err := v.keyring.Lookup(d)
		if errors.Is(err, ErrKey) {
			continue
		}
		if err != nil {
			return err
		}
		found = append(found, map[string]any{
			"sha256": fmt.Sprintf("%x", d), "id": key.ID, "name": key.Name, "owner": key.OwnerName, "sandbox": key.Sandbox(), "environment": key.Environment, "status": key.Status(r.Latest),
			"present": key.SecretEnds().IsZero(), "ends_at": Seconds(key.SecretEnds()), "live": key.Check(r.Latest) == nil,
		})
	}
	return WriteJSON(w, http.StatusOK, map[string]any{"prefix": v.keyring.Prefix(), "keys": found})
}
