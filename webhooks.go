// The webhooks family stores events with the change that they report, and sends
// them. Read webhooks.go first (subscriptions), then webhooks_events.go (publish),
// webhooks_queue.go (deliveries and retries), webhooks_log.go (the attempts, and
// sending again), webhooks_outbox.go (how events are stored),
// webhooks_references.go (the check of that), webhooks_sender.go (signing, sending,
// allowed targets), webhooks_causes.go (what owners learn of failures) and
// webhooks_notices.go (events of time rather than of a change).
// A request never waits for a receiver.

package main

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"latchkey/internal/keytext"
)

// The published API does not describe most of the management of webhooks. The service therefore
// follows rules of its own:
//
//   - name, url and subscribed_events are required, with at least one event.
//   - Any active key may call the endpoints. To create or change a webhook for
//     call.* events, the key needs can_read_calls. For calendar.* events it
//     needs can_read_calendar. Otherwise a key could have data sent elsewhere
//     that it may not read itself.
//   - A key sees the webhooks of its owner, and a key with Resources only those that it created. They remain when the key is revoked, unless the operator
//     ends those that it created at the same time.
//   - Only the answer to create contains the secret.
//   - PUT requires all three fields, PATCH none. is_active keeps its value if it
//     is not sent. Deleting a webhook also deletes its pending deliveries and its
//     log.
//   - The paths of list, update, delete, test and logs follow the style of
//     create.
const secretPrefix = "whsec_" // start of every secret

// WebhookAdmin serves the endpoints with which owners and the operator manage webhooks. It is safe
// for concurrent use.
type WebhookAdmin struct {
	store   *Store
	peppers Peppers
	targets *TargetPolicy
	sender  *Sender
}

// NewWebhookAdmin returns the endpoints for the webhooks in store. Signing needs the plaintext of a
// secret, so a secret is not hashed but encrypted with Peppers.Encrypt. The database file alone
// does not reveal it.
func NewWebhookAdmin(store *Store, peppers Peppers, targets *TargetPolicy, sender *Sender) *WebhookAdmin {
	return &WebhookAdmin{store, peppers, targets, sender}
}

// Routes returns the endpoints for owners. Requests to them count only toward the limit per minute.
func (h *WebhookAdmin) Routes() []Route {
	return []Route{
		{Method: "GET", Path: "/api/webhooks", Handle: h.list},
		{Method: "POST", Path: "/api/webhooks/create", Handle: h.create},
		{Method: "PUT", Path: "/api/webhooks/:id/update", Handle: h.update, Object: webhookExists},
		{Method: "PATCH", Path: "/api/webhooks/:id/update", Handle: h.update, Object: webhookExists},
		{Method: "DELETE", Path: "/api/webhooks/:id/delete", Handle: h.remove, Finishes: true, Object: webhookExists},
		{Method: "POST", Path: "/api/webhooks/:id/test", Handle: h.test, Object: webhookExists},
		{Method: "GET", Path: "/api/webhooks/:id/logs", Handle: h.logs, Query: []string{"page", "limit"}, Object: webhookExists},
	}
}

// AdminRoutes returns the endpoints for the operator, who sees all webhooks. A webhook that the
// operator creates without naming an owner receives the events of all owners.
func (h *WebhookAdmin) AdminRoutes() []Route {
	return []Route{
		{Method: "GET", Path: "/admin/v1/webhooks", Handle: h.listAll, Query: []string{"page", "limit", "failing", "sandbox"}},
		{Method: "POST", Path: "/admin/v1/webhooks", Handle: h.create},
		{Method: "GET", Path: "/admin/v1/webhooks/:id", Handle: h.get},
		{Method: "PATCH", Path: "/admin/v1/webhooks/:id", Handle: h.update},
		{Method: "DELETE", Path: "/admin/v1/webhooks/:id", NoBody: true, Handle: h.remove},
		{Method: "POST", Path: "/admin/v1/webhooks/:id/test", Handle: h.test},
		{Method: "POST", Path: "/admin/v1/webhooks/:id/redeliver", Handle: h.redeliver},
		{Method: "POST", Path: "/admin/v1/webhooks/:id/retry-failed", NoBody: true, Handle: h.retryFailed},
		{Method: "GET", Path: "/admin/v1/webhooks/:id/logs", Handle: h.logs, Query: []string{"page", "limit", "failed"}},
		{Method: "GET", Path: "/admin/v1/webhooks/:id/logs/:entry", Handle: h.entry},
		{Method: "POST", Path: "/admin/v1/webhooks/release", Handle: h.release},
	}
}

