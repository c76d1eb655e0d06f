package reference

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"

	"latchkey/internal/fold"
)

// contents is the table of contents of openapi.json. Of operations and schemas it holds only where in
// the file they are: read, all of them would be a large part of an idle server's memory.
type contents struct {
	Info      info
	groups    []group
	schemas   map[string][]byte
	responses map[string]response
}

type info struct{ Title, Summary, Description string }

// group has the operations with one tag, sorted by path and then by method.
type group struct {
	Name, Anchor string
	Operations   []entry
}

// entry is an operation in the table of contents.
type entry struct {
	ID, Method, Path, Summary string
	raw                       []byte // its part of openapi.json
}

type operation struct {
	ID          string `json:"operationId"`
	Summary     string
	Description string
	Tags        []string
	Permission  string `json:"x-permission"`
	Limit       string `json:"x-limit"`
	Security    *[]any
	Parameters  []parameter
	Body        struct {
		Required bool
		Content  map[string]media
	} `json:"requestBody"`
	Responses map[string]response
}

type parameter struct {
	Name, In, Description string
	Required              bool
	Schema                schema
}

type media struct{ Schema schema }

type response struct {
	Ref         string `json:"$ref"`
	Description string
	Content     map[string]media
}

// Meaning returns the description of the parameter and of its values.
func (p parameter) Meaning() string {
	notes := []string{p.Description, p.Schema.Note()}
	return strings.Join(slices.DeleteFunc(notes, func(s string) bool { return s == "" }), "; ")
}

// read reads openapi.json.
func (f *Reference) read() (*contents, error) {
	var doc struct {
		Info       info
		Tags       []struct{ Name string }
		Paths      map[string]map[string]json.RawMessage
		Webhooks   map[string]map[string]json.RawMessage
		Components struct {
			Schemas   map[string]json.RawMessage
			Responses map[string]response
		}
	}
	file, err := f.openAPI()
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(file, &doc); err != nil {
		return nil, fmt.Errorf("read openapi.json: %w", err)
	}
	c := &contents{Info: doc.Info, schemas: map[string][]byte{}, responses: doc.Components.Responses}
	for name, raw := range doc.Components.Schemas {
		c.schemas[name] = within(file, raw)
	}
	for _, tag := range doc.Tags {
		c.groups = append(c.groups, group{Name: tag.Name, Anchor: anchor(tag.Name)})
	}
	for _, route := range slices.Sorted(maps.Keys(doc.Paths)) {
		for _, method := range []string{"get", "post", "put", "patch", "delete"} {
			raw, ok := doc.Paths[route][method]
			if !ok {
				continue
			}
			var op operation
			if err := json.Unmarshal(raw, &op); err != nil {
				return nil, fmt.Errorf("read openapi.json: %s %s: %w", method, route, err)
			}
			for i, g := range c.groups {
				if slices.Contains(op.Tags, g.Name) {
					c.groups[i].Operations = append(g.Operations, entry{op.ID, strings.ToUpper(method), route, op.Summary, within(file, raw)})
				}
			}
		}
	}
	events := group{Name: "Webhook events", Anchor: "webhook-events"}
	for _, name := range slices.Sorted(maps.Keys(doc.Webhooks)) {
		var op operation
		if err := json.Unmarshal(doc.Webhooks[name]["post"], &op); err != nil {
			return nil, fmt.Errorf("read openapi.json: webhook %s: %w", name, err)
		}
		events.Operations = append(events.Operations, entry{op.ID, "POST", name, op.Summary, within(file, doc.Webhooks[name]["post"])})
	}
	c.groups = append(c.groups, events)
	return c, nil
}

// within returns the bytes of file, which is openapi.json, that are equal to part, so that the copy can be freed.
func within(file, part []byte) []byte {
	if at := bytes.Index(file, part); at >= 0 {
		return file[at : at+len(part) : at+len(part)]
	}
	return part
}

// has reports whether an audience can use an endpoint.
func (a Audience) has(e entry) bool { return a == Operators || !strings.HasPrefix(e.Path, "/admin/") }

