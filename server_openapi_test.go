package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
)

// schemaOf returns the schema of a JSON body, or nil if there is none.
func schemaOf(content openapi3.Content) *openapi3.Schema {
	media := content["application/json"]
	if media == nil || media.Schema == nil {
		return nil
	}
	return media.Schema.Value
}

// strays returns the places of the members of value that schema does not name.
func strays(schema *openapi3.Schema, value any, at string) (list []string) {
	if len(schema.OneOf) > 0 {
		for i, one := range schema.OneOf {
			if found := strays(one.Value, value, at); i == 0 || fitsSchema(one.Value, value) {
				list = found
			}
		}
		return list
	}
	switch v := value.(type) {
	case []any:
		for i, item := range v {
			if schema.Items != nil {
				list = append(list, strays(schema.Items.Value, item, fmt.Sprintf("%s[%d]", at, i))...)
			}
		}
	case map[string]any:
		more := schema.AdditionalProperties.Schema
		for name, member := range v {
			switch known := schema.Properties[name]; {
			case known != nil:
				list = append(list, strays(known.Value, member, at+"."+name)...)
			case more != nil && more.Value.Type != nil:
				list = append(list, strays(more.Value, member, at+"."+name)...)
			case more == nil:
				list = append(list, at+"."+name)
			}
		}
	}
	return list
}

func fitsSchema(schema *openapi3.Schema, value any) bool {
	return schema.VisitJSON(value, openapi3.EnableJSONSchema2020()) == nil
}

// wantCodeListed wants the code of an error to be one that the operation lists for the status.
func wantCodeListed(t testing.TB, op *openapi3.Operation, status int, body any) {
	t.Helper()
	fields, _ := body.(map[string]any)
	code, ok := fields["error"].(string)
	if !ok || status < 400 {
		return
	}
	if !slices.Contains(errorCodes(op)[fmt.Sprint(status)], code) {
		t.Errorf("openapi.json (%s): x-error-codes lacks %s for the status %d", op.OperationID, code, status)
	}
}

// errorCodes returns the error codes of an operation by status.
func errorCodes(op *openapi3.Operation) map[string][]string {
	data, err := json.Marshal(op.Extensions["x-error-codes"])
	var codes map[string][]string
	if err != nil || json.Unmarshal(data, &codes) != nil {
		return nil
	}
	return codes
}

// eachSchema calls visit with each schema of the document, and the place where it is.
func eachSchema(doc *openapi3.T, visit func(at string, s *openapi3.Schema)) {
	for name, s := range doc.Components.Schemas {
		inSchema(name, s, visit)
	}
	for path, item := range doc.Paths.Map() {
		for method, op := range item.Operations() {
			for at, content := range contentsOf(op) {
				for kind, media := range content {
					if media.Schema != nil && media.Schema.Ref == "" {
						inSchema(fmt.Sprintf("%s %s %s %s", method, path, at, kind), media.Schema, visit)
					}
				}
			}
		}
	}
}

// contentsOf returns the request body and the answers of an operation.
func contentsOf(op *openapi3.Operation) map[string]openapi3.Content {
	all := map[string]openapi3.Content{}
	if op.RequestBody != nil {
		all["body"] = op.RequestBody.Value.Content
	}
	for status, answer := range op.Responses.Map() {
		all[status] = answer.Value.Content
	}
	return all
}

func inSchema(at string, ref *openapi3.SchemaRef, visit func(string, *openapi3.Schema)) {
	visit(at, ref.Value)
	var parts []*openapi3.SchemaRef
	parts = append(parts, ref.Value.OneOf...)
	parts = slices.AppendSeq(parts, maps.Values(ref.Value.Properties))
	for _, part := range append(parts, ref.Value.Items, ref.Value.AdditionalProperties.Schema) {
		if part != nil && part.Ref == "" && part.Value != nil {
			inSchema(at, part, visit)
		}
	}
}