// existsFor reports whether a key may see and change the webhook.
func (w webhook) existsFor(k *Key) bool {
	return w.Owner == k.Owner && (k.Resources == nil || w.CreatedBy == k.ID)
}

// webhookExists is the Route.Object of routes with the id of a webhook.
func webhookExists(tx *Tx, key *Key, ref string) error {
	id, err := strconv.ParseUint(ref, 10, 64)
	if err != nil {
		return ErrNotFound
	}
	w, err := findWebhook(tx, id)
	if err == nil && !w.existsFor(key) {
		err = ErrNotFound
	}
	return err
}

// find returns the webhook with the id in the path. It returns ErrNotFound if there is no such
// webhook, or if it does not exist for the caller's key.
func (h *WebhookAdmin) find(tx *Tx, r *Request) (webhook, error) {
	id, err := r.NumberParam("id")
	if err != nil {
		return webhook{}, err
	}
	w, err := findWebhook(tx, id)
	if err == nil && r.Key != nil && !w.existsFor(r.Key) {
		return webhook{}, ErrNotFound
	}
	return w, err
}

// webhookBody returns the members that the body of a webhook may have.
func webhookBody() BodyFields {
	return BodyFields{
		Set: []string{"name", "url", "subscribed_events", "is_active", "owner"},
		Shown: []string{
			"id", "message", "sandbox", "resources", "disabled_reason", "failing_since", "last_attempt", "next_attempt_at", "dropped", "waiting", "waiting_bytes",
			"created_at", "created_by", "updated_at", "updated_by",
		},
	}
}

func (h *WebhookAdmin) create(w http.ResponseWriter, r *Request) error {
	body, err := r.ReadFields(webhookBody())
	if err != nil {
		return err
	}
	var secret string
	var shown map[string]any
	err = r.Update(h.store, func(tx *Tx) error {
		hook, made, err := h.Create(tx, r, body)
		if err != nil {
			return err
		}
		secret = made
		shown, err = showWebhook(tx, r, hook)
		return err
	})
	if err != nil {
		return err
	}
	shown["secret"], shown["message"] = secret, "Created. Store the secret now: it is shown only here."
	return WriteJSON(w, http.StatusCreated, shown)
}

// Create stores a new webhook with the fields of body and returns it with its secret.
func (h *WebhookAdmin) Create(tx *Tx, r *Request, body *Body) (hook webhook, secret string, err error) {
	if hook, err = h.New(tx, r, body); err != nil {
		return hook, "", err
	}
	if list, err := WebhooksOfOwner(tx, hook.Owner); err != nil {
		return hook, "", err
	} else if most := tx.Bounds.Webhooks; most > 0 && len(list) >= most {
		return hook, "", ErrValidation.With("The owner already has %s webhooks; the maximum is %s (webhooks). Delete one first.", Figure(len(list)), Figure(most))
	}
	if hook.ID, err = newWebhookID(tx); err != nil {
		return hook, "", err
	}
	secret = secretPrefix + keytext.RandomHex(32)
	if hook.Secret, err = h.peppers.Encrypt(secretPurpose, hook.Bound(), secret); err != nil {
		return hook, "", err
	}
	return hook, secret, saveWebhook(tx, hook)
}

