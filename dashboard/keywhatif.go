package dashboard

import (
	"encoding/json"
	"net/http"
	"strings"

	"latchkey/internal/figures"
	"latchkey/internal/strictjson"
)

// limitTrial is a field of the form that tries limits on the past requests of a key, with the answer.
type limitTrial struct {
	Name, Label string
	Value       string
	Top         int    // the largest number of the slider
	Answer      string // what the limit would have done; "" if it was not tried
	Refuses     bool   // it would have refused something
}

// shownTrials is the form and the answer about all limits.
type shownTrials struct {
	Fields []limitTrial
	Tried  bool
	Note   string // what is missing in the counts; "" if nothing is
}

// showTrials adds to f the form that tries limits on the past requests of a key, and the answer if
// the query has numbers.
func (k *keyPages) showTrials(v *pageRequest, f *formData) *Fault {
	if !v.may("POST /admin/v1/limits/what-if") {
		return nil
	}
	present, _ := f.Key["limits"].(map[string]any)
	f.Trials = &shownTrials{}
	tried := map[string]any{}
	for _, l := range f.Limits {
		if !l.Recorded {
			continue
		}
		n := l.Default
		if own, ok := present[l.Name].(json.Number); ok {
			n = int(numberOf(own))
		}
		t := limitTrial{Name: l.Name, Label: l.Label, Value: strings.TrimSpace(v.query.Get(l.Name)), Top: 2 * n}
		f.Trials.Fields = append(f.Trials.Fields, t)
		switch {
		case strictjson.IsNumber(t.Value):
			tried[l.Name] = json.Number(t.Value)
		case t.Value != "":
			tried[l.Name] = t.Value // the admin endpoint says what is wrong with it
		}
	}
	if len(tried) == 0 {
		return nil
	}
	answer, e := v.call(http.MethodPost, "/admin/v1/limits/what-if", map[string]any{"key": f.Key["id"], "limits": tried})
	if e != nil {
		for _, l := range f.Limits {
			e.Message = strings.Replace(e.Message, "limits."+l.Name, l.Label, 1)
		}
		return e
	}
	f.Trials.fill(answer)
	return nil
}

// fill adds the answer.
func (s *shownTrials) fill(answer map[string]any) {
	s.Tried = true
	limits, _ := answer["limits"].([]any)
	for _, row := range limits {
		one, _ := row.(map[string]any)
		for i := range s.Fields {
			if t := &s.Fields[i]; t.Name == one["name"] {
				t.Answer, t.Refuses = trialSentence(one), numberOf(one["refused_most"]) > 0
			}
		}
	}
	if n := int(numberOf(answer["left_out"])); n > 0 {
		s.Note = manyOf(n, "request") + " of all keys are not in the counts, because there was no room for them."
	}
	if since := textOf(answer["recorded_since"]); since != textOf(answer["from"]) && since != "" {
		s.Note = strings.TrimSpace("Requests are recorded since " + whenIn(since, showSeconds) + ". " + s.Note)
	}
}

// trialSentence says what a limit would have done.
func trialSentence(one map[string]any) string {
	number := func(name string) string { return figures.Grouped(int(numberOf(one[name]))) }
	asked := int(numberOf(one["asked"]))
	if asked == 0 {
		return "It was not used in this time."
	}
	refused := number("refused_least")
	if most := number("refused_most"); most != refused {
		refused += " to " + most
	}
	text := "Would have refused " + refused + " of " + number("asked") + "."
	if one["refused_then"] != nil && numberOf(one["refused_then"]) > 0 {
		text += " " + number("refused_then") + " were refused then."
	}
	return text + " " + number("refuses_none") + " refuses none."
}
