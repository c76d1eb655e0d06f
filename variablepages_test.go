package main

import (
	"strings"
	"testing"
)

func TestVariablePages(t *testing.T) {
	b := newDashboard(t)
	b.says(b.get("/business-context"), 200, "has no variable of the business yet")
	form := []string{"name", "visits", "display_name", evil, "context_type", "business", "variable_type", "number"}
	b.says(b.post("/variables", append([]string{"name", "Visits"}, form[2:]...)...), 400, "Name must be 1 to", `aria-invalid="true"`, `value="Visits"`)
	b.sent(b.post("/variables", form...), "/variables/3?done=made")
	b.tame("the list", b.get("/variables"))
	b.says(b.get("/variables?search=visit"), 200, "1 found")
	b.says(b.post("/variables", form...), 400, "exists")
	b.sent(b.saveForm("/variables/3", "variable_type", "select", "select_options", "few\r\nmany"), "/variables/3?done=saved")
	if v := b.operate(200, "GET", "/admin/v1/variables/3", ""); v["variable_type"] != "select" || len(v["select_options"].([]any)) != 2 {
		t.Errorf("got %v", v)
	}
	if body := b.get("/variables/1").Body.String(); strings.Contains(body, "<dialog") {
		t.Error("a built-in variable can be deleted")
	}
	b.says(b.get("/variables/1/delete"), 403)
	b.says(b.post("/variables/1/delete"), 403, "Built-in")

	page := b.get("/business-context")
	b.says(page, 200, "Company Name", `<option value="few">few</option>`)
	b.tame("the values", page)
	b.says(b.post("/business-context", "value.visits", "lots", "value.company_name", "Lind KG"), 400, "must be one of few, many", `value="Lind KG"`)
	b.sent(b.post("/business-context", "value.visits", "few", "value.company_name", evil), "/business-context?done=saved")
	page = b.get("/business-context")
	b.says(page, 200, `<option value="few" selected>`)
	b.tame("the values", page)
	// What the form does not change is not sent, and what is emptied goes.
	b.sent(b.post("/business-context", "value.visits", "few", "was.value.visits", Mark("few"), "value.company_name", ""), "/business-context")
	if v := b.operate(200, "GET", "/admin/v1/business-context", "")["variables"].(map[string]any); v["visits"] != "few" || v["company_name"] != nil {
		t.Errorf("got %v", v)
	}
	b.sent(b.post("/variables/3/delete"), "/variables?done=deleted")
	b.says(b.get("/business-context"), 200, "its definition is gone")
}