// New returns a webhook with the fields of body, which it checks. It stores nothing but an owner that does not exist yet.
func (h *WebhookAdmin) New(tx *Tx, r *Request, body *Body) (hook webhook, err error) {
	hook = webhook{Active: true, CreatedAt: r.Now, UpdatedAt: r.Now}
	if hook.Owner, err = h.owner(tx, r, body); err != nil {
		return hook, err
	}
	if r.Key != nil {
		hook.Resources = r.Key.Resources
	}
	return hook, h.fill(r, &hook, body, allFields)
}

// Change stores the webhook with this id with the fields that body has, and returns it.
func (h *WebhookAdmin) Change(tx *Tx, r *Request, id uint64, body *Body) (webhook, error) {
	hook, err := findWebhook(tx, id)
	if err != nil {
		return hook, err
	}
	return h.change(tx, r, hook, body, someFields)
}

func (h *WebhookAdmin) change(tx *Tx, r *Request, hook webhook, body *Body, needed neededFields) (webhook, error) {
	if err := h.fill(r, &hook, body, needed); err != nil {
		return hook, err
	}
	if r.Key == nil { // a key is of one owner
		if err := KeepOwner(tx, body, hook.Owner, "webhook"); err != nil {
			return hook, err
		}
	}
	hook.UpdatedAt = r.Now
	return hook, saveWebhook(tx, hook)
}

// owner returns the id of the owner of a new webhook. If the caller uses a key, that is the key's
// owner. Otherwise it is the owner named in the body, who is created if necessary, or 0 if the body
// names none.
func (h *WebhookAdmin) owner(tx *Tx, r *Request, body *Body) (uint64, error) {
	if r.Key != nil {
		return r.Key.Owner, nil
	}
	name := ""
	if body.String("owner", NameLength, &name); body.Err() != nil || name == "" {
		return 0, body.Err()
	}
	o, err := EnsureOwner(tx, name, r.Now)
	return o.ID, err
}

// neededFields selects which of the fields name, url and subscribed_events a body must have.
type neededFields int

const (
	someFields neededFields = iota // none of them, but a field that is sent must have a value
	allFields
)

// fill sets the fields of w from the body and checks them. Do not store w after an error.
func (h *WebhookAdmin) fill(r *Request, w *webhook, body *Body, needed neededFields) error {
	for _, name := range []string{"name", "url", "subscribed_events"} {
		if !body.Given(name) && (needed == allFields || body.Has(name)) {
			return ErrMissing.With("%s is missing. A webhook has name, url and subscribed_events.", name)
		}
	}
	was := w.Active
	body.String("name", NameLength, &w.Name)
	body.String("url", URLLength, &w.URL)
	body.Strings("subscribed_events", ListBound{MaxWords, AnyLength}, &w.Events)
	body.Bool("is_active", &w.Active)
	if err := body.Err(); err != nil {
		return err
	}
	if w.Active && !was {
		w.Reason = ""
	}
	if strings.TrimSpace(w.Name) == "" {
		return ErrValidation.With("name must not be blank.")
	}
	if body.Has("url") {
		if err := h.targets.CheckURL(w.URL); err != nil {
			return err
		}
	}
	if err := checkEvents(w); err != nil {
		return err
	}
	return maySubscribe(r.Key, w.Events)
}

// checkEvents returns ErrValidation if w subscribes to no event or to an unknown event. It removes
// duplicate events from w.
func checkEvents(w *webhook) error {
	known := EventTypes()
	if w.Owner == 0 {
		known = OperatorEventTypes()
	}
	var events []string
	for _, event := range w.Events {
		if !slices.Contains(known, event) {
			return ErrValidation.With("subscribed_events has the unknown event %q. The known events are %s.", event, strings.Join(known, ", "))
		}
		if !slices.Contains(events, event) {
			events = append(events, event)
		}
	}
	if len(events) == 0 {
		return ErrValidation.With("subscribed_events must contain at least one of %s.", strings.Join(known, ", "))
	}
	w.Events = events
	return nil
}