// TestOpenAPI_Generators wants only what the generators of clients can read: one type beside null,
// objects that say what they hold, and names that are identifiers in every language.
func TestOpenAPI_Generators(t *testing.T) {
	doc, err := description()
	if err != nil {
		t.Fatal(err)
	}
	schemas := 0
	eachSchema(doc, func(at string, s *openapi3.Schema) {
		schemas++
		if types := slices.DeleteFunc(slices.Clone(s.Type.Slice()), func(k string) bool { return k == "null" }); len(types) > 1 {
			t.Errorf("%s: has the types %v; use oneOf", at, types)
		}
		if s.Type.Includes("object") && len(s.Properties) == 0 && s.AdditionalProperties.Schema == nil {
			t.Errorf("%s: an object of which nothing is known", at)
		}
		if has := s.AdditionalProperties.Has; has != nil && *has && len(s.Properties) > 0 {
			t.Errorf("%s: additionalProperties is true, which the generators take for a map", at)
		}
	})
	if schemas < 500 {
		t.Errorf("only %d schemas", schemas)
	}
	for name := range doc.Components.Schemas {
		if !regexp.MustCompile(`^([A-Z][a-z0-9]*)+$`).MatchString(name) {
			t.Errorf("the schema %s: is no good name of a type", name)
		}
	}
	ids := map[string]string{}
	check := func(at string, op *openapi3.Operation) {
		if !regexp.MustCompile(`^[a-z]+([A-Z][A-Za-z]*)?$`).MatchString(op.OperationID) {
			t.Errorf("%s: operationId is %q, want words such as createKey", at, op.OperationID)
		}
		if other := ids[op.OperationID]; other != "" {
			t.Errorf("%s: has the operationId of %s", at, other)
		}
		ids[op.OperationID] = at
	}
	for path, item := range doc.Paths.Map() {
		for method, op := range item.Operations() {
			check(method+" "+path, op)
			for status := range op.Responses.Map() {
				if data := schemaOf(op.Responses.Value(status).Value.Content); data != nil && status >= "4" && data == doc.Components.Schemas["Error"].Value && len(errorCodes(op)[status]) == 0 {
					t.Errorf("%s %s: x-error-codes lacks the codes for %s", method, path, status)
				}
			}
			for status, codes := range errorCodes(op) {
				for _, code := range codes {
					if !slices.ContainsFunc(ErrorCatalog(), func(e errorEntry) bool { return e.Code == code }) {
						t.Errorf("%s %s: x-error-codes has %s for %s, which is not in the catalog", method, path, code, status)
					}
				}
			}
		}
	}
	for name, item := range doc.Webhooks {
		check(name, item.Post)
	}
}

// TestOpenAPI_Idempotency wants the parameter Idempotency-Key at each operation that heeds it.
func TestOpenAPI_Idempotency(t *testing.T) {
	doc, err := description()
	if err != nil {
		t.Fatal(err)
	}
	a := newTestApp(t)
	_, secret := a.key(everyPermission)
	for path, item := range doc.Paths.Map() {
		for method, op := range item.Operations() {
			if method == "GET" || op.OperationID == "deleteOwnKey" || op.OperationID == "revokeOwnKey" {
				continue
			}
			at := regexp.MustCompile(`\{[a-z_]+\}`).ReplaceAllString(path, "1")
			body := `{}`
			if s := bodySchema(op); s != nil {
				body = newInventor(a, 1).text(s)
			}
			r := httptest.NewRequest(method, at, strings.NewReader(body))
			r.Header.Set("Authorization", "Bearer "+secret)
			r.Header["Idempotency-Key"] = []string{strings.Repeat("x", 256)}
			w := httptest.NewRecorder()
			a.handlerFor(path).ServeHTTP(w, r)
			heeds := strings.Contains(w.Body.String(), "Idempotency-Key")
			if named := op.Parameters.GetByInAndName("header", "Idempotency-Key") != nil; named != heeds {
				t.Errorf("%s %s: Idempotency-Key is a parameter: %v, but is heeded: %v (%d %s)", method, path, named, heeds, w.Code, w.Body)
			}
		}
	}
}

// handlerFor returns the handler of the endpoints with a path.
func (a *testApp) handlerFor(path string) http.Handler {
	if strings.HasPrefix(path, "/admin/") || path == "/metrics" {
		return a.local
	}
	return a.api
}

func bodySchema(op *openapi3.Operation) *openapi3.Schema {
	if op.RequestBody == nil {
		return nil
	}
	return schemaOf(op.RequestBody.Value.Content)
}

// inventor makes requests from schemas. The same seed makes the same requests.
type inventor struct {
	*rand.Rand
	receiver string              // URL for webhooks
	ids      map[string][]string // ids in earlier answers, by the first part of their form
	wrong    bool                // whether values may break the schema
}

func newInventor(a *testApp, seed uint64) *inventor {
	a.t.Helper()
	receiver := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	a.t.Cleanup(receiver.Close)
	return &inventor{Rand: rand.New(rand.NewPCG(seed, seed)), receiver: receiver.URL, ids: map[string][]string{}}
}

