package dashboard

import (
	"net/url"
	"slices"
	"strings"

	"latchkey/internal/figures"
)

// tabActivity is the path of the tab that shows what a key did.
const tabActivity = "/activity"

// keyActs is what the tab Activity shows: what a key did, and from where.
type keyActs struct {
	listPage
	Inputs   []input
	Entries  []keyAct
	Written  string // such as "created 3 calls, changed 1 contact"; "" if it wrote nothing
	Refused  string // such as "12 requests"; "" if none was refused
	Networks []keyPlace
	Older    int // number of networks before Networks
	Carriers []keyPlace
	Removed  string // number of older entries that are stored no longer; "" if there are none
}

// keyAct is an entry as the tab shows it.
type keyAct struct {
	At, Class, Label, Client, Request, Below string
	Sentence                                 []activityPart
}

// say adds a part to the sentence. to is the page of the object that it names, or "".
func (a *keyAct) say(text, to string) {
	a.Sentence = append(a.Sentence, activityPart{Text: text, To: to})
}

// keyPlace is a network or a carrier.
type keyPlace struct{ Value, First, Last string }

// shownNetworks is the number of networks that the tab lists above the entries.
const shownNetworks = 5

// activityKinds are the choices of the filter by kind.
func activityKinds() []choice {
	list := []choice{}
	for _, kind := range Vocabulary().ActivityKinds {
		list = append(list, choice{Value: kind, Label: map[string]string{
			"write": "Writes", "refusal": "Refusals", "network": "New networks", "address": "New addresses", "carrier": "How it was sent", "left_out": "Left out",
		}[kind]})
	}
	return list
}

// showActs adds what the key did to f.
func (k *keyPages) showActs(v *pageRequest, f *formData) *Fault {
	filters := []formField{
		{Name: "kind", Label: "What", Kind: fieldSelect, Blank: "anything", Choices: func(*pageRequest) []choice { return activityKinds() }},
		{Name: "since", Label: "Since", Kind: fieldDate, Hint: "day in " + v.zone().String()},
	}
	asked := func(name, value string) string {
		if name == "since" {
			return v.dayBound("from", value)
		}
		return value
	}
	acts := &keyActs{}
	f.Acts = acts
	query := v.query
	var fault *Fault
	acts.listPage, fault = v.listAs(keyPath(v.R)+"/activity", "activity", asked, "kind", "since")
	acts.Inputs = v.inputs(filters, fillBy(func(f formField) string { return query.Get(f.Name) }), fault)
	if fault != nil {
		fault.Message = labelled(fault.Message, filters...)
		return fault
	}
	for _, row := range acts.Rows {
		entry, _ := row.(map[string]any)
		acts.Entries = append(acts.Entries, v.actOf(entry))
	}
	acts.sum(acts.Answer)
	return nil
}

// readActs returns the summary of what a key did, or nil if it cannot be read.
func (k *keyPages) readActs(v *pageRequest) *keyActs {
	if !v.may("GET /admin/v1/keys/:id/activity") {
		return nil
	}
	answer, e := v.call("GET", keyPath(v.R)+"/activity?limit=1", nil)
	if e != nil {
		return nil
	}
	acts := &keyActs{}
	acts.sum(answer)
	return acts
}

// sum sets the summary from an answer.
func (a *keyActs) sum(answer map[string]any) {
	var parts []string
	written, _ := answer["written"].([]any)
	for _, row := range written {
		one, _ := row.(map[string]any)
		parts = append(parts, textOf(one["did"])+" "+manyOf(int(numberOf(one["count"])), textOf(one["kind"])))
	}
	a.Written = strings.Join(parts, ", ")
	if n := int(numberOf(answer["refused"])); n > 0 {
		a.Refused = manyOf(n, "request")
	}
	if n := int(numberOf(answer["removed"])); n > 0 {
		a.Removed = figures.Grouped(n)
	}
	a.Networks, a.Carriers = placesOf(answer["networks"], "network"), placesOf(answer["carriers"], "carrier")
	slices.Reverse(a.Networks)
	a.Networks = a.Networks[:min(len(a.Networks), shownNetworks)]
	a.Older = int(numberOf(answer["network_count"])) - len(a.Networks)
}

func placesOf(rows any, name string) (list []keyPlace) {
	all, _ := rows.([]any)
	for _, row := range all {
		one, _ := row.(map[string]any)
		list = append(list, keyPlace{textOf(one[name]), textOf(one["first_at"]), textOf(one["last_at"])})
	}
	return list
}

// manyOf returns a number of things, such as "3 calls".
func manyOf(n int, name string) string {
	if n == 1 {
		return "1 " + name
	}
	return figures.Grouped(n) + " " + name + "s"
}

// actOf returns an entry of the activity of a key as the tab shows it.
func (v *pageRequest) actOf(e map[string]any) keyAct {
	act := keyAct{At: textOf(e["at"]), Client: textOf(e["client"]), Request: textOf(e["request_id"])}
	route := strings.TrimSpace(textOf(e["method"]) + " " + routeName(textOf(e["route"])))
	requests := int(numberOf(e["requests"]))
	switch textOf(e["kind"]) {
	case "write":
		act.Class, act.Label, act.Below = keyActive, "write", route
		objects, _ := e["objects"].([]any)
		for i, row := range objects {
			one, _ := row.(map[string]any)
			did, object := textOf(one["did"]), textOf(one["object"])
			to := ""
			if did != "deleted" {
				to = v.objectPage(object)
			}
			if i > 0 {
				act.say(", ", "")
			} else {
				did = capital(did)
			}
			act.say(did+" ", "")
			act.say(object, to)
		}
		if more := int(numberOf(e["more_objects"])); more > 0 {
			act.say(" and "+manyOf(more, "further record"), "")
		}
		switch {
		case len(objects) > 0:
		case e["status"] != nil:
			act.say(manyOf(requests, "guarded request")+" answered with "+textOf(e["status"])+" by the upstream", "")
		default:
			act.say(manyOf(requests, "guarded request")+" let through", "")
		}
	case "refusal":
		act.Class, act.Label = "failed", "refused"
		code := textOf(e["error"])
		act.say(manyOf(requests, "request")+" refused with ", "")
		act.say(textOf(e["status"])+" "+code, "/errors/"+url.PathEscape(code))
		act.Below = route
	case "network":
		act.Class, act.Label = "paused", "new network"
		act.say("First request from the network "+textOf(e["network"]), "")
	case "address":
		act.Class, act.Label = "paused", "new address"
		act.say("First request from this IP address of the network "+textOf(e["network"]), "")
	case "carrier":
		act.Class, act.Label = "paused", "sent"
		act.say("Sent as "+carrier(e["carrier"]), "")
		if before := e["carrier_before"]; before != nil {
			act.say(", before as "+carrier(before), "")
		}
	default:
		act.Class, act.Label = "paused", "left out"
		act.say(manyOf(requests, "more request")+" that were not looked at in detail, because there were too many", "")
	}
	if requests > 1 {
		act.Below = strings.TrimPrefix(act.Below+", the first "+whenIn(textOf(e["since"]), showSeconds), ", ")
	}
	return act
}