// maySubscribe returns ErrPermission if k lacks the permission to read the data in one of the
// events. k is nil for the operator, who may read everything.
func maySubscribe(k *Key, events []string) error {
	for _, event := range events {
		needed := ReadCalls
		if strings.HasPrefix(event, "calendar.") {
			needed = ReadCalendar
		}
		if k != nil && !k.Has(needed) {
			name := needed.Names()[0]
			e := ErrPermission.With("This key lacks the permission %s, which a webhook for %s needs.", name, event)
			e.Challenge = `Bearer realm="latchkey", error="insufficient_scope", scope="` + name + `"`
			return e
		}
	}
	return nil
}

func (h *WebhookAdmin) update(w http.ResponseWriter, r *Request) error {
	body, err := r.ReadBody()
	if err != nil {
		return err
	}
	r.Finishes = body.Only("is_active", "false")
	return h.answer(w, r, func(tx *Tx) (map[string]any, error) {
		hook, err := h.find(tx, r)
		if err == nil {
			err = r.CheckFields(body, webhookBody())
		}
		if err != nil {
			return nil, err
		}
		needed := someFields
		if r.Method == http.MethodPut {
			needed = allFields
		}
		if hook, err = h.change(tx, r, hook, body, needed); err != nil {
			return nil, err
		}
		return showWebhook(tx, r, hook)
	})
}

// answer runs change in a write transaction and sends the object that change returns as the answer.
func (h *WebhookAdmin) answer(w http.ResponseWriter, r *Request, change func(*Tx) (map[string]any, error)) error {
	var shown map[string]any
	err := r.Update(h.store, func(tx *Tx) (err error) {
		shown, err = change(tx)
		return err
	})
	if err != nil {
		return err
	}
	return WriteJSON(w, http.StatusOK, shown)
}

func (h *WebhookAdmin) remove(w http.ResponseWriter, r *Request) error {
	return h.answer(w, r, func(tx *Tx) (map[string]any, error) {
		hook, err := h.find(tx, r)
		if err != nil {
			return nil, err
		}
		return map[string]any{"message": "Deleted."}, RemoveWebhook(tx, hook.ID)
	})
}

// Fields returns the fields of a body that creates the webhook, without those that have their default.
func (w webhook) Fields(tx *Tx) map[string]any {
	fields := map[string]any{"name": w.Name, "url": w.URL, "subscribed_events": slices.Sorted(slices.Values(w.Events))}
	if w.Owner != 0 {
		fields["owner"] = OwnerName(tx, w.Owner)
	}
	if !w.Active {
		fields["is_active"] = false
	}
	return fields
}

// CountWebhooks returns the number of webhooks of all owners and of the operator.
func CountWebhooks(tx *Tx) (int, error) { return webhookTable.Count(tx) }

// AllWebhooks returns the webhooks of all owners and of the operator, oldest first.
func AllWebhooks(tx *Tx) (list []webhook, err error) {
	for w, err := range webhookTable.All(tx, Forward) {
		if err != nil {
			return nil, err
		}
		list = append(list, w)
	}
	return list, nil
}

// WebhooksOf returns the webhooks that a key created, as the operator is shown them with the key.
func WebhooksOf(tx *Tx, keyID string) ([]map[string]any, error) {
	list, err := foundWebhooks(tx, "created_by", []byte(keyID))
	rows := []map[string]any{}
	for _, w := range list {
		rows = append(rows, map[string]any{"id": w.ID, "name": w.Name, "url": w.URL, "is_active": w.Active})
	}
	return rows, err
}

// LimitWebhooksOf limits the webhooks that a key created to the resources of the key.
func LimitWebhooksOf(tx *Tx, keyID string, resources *Resources) error {
	list, err := foundWebhooks(tx, "created_by", []byte(keyID))
	for _, w := range list {
		w.Resources = resources
		err = errors.Join(err, saveWebhook(tx, w))
	}
	return err
}

// EndWebhooksOf deletes the webhooks that a key created, and returns them like WebhooksOf.
func EndWebhooksOf(tx *Tx, keyID string) ([]map[string]any, error) {
	rows, err := WebhooksOf(tx, keyID)
	for _, row := range rows {
		err = errors.Join(err, RemoveWebhook(tx, row["id"].(uint64)))
	}
	return rows, err
}

