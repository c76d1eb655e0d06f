package main

import (
	"net/url"
	"strings"
)

// SchedulePages are the pages of the availability schedules.
func SchedulePages() *Records {
	return &Records{
		Section: Section{"Data", "Availability", "/schedules"}, One: "schedule", API: "schedules", Rows: "schedules", CalledBy: "owner",
		About: "When an owner can be booked; without a schedule that is Monday to Friday, 9 to 17, UTC.", Empty: "No schedule yet.",
		Columns: []Column{
			{Head: "Owner", Member: "owner", Kind: CellName}, {Head: "Time zone", Member: "time_zone"}, {Head: "Free around events", Member: "buffer_minutes", Kind: CellNumber},
			{Head: "Notice", Member: "notice_minutes", Kind: CellNumber}, {Head: "Created", Member: "created_at", Kind: CellTime},
		},
		Filters: []Field{OwnerFilter()},
		Facts:   []Column{{Head: "Owner", Member: "owner"}, {Head: "Created", Member: "created_at", Kind: CellTime}},
		Fields:  scheduleFields(), Body: scheduleBody,
		Deletion: func(_ *Visit, schedule map[string]any) string {
			return "The availability of " + Shown(schedule["owner"]) + " is then Monday to Friday, 9 to 17, UTC. Events stay."
		},
	}
}

// weekDays lists the days of a week as the admin endpoint names them, and in the
// order in which they are shown.
func weekDays() []string {
	return []string{"monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"}
}

func scheduleFields() []Field {
	owner := OwnerField(true)
	owner.Hint = "who can be booked then; empty: " + DefaultOwner
	fields := []Field{
		owner, {Name: "time_zone", Label: "Time zone", Kind: FieldText, Needed: true, Usual: "UTC", Choices: TimeZones, Hint: "such as Europe/Berlin"},
		{Name: "buffer_minutes", Label: "Minutes free around events", Kind: FieldNumber, Hint: "0 to 1440"},
		{Name: "notice_minutes", Label: "Minutes of notice", Kind: FieldNumber, Hint: "from now to the first free slot"},
	}
	for _, day := range weekDays() {
		f := Field{Name: "windows." + day, Label: strings.ToUpper(day[:1]) + day[1:], Kind: FieldList, Usual: "09:00-17:00"}
		switch day {
		case "monday":
			f.Hint, f.Group = "such as 09:00-12:00, 13:00-17:00; empty: not at all", "Hours"
		case "saturday", "sunday":
			f.Usual = ""
		}
		fields = append(fields, f)
	}
	for _, day := range weekDays() {
		f := Field{Name: "business_hours." + day, Label: strings.ToUpper(day[:1]) + day[1:], Kind: FieldList}
		if day == "monday" {
			f.Hint, f.Group = "these cut the hours above; all empty: nothing is cut", "Business hours"
		}
		fields = append(fields, f)
	}
	return fields
}

// scheduleBody puts the days back together: the admin endpoint takes a week as
// a whole.
func scheduleBody(form url.Values, record, body map[string]any) error {
	for _, name := range []string{"windows", "business_hours"} {
		week, changed, open := map[string]any{}, record == nil, false
		for _, f := range scheduleFields() {
			day, ok := strings.CutPrefix(f.Name, name+".")
			if !ok {
				continue
			}
			if _, is := body[f.Name]; is {
				changed = true
			}
			delete(body, f.Name)
			value, err := f.Value(form)
			if err != nil {
				return err
			}
			week[day] = value
			open = open || len(value.([]string)) > 0
		}
		switch {
		case changed && name == "business_hours" && !open:
			body[name] = nil
		case changed:
			body[name] = week
		}
	}
	return nil
}