// text returns a body for a schema, as JSON.
func (n *inventor) text(s *openapi3.Schema) string {
	data, err := json.Marshal(n.value("", s, 0))
	if err != nil {
		panic(err)
	}
	if n.wrong && n.IntN(20) == 0 {
		data = data[:n.IntN(len(data)+1)]
	}
	return string(data)
}

var hostileValues = []any{nil, "", "x", "\u0000", strings.Repeat("ä", 5000), -1, 0, 1.5, 1e30, true, []any{}, []any{1, nil}, map[string]any{}, map[string]any{"": nil}, "2026-13-40", "'\"<>\\"}

// value returns a value for the member name with the schema s, at a depth.
func (n *inventor) value(name string, s *openapi3.Schema, depth int) any {
	if n.wrong && n.IntN(8) == 0 {
		return hostileValues[n.IntN(len(hostileValues))]
	}
	switch name {
	case "wait_seconds":
		return 0
	case "url":
		return n.receiver
	case "permissions":
		return []any{"can_read_calls", "can_read_calendar"}
	case "subscribed_events":
		return []any{"call.ended", "calendar.created"}
	case "start_time", "started_at":
		return "2026-03-02T09:00:00Z"
	case "end_time", "ended_at":
		return "2026-03-02T10:00:00Z"
	}
	switch {
	case len(s.Examples) > 0 && s.Properties["wait_seconds"] == nil && n.IntN(3) > 0:
		return s.Examples[0]
	case len(s.Enum) > 0:
		return s.Enum[n.IntN(len(s.Enum))]
	case len(s.OneOf) > 0:
		return n.value(name, s.OneOf[n.IntN(len(s.OneOf))].Value, depth+1)
	case s.Type.Includes("object"):
		return n.object(s, depth)
	case s.Type.Includes("array"):
		list := []any{}
		for range n.IntN(3) {
			list = append(list, n.value("", s.Items.Value, depth+1))
		}
		return list
	case s.Type.Includes("integer"), s.Type.Includes("number"):
		return n.number(s)
	case s.Type.Includes("boolean"):
		return n.IntN(2) == 0
	}
	return n.word(name)
}

func (n *inventor) object(s *openapi3.Schema, depth int) map[string]any {
	fields := map[string]any{}
	for _, name := range slices.Sorted(maps.Keys(s.Properties)) {
		always := name == "wait_seconds" // a claim without it would wait for a call
		if always || slices.Contains(s.Required, name) && !(n.wrong && n.IntN(10) == 0) || n.IntN(3) == 0 && depth < 5 {
			fields[name] = n.value(name, s.Properties[name].Value, depth+1)
		}
	}
	if more := s.AdditionalProperties.Schema; more != nil && n.IntN(2) == 0 {
		fields["company_name"] = n.value("", more.Value, depth+1)
	}
	return fields
}

func (n *inventor) number(s *openapi3.Schema) any {
	low := 0
	if s.Min != nil {
		low = int(*s.Min)
	}
	return low + n.IntN(4)
}

func (n *inventor) word(name string) string {
	words := map[string][]string{
		"phone_number": {"+4930555044", "+4930555010"}, "email": {"mara@example.net"}, "time_zone": {"Europe/Berlin"}, "timezone": {"UTC"},
		"owner": {"admin", "ann"}, "ip": {"192.0.2.1"}, "method": {"GET", "POST"}, "path": {"/api/v1/calls", "/"}, "sha256": {strings.Repeat("ab", 32)},
		"password": {operatorPassword}, "environment": {"live"}, "scope": {"read"}, "expires_at": {"2027-01-01T00:00:00Z"}, "name": {fmt.Sprintf("name_%d", n.IntN(1000)), "a"},
	}[name]
	if words == nil {
		words = []string{"", "a", "some words", "1"}
	}
	return words[n.IntN(len(words))]
}

// learn remembers the ids in an answer.
func (n *inventor) learn(value any) {
	switch v := value.(type) {
	case []any:
		for _, item := range v[:min(len(v), 3)] {
			n.learn(item)
		}
	case map[string]any:
		for _, name := range []string{"id", "uuid", "call_id"} {
			switch id := v[name].(type) {
			case string:
				kind, _, _ := strings.Cut(id, "_")
				n.ids[kind] = append(n.ids[kind], id)
			case float64:
				n.ids[""] = append(n.ids[""], fmt.Sprint(int(id)))
			}
		}
		for _, name := range slices.Sorted(maps.Keys(v)) {
			n.learn(v[name])
		}
	}
}