// showWebhook returns a webhook as the API shows it, without its secret. The owner and the key that
// created it are included only if the operator made the request.
func showWebhook(tx *Tx, r *Request, w webhook) (map[string]any, error) {
	q, err := findQueue(tx, w.ID)
	if err != nil {
		return nil, err
	}
	shown := map[string]any{
		"id": w.ID, "name": w.Name, "url": w.URL, "subscribed_events": w.Events, "is_active": w.Active, "disabled_reason": nil,
		"created_at": Seconds(w.CreatedAt), "updated_at": Seconds(w.UpdatedAt), "waiting": q.Waiting,
		"waiting_bytes": q.Bytes, "dropped": q.Dropped,
		"failing_since": wall(r, q.Failing), "next_attempt_at": nil, "last_attempt": nil,
	}
	if w.Reason != "" {
		shown["disabled_reason"] = publicReason(w.Reason)
	}
	if q.Waiting > 0 && w.Active {
		shown["next_attempt_at"] = wall(r, q.Due)
	}
	if q.Last.Number > 0 {
		shown["last_attempt"] = showAttempt(q.Last)
	}
	if r.Key == nil {
		w.ShowAuthors(shown)
		shown["owner"], shown["resources"], shown["sandbox"] = nil, w.Resources, IsSandbox(w.Owner)
		if w.Owner != 0 {
			shown["owner"] = OwnerName(tx, w.Owner)
		}
	}
	return shown, nil
}

// wall converts a time of the service clock to the wall clock and formats it. It returns nil if
// moment is zero.
func wall(r *Request, moment time.Time) *string {
	if moment.IsZero() {
		return nil
	}
	return Seconds(r.Now.Add(moment.Sub(r.Steady)))
}

func showAttempt(a Attempt) map[string]any {
	shown := map[string]any{
		"id": a.Number, "event_type": a.Event, "attempt": a.Attempt, "status_code": nil, "success": a.Success(), "error": nil,
		"created_at": Seconds(a.At), "delivery_id": a.Delivery, "duration_ms": a.Took.Milliseconds(), "dropped": 0,
	}
	if a.Attempt == 0 {
		shown["dropped"] = max(a.Dropped, 1)
	}
	if a.Status != 0 {
		shown["status_code"] = a.Status
	}
	if !a.Success() {
		shown["error"] = a.Outcome()
	}
	return shown
}

func (h *WebhookAdmin) list(w http.ResponseWriter, r *Request) error {
	rows := []any{}
	err := h.store.View(func(tx *Tx) error {
		list, err := WebhooksOfOwner(tx, r.Key.Owner)
		for _, hook := range list {
			if !hook.existsFor(r.Key) {
				continue
			}
			shown, err := showWebhook(tx, r, hook)
			if err != nil {
				return err
			}
			rows = append(rows, shown)
		}
		return err
	})
	if err != nil {
		return err
	}
	return WriteJSON(w, http.StatusOK, map[string]any{"count": len(rows), "webhooks": rows})
}