// find returns the groups with the operations that an audience can use and that have each word of
// search in their name, path, method or group.
func (c *contents) find(audience Audience, search string) (found []group) {
	words := fold.Words(search)
	for _, g := range c.groups {
		some := group{Name: g.Name, Anchor: g.Anchor}
		for _, e := range g.Operations {
			if audience.has(e) && fold.Match(words, e.Summary, e.Path, e.Method, e.ID, g.Name) {
				some.Operations = append(some.Operations, e)
			}
		}
		if len(some.Operations) > 0 {
			found = append(found, some)
		}
	}
	return found
}

// errNoOperation means that an audience has no operation with an id.
var errNoOperation = errors.New("there is no such operation")

// schema returns the schema with a name, or an empty one.
func (c *contents) schema(name string) (s schema) {
	_ = json.Unmarshal(c.schemas[name], &s) // New has checked the JSON
	return s
}

// shown is an operation as its page shows it.
type (
	shown struct {
		operation
		Method, Path, Curl, Group string
		Body                      *shape
		BodyType                  string
		Answers                   []shownAnswer
		Keyed                     bool
		Schemas                   []shape // the schemas that it uses
	}
	shownAnswer struct {
		Status, Description string
		Type                []typePart
	}
	shape struct {
		Name    string
		Type    []typePart
		Members []member
	}
)

// show returns what the page of an operation shows. It returns errNoOperation if the audience has none
// with this id.
func (c *contents) show(audience Audience, id string, bases Bases) (*shown, error) {
	for _, g := range c.groups {
		for _, e := range g.Operations {
			if e.ID != id || !audience.has(e) {
				continue
			}
			o := &shown{Method: e.Method, Path: e.Path, Group: g.Name}
			if err := json.Unmarshal(e.raw, &o.operation); err != nil {
				return nil, fmt.Errorf("read openapi.json: %w", err)
			}
			c.fill(o)
			c.addSchemas(o, e.raw)
			if strings.HasPrefix(e.Path, "/") { // otherwise this service sends it
				o.Curl = c.curl(o, bases)
			}
			return o, nil
		}
	}
	return nil, errNoOperation
}

// fill sets the body and the answers of an operation.
func (c *contents) fill(o *shown) {
	o.Keyed = o.Security == nil
	for _, kind := range slices.Sorted(maps.Keys(o.operation.Body.Content)) {
		if s := o.operation.Body.Content[kind].Schema; o.Body == nil {
			o.Body, o.BodyType = &shape{Name: kind, Type: s.Type(), Members: s.members()}, kind
		}
	}
	for _, status := range slices.Sorted(maps.Keys(o.Responses)) {
		answer := o.Responses[status]
		if answer.Ref != "" {
			answer = c.responses[path.Base(answer.Ref)]
		}
		a := shownAnswer{Status: status, Description: answer.Description}
		for _, kind := range slices.Sorted(maps.Keys(answer.Content)) {
			if kind == "application/json" {
				a.Type = answer.Content[kind].Schema.Type()
			} else {
				a.Type = append(a.Type, typePart{Text: kind})
			}
		}
		o.Answers = append(o.Answers, a)
	}
}

// schemaRefs matches references to schemas in openapi.json.
var schemaRefs = regexp.MustCompile(`"#/components/schemas/([^"]+)"`)

// addSchemas adds the schemas that an operation uses, and those that they use. raw is its part of
// openapi.json.
func (c *contents) addSchemas(o *shown, raw []byte) {
	used := schemaRefs.FindAllSubmatch(raw, -1)
	for _, a := range o.Answers { // of shared answers, which are elsewhere in openapi.json
		for _, part := range a.Type {
			used = append(used, [][]byte{nil, []byte(part.Schema)})
		}
	}
	for i := 0; i < len(used); i++ { // grows by what the schemas use
		name := string(used[i][1])
		if name == "" || slices.ContainsFunc(o.Schemas, func(s shape) bool { return s.Name == name }) {
			continue
		}
		s := c.schema(name)
		o.Schemas = append(o.Schemas, shape{Name: name, Type: s.Type(), Members: s.members()})
		used = append(used, schemaRefs.FindAllSubmatch(c.schemas[name], -1)...)
	}
}