// id returns a value for a parameter in a path.
func (n *inventor) id(path string) string {
	if n.IntN(6) == 0 {
		return []string{"0", "-1", "x", "99999999999999999999", "key_none", "%20", "..%2f", "%00"}[n.IntN(8)]
	}
	kind := ""
	if strings.HasPrefix(path, "/admin/v1/keys/") {
		kind = "key"
	}
	if known := n.ids[kind]; len(known) > 0 && n.IntN(2) == 0 {
		return known[n.IntN(len(known))]
	}
	return fmt.Sprint(1 + n.IntN(3))
}

// request returns a request to an operation. Every other request is one that should be refused.
func (n *inventor) request(method, path string, op *openapi3.Operation) *http.Request {
	at := regexp.MustCompile(`\{[a-z_]+\}`).ReplaceAllStringFunc(path, func(string) string { return n.id(path) })
	query := url.Values{}
	for _, p := range op.Parameters {
		if p.Value.In == "query" && (p.Value.Required || n.IntN(3) == 0) {
			query.Add(p.Value.Name, fmt.Sprint(n.value(p.Value.Name, p.Value.Schema.Value, 0)))
		}
	}
	body := ""
	if s := bodySchema(op); s != nil {
		body = n.text(s)
	} else if op.RequestBody != nil {
		body = "token=" + n.word("")
	}
	r := httptest.NewRequest(method, at+"?"+query.Encode(), strings.NewReader(body))
	if op.RequestBody != nil && bodySchema(op) == nil {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for _, p := range op.Parameters {
		if p.Value.In == "header" && n.IntN(2) == 0 {
			r.Header.Set(p.Value.Name, n.word("path"))
		}
	}
	r.RemoteAddr = "127.0.0.1:1234"
	return r
}

// walker sends requests to operations of openapi.json and holds the answers against the file.
type walker struct {
	a      *testApp
	n      *inventor
	secret string // of a key with every permission
}

func newWalker(a *testApp, n *inventor) *walker {
	w := &walker{a: a, n: n}
	w.renew()
	return w
}

// renew has the walker use a new key.
func (o *walker) renew() {
	_, o.secret = o.a.key(everyPermission[:len(everyPermission)-1]+`, "can_verify_keys"]`, `"limits": {"requests_per_minute_limit": 100000}`)
}

// visit sends one request to an operation. It holds the status of the answer, the header fields, every member
// of the body and the error code against the file.
func (o *walker) visit(method, path string, op *openapi3.Operation) (status int) {
	a, n := o.a, o.n
	a.t.Helper()
	r := n.request(method, path, op)
	if n.IntN(10) > 0 {
		r.Header.Set("Authorization", "Bearer "+o.secret)
	}
	w := httptest.NewRecorder()
	a.handlerFor(path).ServeHTTP(w, r)
	conform(a.t, r, w)
	var answer any
	if json.Unmarshal(w.Body.Bytes(), &answer) == nil {
		n.learn(answer)
	}
	if op.OperationID == "updateOwner" && w.Code == 200 { // it may have left no storage for the rest
		a.operate(200, "PATCH", r.URL.Path, `{"storage_bytes": 0}`)
	}
	if op.OperationID == "deleteOwnKey" || op.OperationID == "revokeOwnKey" || strings.HasPrefix(path, "/admin/v1/keys/{id}") {
		o.renew()
	}
	if w.Code >= 500 {
		a.t.Errorf("%s %s: got %d %s", method, r.URL, w.Code, w.Body)
	}
	return w.Code
}

// TestOpenAPI_Fuzz sends requests to every operation that are made from its schemas, half of them
// wrong, and holds each answer against the file.
func TestOpenAPI_Fuzz(t *testing.T) {
	a := newAuthz(t, func(c *Config) { c.Webhooks.AllowPrivateTargets = true })
	doc, err := description()
	if err != nil {
		t.Fatal(err)
	}
	n := newInventor(a, 1)
	statuses := map[string]map[int]int{}
	o := newWalker(a, n)
	paths := slices.Sorted(maps.Keys(doc.Paths.Map()))
	rounds, least := 4, 110
	if raceDetector {
		rounds, least = 2, 80 // every answer takes ten times as long to check
	}
	for round := range rounds {
		for _, path := range paths {
			for _, method := range []string{"POST", "GET", "PUT", "PATCH", "DELETE"} {
				op := doc.Paths.Value(path).GetOperation(method)
				if op == nil || round > 1 && path == "/admin/v1/backup" {
					continue
				}
				n.wrong = round%2 == 1
				if statuses[op.OperationID] == nil {
					statuses[op.OperationID] = map[int]int{}
				}
				statuses[op.OperationID][o.visit(method, path, op)]++
			}
		}
	}
	done := 0
	for id, of := range statuses {
		good := of[200] + of[201]
		if good > 0 {
			done++
		}
		if good == 0 {
			t.Log(id, of)
		}
	}
	if done < least {
		t.Errorf("only %d of %d operations had a request that was not refused", done, len(statuses))
	}
}

// byteSource is a source of random numbers that a fuzz engine chooses, one for each byte. After the last byte
// it goes on with a fixed seed.
type byteSource struct {
	data []byte
	rest *rand.PCG
}

// Uint64 returns the next number. The byte is at both ends of it, because rand.IntN uses either.
func (s *byteSource) Uint64() uint64 {
	if len(s.data) == 0 {
		return s.rest.Uint64()
	}
	b := uint64(s.data[0])
	s.data = s.data[1:]
	return b<<56 | 0x00a5a5a5a5a5a500 | b
}

// FuzzOpenAPI is TestOpenAPI_Fuzz with requests that the fuzz engine chooses: up to 8 of them to any operations
// of a new service, one after the other.
func FuzzOpenAPI(f *testing.F) {
	doc, err := description()
	if err != nil {
		f.Fatal(err)
	}
	type operation struct {
		method, path string
		op           *openapi3.Operation
	}
	var all []operation
	for _, path := range slices.Sorted(maps.Keys(doc.Paths.Map())) {
		for _, method := range []string{"POST", "GET", "PUT", "PATCH", "DELETE"} {
			slow := path == "/admin/v1/backup" || path == "/admin/v1/calls/claim" // the latter waits for a call
			if op := doc.Paths.Value(path).GetOperation(method); op != nil && !slow {
				all = append(all, operation{method, path, op})
			}
		}
	}
	receiver := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	f.Cleanup(receiver.Close)
	f.Add([]byte{})
	for seed := range uint64(12) {
		text := make([]byte, 240)
		for i, from := 0, rand.New(rand.NewPCG(seed, 1)); i < len(text); i++ {
			text[i] = byte(from.Uint32())
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, choices []byte) {
		from := &byteSource{choices, rand.NewPCG(1, 1)}
		n := &inventor{Rand: rand.New(from), receiver: receiver.URL, ids: map[string][]string{}}
		o := newWalker(newAuthz(t, func(c *Config) { c.Webhooks.AllowPrivateTargets = true }), n)
		for i := 0; i < 8 && len(from.data) > 0; i++ {
			next := all[n.IntN(len(all))]
			n.wrong = n.IntN(2) == 1
			o.visit(next.method, next.path, next.op)
		}
	})
}

// TestOpenAPI_Webhooks holds the payloads of all types of events against the file.
func TestOpenAPI_Webhooks(t *testing.T) {
	doc, err := description()
	if err != nil {
		t.Fatal(err)
	}
	if got, want := slices.Sorted(maps.Keys(doc.Webhooks)), slices.Sorted(slices.Values(OperatorEventTypes())); !slices.Equal(got, want) {
		t.Fatalf("openapi.json has the webhooks %v, want %v", got, want)
	}
	fits := func(kind string, body []byte) {
		t.Helper()
		item := doc.Webhooks[kind]
		if item == nil {
			t.Fatalf("no webhook %q", kind)
		}
		schema := bodySchema(item.Post)
		var value any
		if err := json.Unmarshal(body, &value); err != nil {
			t.Fatal(err)
		}
		if err := schema.VisitJSON(value, openapi3.EnableJSONSchema2020()); err != nil {
			t.Errorf("%s: %v\n%s", kind, err, body)
		}
		if list := strays(schema, value, kind); len(list) > 0 {
			t.Errorf("openapi.json lacks %v\n%s", list, body)
		}
	}
	for _, kind := range OperatorEventTypes() {
		body, err := payload(sample(kind, epoch))
		if err != nil {
			t.Fatal(err)
		}
		fits(kind, body)
	}
	seen := map[string]bool{}
	for _, e := range publishedEvents(t) {
		seen[e.kind] = true
		fits(e.kind, e.body)
	}
	for _, kind := range []string{"call.queued", "call.started", "call.ended", "call.failed", "call.transcript", "call.recording", "call.summary",
		"calendar.created", "calendar.updated", "calendar.cancelled", KeyCreated, KeyRotated, KeyRevoked, KeyPaused, KeyResumed} {
		if !seen[kind] {
			t.Errorf("no event %s was published", kind)
		}
	}
}

// publishedEvent is an event with the body that webhooks receive.
type publishedEvent struct {
	kind string
	body []byte
}

// publishedEvents returns what a webhook of the operator receives while keys, calls and events change.
func publishedEvents(t *testing.T) (list []publishedEvent) {
	t.Helper()
	a := newTestApp(t)
	kinds, err := json.Marshal(OperatorEventTypes())
	if err != nil {
		t.Fatal(err)
	}
	a.operate(201, "POST", "/admin/v1/webhooks", `{"name": "all", "url": "https://hooks.example.net/x", "subscribed_events": `+string(kinds)+`}`)
	id, secret := a.key(everyPermission)
	for _, change := range []string{"pause", "resume", "rotate", "revoke"} {
		if change == "revoke" {
			a.callsAndEvents(secret)
		}
		a.operate(200, "POST", "/admin/v1/keys/"+id+"/"+change, "")
	}
	err = a.Store.View(func(tx *Tx) error {
		for e, err := range eventTable.All(tx, Forward) {
			if err != nil {
				return err
			}
			body, err := findBody(tx, e.ID)
			if err != nil {
				return err
			}
			list = append(list, publishedEvent{e.Type, body})
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// callsAndEvents has a call complete and another fail, and changes an event.
func (a *testApp) callsAndEvents(secret string) {
	a.t.Helper()
	a.operate(201, "POST", "/admin/v1/agents", `{"name": "Front desk", "phone_number": "+4930555001"}`)
	a.operate(201, "POST", "/admin/v1/contacts", `{"first_name": "Mara", "phone_numbers": [{"phone_number": "+4930555044"}]}`)
	for _, end := range []string{
		`/complete {"summary": "Done.", "transcript": "Hello.", "recording_url": "https://files.example.net/1.mp3", "lease_token": `,
		`/fail {"error_reason": "busy", "lease_token": `,
	} {
		if w := a.ask("POST", "/api/v1/calls", secret, `{"agent_id": 1, "phone_number": "+4930555044", "contact_id": 1}`); w.Code != 201 {
			a.t.Fatalf("got %d %s", w.Code, w.Body)
		}
		claim := a.operate(200, "POST", "/admin/v1/calls/claim", "")
		token, err := json.Marshal(claim["lease"].(map[string]any)["token"])
		if err != nil {
			a.t.Fatal(err)
		}
		call, done := fmt.Sprintf("/admin/v1/calls/%v", claim["call"].(map[string]any)["id"]), strings.SplitN(end, " ", 2)
		if done[0] == "/complete" {
			a.operate(200, "POST", call+"/start", `{"lease_token": `+string(token)+`}`)
		}
		a.operate(200, "POST", call+done[0], done[1]+string(token)+"}")
	}
	a.operate(201, "POST", "/admin/v1/events", `{"title": "Visit", "start_time": "2026-03-02T09:00:00Z", "end_time": "2026-03-02T10:00:00Z"}`)
	a.operate(200, "PATCH", "/admin/v1/events/1", `{"title": "Long visit"}`)
	a.operate(200, "POST", "/admin/v1/events/1/cancel", `{"reason": "ill"}`)
}

// A body fits its schema only with all required members, of the right type and form.
func TestOpenAPI_Fits(t *testing.T) {
	schemas, err := describedSchemas()
	if err != nil {
		t.Fatal(err)
	}
	const place = "#/paths/~1api~1v1~1agents/get/responses/401"
	op, at := described(t, "GET", "/api/v1/agents")
	if op == nil || at+"/responses/401" != place {
		t.Fatalf("got the place %s", at)
	}
	at = op.Responses.Status(401).Ref + "/content/application~1json/schema"
	for body, want := range map[string]bool{
		`{"error": "invalid_api_key", "message": "m", "request_id": "r", "details": {}}`: true, `{"error": 1}`: false, `{}`: false, `[]`: false,
	} {
		var value any
		if err := json.Unmarshal([]byte(body), &value); err != nil {
			t.Fatal(err)
		}
		if err := schemas.fits(at, value); want != (err == nil) {
			t.Errorf("%s: got %v", body, err)
		}
	}
	if schemas.fits("#/nowhere", nil) == nil {
		t.Error("a place that is not there has a schema")
	}
}
