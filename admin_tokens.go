package main

import (
	"slices"
	"time"

	"latchkey/internal/clock"
	"latchkey/internal/promtext"
	"latchkey/internal/sorted"
)

// NoticeTokens publishes the webhook event token.expiring for the admin tokens that end within
// TokenNotice, once for each token. If no webhook subscribes to the event, it marks no token as
// reported, so a webhook created later still receives the events. now is from Clock.Latest. Call it
// about once a minute.
func NoticeTokens(store *Store, now time.Time) error {
	if wanted, err := EventWanted(store, TokenExpiring); err != nil || !wanted {
		return err
	}
	due := func(tx *Tx) ([]Token, error) {
		ending, err := tokensEnding(tx, now)
		return slices.DeleteFunc(ending, func(t Token) bool { return t.ExpiryNoticed.Equal(t.ExpiresAt) }), err
	}
	var found []Token
	err := store.View(func(tx *Tx) (err error) {
		found, err = due(tx)
		return err
	})
	if err != nil || len(found) == 0 {
		return err
	}
	return store.Update(func(tx *Tx) error {
		tokens, err := due(tx)
		if err != nil {
			return err
		}
		for _, token := range tokens {
			if err := Publish(tx, tokenEvent(TokenExpiring, token, now)); err != nil {
				return err
			}
			token.ExpiryNoticed = token.ExpiresAt
			if err := TokenTable.Put(tx, token); err != nil || tx.Full() { // the next call goes on
				return err
			}
		}
		return nil
	})
}

// tokenEvent returns an event of the given kind about an admin token. It contains no secret, only
// fields that the list of tokens shows as well.
func tokenEvent(kind string, t Token, now time.Time) WebhookEvent {
	shown, body := t.Show(now), map[string]any{}
	for _, name := range []string{"id", "name", "hint", "scope", "status", "created_at", "made_by", "expires_at", "last_used_at"} {
		body[name] = shown[name]
	}
	return WebhookEvent{Type: kind, Operator: true, At: now, Body: map[string]any{"token": body}}
}

// tokensEnding returns the active admin tokens that end within TokenNotice, the first to end first.
func tokensEnding(tx *Tx, now time.Time) (ending []Token, err error) {
	for token, err := range TokenTable.All(tx, Forward) {
		if err != nil {
			return nil, err
		}
		if token.EndsSoon(now) {
			ending = append(ending, token)
		}
	}
	sorted.StableFunc(ending, func(a, b Token) int { return a.ExpiresAt.Compare(b.ExpiresAt) })
	return ending, nil
}

// maxEndingTokens is how many tokens that end soon the status lists.
const maxEndingTokens = 20

// endingTokens returns the JSON of the tokens that end soon, for the status.
func endingTokens(tx *Tx, now time.Time) (rows []any, err error) {
	ending, err := tokensEnding(tx, now)
	rows = []any{}
	for _, t := range ending[:min(len(ending), maxEndingTokens)] {
		rows = append(rows, map[string]any{"id": t.ID, "name": t.Name, "expires_at": Seconds(t.ExpiresAt)})
	}
	return rows, err
}

// tokenMetrics returns the metrics of admin tokens, which are read from the store. They have no series if
// it cannot be read.
func tokenMetrics(store *Store, clock *clock.Clock) []promtext.Metric {
	now := clock.Latest(clock.Now())
	counts, end, err := countTokens(store, now)
	return []promtext.Metric{
		from(series(promtext.KindGauge, "admin_tokens", "Admin tokens by state.", "state"), func(to *promtext.Series) {
			if err != nil {
				return
			}
			for _, state := range TokenStates() {
				to.Add(float64(counts[state]), state)
			}
		}),
		from(series(promtext.KindGauge, "admin_token_next_end_seconds", "Seconds until the first active admin token ends. Absent if none has an end."), func(to *promtext.Series) {
			if err == nil && !end.IsZero() {
				to.Add(end.Sub(now).Seconds())
			}
		}),
	}
}

// countTokens returns the number of admin tokens in each state, and when the first active one ends; the
// zero time if none ends.
func countTokens(store *Store, now time.Time) (counts map[string]int, end time.Time, err error) {
	counts = map[string]int{}
	err = store.View(func(tx *Tx) error {
		for token, err := range TokenTable.All(tx, Forward) {
			if err != nil {
				return err
			}
			state := token.Status(now)
			counts[state]++
			if state == StatusActive && !token.ExpiresAt.IsZero() && (end.IsZero() || token.ExpiresAt.Before(end)) {
				end = token.ExpiresAt
			}
		}
		return nil
	})
	return counts, end, err
}