// Endpoint is an operation of the API, for pages of other packages.
type Endpoint struct {
	Title, Method, Path, Group string
	HTML, Answers              template.HTML // its description, and that of its answers and schemas
	Inputs                     []Input
	Body, BodyType             string // a sample of the body and its content type; "" if it has none
	Keyed                      bool   // requires a key
}

// Input is a parameter in the path, in the query, or in a field of the header. Sample is a value that
// fits.
type Input struct {
	Name, In, Note, Sample string
	Required               bool
}

// List returns a list of the endpoints for audience that match search, as HTML.
func (f *Reference) List(audience Audience, search string) (template.HTML, error) {
	all, err := f.contents()
	if err != nil {
		return "", err
	}
	text, err := f.render("index", map[string]any{"Groups": all.find(audience, search)})
	return template.HTML(text), err
}

// Endpoint returns the endpoint with an operation id. ok is false if audience has no such one.
func (f *Reference) Endpoint(audience Audience, id string, bases Bases) (e Endpoint, ok bool, err error) {
	all, err := f.contents()
	if err != nil {
		return e, false, err
	}
	o, err := all.show(audience, id, bases)
	if errors.Is(err, errNoOperation) {
		return e, false, nil
	}
	if err != nil {
		return e, false, err
	}
	text, err1 := f.render("operation", o)
	answers, err2 := f.render("answers", o)
	e = Endpoint{Title: o.Summary, Method: o.Method, Path: o.Path, Group: o.Group, HTML: template.HTML(text), Answers: template.HTML(answers), BodyType: o.BodyType, Keyed: o.Keyed}
	if o.Body != nil {
		e.Body = all.sampleBody(o, "  ")
	}
	for _, p := range o.Parameters {
		in := Input{Name: p.Name, In: p.In, Note: p.Description, Required: p.Required || p.In == "path"}
		if in.Required {
			in.Sample = fmt.Sprint(p.Schema.sample(all.schema))
		}
		e.Inputs = append(e.Inputs, in)
	}
	return e, true, errors.Join(err1, err2)
}

// sampleBody returns a body for an operation that has one. indent is for JSON; "" puts it on one line.
func (c *contents) sampleBody(o *shown, indent string) string {
	s := o.operation.Body.Content[o.BodyType].Schema
	if o.BodyType != "application/json" {
		return "token=..."
	}
	var text bytes.Buffer
	enc := json.NewEncoder(&text)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", indent)
	_ = enc.Encode(s.sample(c.schema)) // a value that was read from JSON can be written
	return strings.TrimSpace(text.String())
}

// anchor returns the HTML id of the section with a name.
func anchor(name string) string {
	return strings.ToLower(strings.NewReplacer(" ", "-", ":", "").Replace(name))
}

// curl returns a curl command that calls the operation. It has sample values for the parameters in
// the path, the required query parameters and the body.
func (c *contents) curl(o *shown, bases Bases) string {
	base, key := bases.API, ""
	switch {
	case strings.HasPrefix(o.Path, "/admin/"):
		base, key = bases.Admin, "$LATCHKEY_ADMIN_TOKEN"
	case o.Keyed:
		key = "$KEY"
	}
	at, query := o.Path, ""
	for _, p := range o.Parameters {
		value := p.Schema.sample(c.schema)
		if p.In == "path" {
			at = strings.ReplaceAll(at, "{"+p.Name+"}", fmt.Sprint(value))
		}
		if p.In == "query" && p.Required {
			query += fmt.Sprintf("&%s=%v", p.Name, value)
		}
	}
	if query != "" {
		query = "?" + query[1:]
	}
	line := "curl"
	if o.Method != "GET" && (o.Method != "POST" || o.Body == nil) {
		line += " -X " + o.Method
	}
	if key != "" {
		line += ` -H "Authorization: Bearer ` + key + `"`
	}
	line += ` "` + base + at + query + `"`
	if o.Body != nil {
		data := c.sampleBody(o, "")
		if o.BodyType != "application/json" {
			return line + " -d " + data
		}
		line += ` -d '` + strings.ReplaceAll(data, "'", `'\''`) + `'`
	}
	return line
}