func (h *WebhookAdmin) listAll(w http.ResponseWriter, r *Request) error {
	q, space, err := r.SpaceQuery()
	if err = errors.Join(err, CheckWord(q, "failing", "true")); err != nil {
		return err
	}
	page, err := ReadPage(q, 25, 1000)
	if err != nil {
		return err
	}
	rows, count := []any{}, 0
	err = r.View(h.store, func(tx *Tx) error {
		hooks, n, err := webhookTable.Page(tx, Query{Context: r.Context(), Space: space}, page.Bounds)
		if q.Get("failing") != "" {
			hooks, n, err = failingPage(tx, page, WantsSandbox(q))
		}
		if err != nil {
			return err
		}
		count = n
		for _, hook := range hooks {
			shown, err := showWebhook(tx, r, hook)
			if err != nil {
				return err
			}
			rows = append(rows, shown)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return WriteJSON(w, http.StatusOK, page.Answer(count, "webhooks", rows))
}

// failingPage returns a page of the webhooks whose last attempt failed, and the number of all of them. sandbox selects those of
// sandboxes instead of all others.
func failingPage(tx *Tx, page Page, sandbox bool) (hooks []webhook, count int, err error) {
	ids, err := FailingWebhooks(tx)
	if err != nil {
		return nil, 0, err
	}
	for _, id := range ids {
		hook, err := findWebhook(tx, id)
		if err != nil {
			return nil, 0, err
		}
		if IsSandbox(hook.Owner) == sandbox {
			hooks = append(hooks, hook)
		}
	}
	from, to := page.Bounds(len(hooks))
	return hooks[from:to], len(hooks), nil
}

// read returns the webhook with the id in the path, as find does. If then is not nil, read calls it
// with the webhook in the same read transaction.
func (h *WebhookAdmin) read(r *Request, then func(*Tx, webhook) error) (hook webhook, err error) {
	err = h.store.View(func(tx *Tx) error {
		if hook, err = h.find(tx, r); err != nil || then == nil {
			return err
		}
		return then(tx, hook)
	})
	return hook, err
}

func (h *WebhookAdmin) get(w http.ResponseWriter, r *Request) error {
	var shown map[string]any
	_, err := h.read(r, func(tx *Tx, hook webhook) (err error) {
		shown, err = showWebhook(tx, r, hook)
		return err
	})
	if err != nil {
		return err
	}
	return WriteJSON(w, http.StatusOK, shown)
}

// test sends a sample event to the webhook and answers with the outcome. The field event_type
// selects one of the events that the webhook subscribes to. Without it, the first of them is sent.
func (h *WebhookAdmin) test(w http.ResponseWriter, r *Request) error {
	body, err := r.ReadOptionalFields(OnlyFields("event_type"))
	if err != nil {
		return err
	}
	hook, err := h.read(r, nil)
	if err != nil {
		return err
	}
	event := hook.Events[0]
	body.Word("event_type", &event, hook.Events...)
	if err := body.Err(); err != nil {
		return err
	}
	payload, err := payload(sample(event, r.Now))
	if err != nil {
		return err
	}
	a, err := h.sender.Try(r.Context(), hook, event, payload)
	if err == nil {
		err = r.Record(h.store)
	}
	if err != nil {
		return err
	}
	shown := map[string]any{"success": a.Success(), "status_code": nil, "message": "Not delivered: " + a.Outcome() + "."}
	if a.Status != 0 {
		shown["status_code"] = a.Status
	}
	if a.Success() {
		shown["message"] = "Delivered."
	}
	return WriteJSON(w, http.StatusOK, shown)
}

// logs answers with a page of the log. The operator can have only the entries whose deliveries have
// failed for good.
func (h *WebhookAdmin) logs(w http.ResponseWriter, r *Request) error {
	q, err := r.Query(r.Parameters...)
	if err = errors.Join(err, CheckWord(q, "failed", "true", "false")); err != nil {
		return err
	}
	page, err := ReadPage(q, 25, 100)
	if err != nil {
		return err
	}
	rows, count := []any{}, 0
	_, err = h.read(r, func(tx *Tx, hook webhook) error {
		var list []Attempt
		if q.Get("failed") == "true" {
			list, err = failedAttempts(tx, hook.ID)
			count = len(list)
			from, to := page.Bounds(count)
			list = list[from:to]
		} else {
			list, count, err = attempts(tx, hook.ID, page.Bounds)
		}
		if err != nil {
			return err
		}
		show := func(a Attempt) (map[string]any, error) { return showAttempt(a), nil }
		if r.Key == nil {
			if show, err = operatorsAttempts(tx, hook.ID); err != nil {
				return err
			}
		}
		for _, a := range list {
			shown, err := show(a)
			if err != nil {
				return err
			}
			rows = append(rows, shown)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return WriteJSON(w, http.StatusOK, page.Answer(count, "logs", rows))
}

// operatorsAttempts returns a function that returns an entry of a webhook's log as the operator sees it.
// redeliverable means that the delivery can be queued again, and retryable that this makes sense: it
// has failed for good, or it is the first pending one and the entry is the latest attempt.
func operatorsAttempts(tx *Tx, webhook uint64) (func(Attempt) (map[string]any, error), error) {
	head, tries, err := headOf(tx, webhook)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return nil, err
	}
	pending := err == nil
	return func(a Attempt) (map[string]any, error) {
		shown := showAttempt(a)
		first := pending && a.Attempt > 0 && a.Delivery == head.ID && a.Attempt == tries && a.Kept == 0
		shown["redeliverable"], shown["retryable"], shown["queued_again"] = a.Kept != 0, first || a.failedForGood(), a.Again
		return shown, nil
	}, nil
}

// entry answers with an entry of the log, with what was sent and the beginning of the answer.
func (h *WebhookAdmin) entry(w http.ResponseWriter, r *Request) error {
	number, err := r.NumberParam("entry")
	if err != nil {
		return err
	}
	var shown map[string]any
	_, err = h.read(r, func(tx *Tx, hook webhook) error {
		a, err := findAttempt(tx, hook.ID, number)
		if err != nil {
			return err
		}
		show, err := operatorsAttempts(tx, hook.ID)
		if err != nil {
			return err
		}
		if shown, err = show(a); err != nil {
			return err
		}
		body, kept, err := bodyOf(tx, a)
		shown["request_body"], shown["answer_body"] = nil, TextOrNone(a.Answer)
		if kept {
			shown["request_body"] = body
		}
		return err
	})
	if err != nil {
		return err
	}
	return WriteJSON(w, http.StatusOK, shown)
}

// retryFailed queues all deliveries of a webhook again that have failed for good.
func (h *WebhookAdmin) retryFailed(w http.ResponseWriter, r *Request) error {
	return h.answer(w, r, func(tx *Tx) (map[string]any, error) {
		hook, err := h.find(tx, r)
		if err != nil {
			return nil, err
		}
		queued, left, err := repeatFailed(tx, hook.ID, r.Now)
		return map[string]any{"count": queued, "left_out": left, "message": fmt.Sprintf("Queued %d deliveries again.", queued)}, err
	})
}

// release makes the Sender send again after a restore has held the webhooks back. With
// discard it first deletes the deliveries that were pending at the time of the restore.
func (h *WebhookAdmin) release(w http.ResponseWriter, r *Request) error {
	body, err := r.ReadOptionalFields(OnlyFields("discard"))
	if err != nil {
		return err
	}
	discard := false
	if body.Bool("discard", &discard); body.Err() != nil {
		return body.Err()
	}
	pending := Send
	if discard {
		pending = Discard
	}
	return h.answer(w, r, func(tx *Tx) (map[string]any, error) {
		held, err := HeldSince(tx)
		if err == nil && held.IsZero() {
			err = ErrConflict.With("Webhooks are not held back.")
		}
		if err != nil {
			return nil, err
		}
		discarded, err := ReleaseWebhooks(tx, pending, r.Now)
		return map[string]any{"discarded": discarded, "message": "Webhooks are sent again."}, err
	})
}

// redeliver queues the delivery of a log entry again, with the same bytes and the same delivery id. If
// it is the first pending delivery, it is tried now.
func (h *WebhookAdmin) redeliver(w http.ResponseWriter, r *Request) error {
	body, err := r.ReadFields(OnlyFields("log_id"))
	if err != nil {
		return err
	}
	entry := uint64(0)
	if body.ID("log_id", &entry); body.Err() != nil {
		return body.Err()
	}
	if entry == 0 {
		return ErrMissing.With("log_id is missing. Send the id of an entry in the webhook's log.")
	}
	return h.answer(w, r, func(tx *Tx) (map[string]any, error) {
		hook, err := h.find(tx, r)
		if err != nil {
			return nil, err
		}
		d, err := repeat(tx, hook.ID, entry, r.Now)
		return map[string]any{"delivery_id": d.ID, "event_type": d.Event, "message": "Queued."}, err
	})
}
