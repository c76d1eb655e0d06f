package main

import (
	"errors"
	"net/http"
	"sync"
	"time"
)

// overview serves the endpoint with the figures that a person watches: what is going on, what needs
// attention, and who and which route it is about.
type overview struct {
	usage    *usage
	requests *Requests
	tags     keyTagger
	backups  *Backups
	cluster  func() int // how much of the cluster needs attention

	mu   sync.Mutex
	made map[string]overviewAnswer // by range
}

// overviewAnswer is an answer that was made at a time.
type overviewAnswer struct {
	at     time.Time
	answer map[string]any
}

// overviewAge is how old an answer may be that is given again. The counts of many keys are read for it,
// and several pages may ask at once.
const overviewAge = 2 * time.Second

// OverviewOptions are what an overview looks at.
type OverviewOptions struct {
	Usage    *usage
	Requests *Requests
	Tags     keyTagger
	Backups  *Backups
	Cluster  func() int // returns how much of the cluster needs attention; 0 on a server alone
}

// NewOverview returns an overview.
func NewOverview(o OverviewOptions) *overview {
	return &overview{usage: o.Usage, requests: o.Requests, tags: o.Tags, backups: o.Backups, cluster: o.Cluster, made: map[string]overviewAnswer{}}
}

// overviewRanges returns the ranges of the overview, the shortest first.
func overviewRanges() []string { return []string{"1h", "24h", "7d", "90d"} }

// AdminRoutes returns the routes for operators.
func (v *overview) AdminRoutes() []Route {
	return []Route{{Method: "GET", Path: "/admin/v1/overview", Handle: v.show, Query: []string{"range"}}}
}

func (v *overview) show(w http.ResponseWriter, r *Request) error {
	q, err := r.Query(r.Parameters...)
	if err == nil {
		err = CheckWord(q, "range", overviewRanges()...)
	}
	if err != nil {
		return err
	}
	name := q.Get("range")
	if name == "" {
		name = "24h"
	}
	answer, err := v.answer(r, name)
	if err != nil {
		return err
	}
	return WriteJSON(w, http.StatusOK, answer)
}

// answer returns the figures of a range, which are at most overviewAge old.
func (v *overview) answer(r *Request, name string) (map[string]any, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if had, ok := v.made[name]; ok && r.Steady.Sub(had.at) < overviewAge && !r.Steady.Before(had.at) {
		return had.answer, nil
	}
	answer, err := v.figures(r, name)
	if err == nil {
		v.made[name] = overviewAnswer{r.Steady, answer}
	}
	return answer, err
}

// overviewTop is how many keys, routes and error codes are listed.
const overviewTop = 10

// figures returns the figures of a range.
func (v *overview) figures(r *Request, name string) (map[string]any, error) {
	now := r.Now
	answer, err := v.course(name, now)
	if err != nil {
		return nil, err
	}
	answer["range"] = name
	span := v.span(name, now)
	attention, survey, err := v.attention(r)
	if err != nil {
		return nil, err
	}
	keys, used, err := v.usage.used(Page{Number: 1, Limit: overviewTop}, span, survey.Sandbox)
	if err != nil {
		return nil, err
	}
	routes, err := v.usage.sums(ofRoute, "route", span)
	if err != nil {
		return nil, err
	}
	codes, err := v.usage.sums(ofCode, "error", span)
	if err != nil {
		return nil, err
	}
	answer["keys"], answer["keys_used"] = keys, used
	answer["routes"], answer["errors"] = routes[:min(len(routes), overviewTop)], codes[:min(len(codes), overviewTop)]
	const recent = 5 * time.Minute
	took := v.requests.Latency(now.Add(-recent))
	answer["latency"] = map[string]any{
		"p50_ms": float64(took.P50.Microseconds()) / 1000, "p99_ms": float64(took.P99.Microseconds()) / 1000, "requests": took.Requests, "span_seconds": int(recent / time.Second),
	}
	answer["attention"], answer["active_keys"] = attention, survey.Active
	return answer, nil
}

// span returns the part of the history that a range shows. The history has no minutes, so for an hour
// it is the hour in which now is and the one before it.
func (v *overview) span(name string, now time.Time) period {
	switch name {
	case "1h":
		return period{Step: stepHour, Last: 2, Now: now}
	case "24h":
		return period{Step: stepHour, Last: 24, Now: now}
	case "7d":
		return period{Step: stepHour, Last: 7 * 24, Now: now}
	}
	return period{Step: StepDay, Last: 90, Now: now}
}

// course returns the fields of an answer with the counts of each step of a range and their sum. The field
// previous has the same about the time before it, or nil if that is not kept.
func (v *overview) course(name string, now time.Time) (answer map[string]any, err error) {
	var list, before []bucket
	previous := map[string]any{}
	if name == "1h" {
		list = v.requests.Minutes(now, keptMinutes)
		before, list = list[:60], list[60:]
		answer, previous = showMinutes(list), showMinutes(before)
	} else {
		span := v.span(name, now)
		if list, err = v.usage.history.Of(subject{Kind: ofService}, span); err != nil {
			return nil, err
		}
		answer = showPeriod(span)
		switch span.Now = now.Add(-24 * time.Hour); name {
		case "7d": // of the days before, the hours are no longer kept
			span = period{Step: StepDay, Last: 7, Now: now.Add(-7 * 24 * time.Hour)}
		case "90d":
			previous = nil
		}
		if previous != nil {
			if before, err = v.usage.history.Of(subject{Kind: ofService}, span); err != nil {
				return nil, err
			}
			previous = showPeriod(span)
		}
	}
	answer["buckets"], answer["total"], answer["previous"] = showBuckets(list), showTally(map[string]any{}, sumOf(list)), nil
	if previous != nil {
		previous["buckets"] = showBuckets(before)
		answer["previous"] = showTally(previous, sumOf(before))
	}
	return answer, nil
}

// showMinutes returns the JSON fields that describe a period of minutes, which list has all.
func showMinutes(list []bucket) map[string]any {
	return map[string]any{"step": "minute", "from": Seconds(list[0].Start), "to": Seconds(list[len(list)-1].Start.Add(time.Minute))}
}

// attention returns what somebody should look at, each kind with its number, and the counts of live keys.
// Kinds with the number 0 are left out. A number about keys is that of the list of live keys with the same
// filters, which the dashboard links to.
func (v *overview) attention(r *Request) (rows []any, keys KeySurvey, err error) {
	rows = []any{}
	add := func(kind string, count int) {
		if count > 0 {
			rows = append(rows, map[string]any{"kind": kind, "count": count})
		}
	}
	add("cluster", v.cluster())
	switch made, failed := v.backups.Last(); {
	case failed != nil:
		add("backup_failed", 1)
	case made.At.IsZero() && v.backups.Every() == 0:
		add("no_backup", 1)
	}
	err = v.usage.store.View(func(tx *Tx) error {
		if keys, err = v.usage.keyring.Survey(r.Context(), tx, r.Latest); err != nil {
			return err
		}
		for _, tagged := range []struct{ kind, tag, status string }{
			{"keys_revoked_used", tagStillSent, StatusRevoked}, {"keys_expired_used", tagStillSent, StatusExpired},
			{"keys_in_url", tagSentInURL, ""}, {"keys_at_limit", tagRateLimited, ""}, {"keys_rotating", tagRotating, ""},
		} {
			count, err := v.tags.CountLive(r, tx, tagged.tag, tagged.status)
			if err != nil {
				return err
			}
			add(tagged.kind, count)
		}
		add("keys_expiring", keys.Expiring)
		failing, err1 := FailingWebhooks(tx)
		full, err2 := FullOwners(tx)
		ending, err3 := tokensEnding(tx, r.Latest)
		add("webhooks_failing", len(failing))
		add("owners_full", len(full))
		add("tokens_ending", len(ending))
		add("keys_never_used", keys.NeverUsed)
		add("keys_idle_90", keys.Idle90)
		add("keys_without_end", keys.WithoutEnd)
		return errors.Join(err1, err2, err3)
	})
	return rows, keys, err
}

// endedKeys returns the ids of the keys that were sent although they were revoked or had expired.
func (f *Refusals) endedKeys() map[string]bool {
	ids := map[string]bool{}
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range f.list {
		one := &f.list[i]
		if one.key != "" && one.code == ErrKey.Code && (one.state == StatusRevoked || one.state == StatusExpired) {
			ids[one.key] = true
		}
	}
	return ids
}
