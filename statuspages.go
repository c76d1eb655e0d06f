package main

import (
	"fmt"
	"net/http"
)

// StatusPages tell how the server is.
type StatusPages struct{}

// Sections is the entry of the navigation.
func (s StatusPages) Sections() []Section { return []Section{{"System", "Status", "/status"}} }

// Pages lists the pages.
func (s StatusPages) Pages() map[string]func(*Visit) {
	return map[string]func(*Visit){"GET /status": showStatus}
}

func showStatus(v *Visit) {
	status, e := v.Call(http.MethodGet, "/admin/v1/status", nil)
	if e != nil {
		v.Fault(e)
		return
	}
	size, _ := status["store_bytes"].(float64)
	v.Show(http.StatusOK, "status", View{Title: "Status", Data: []Pair{
		{"API", Shown(status["api_url"])}, {"Keys", Shown(status["keys"])}, {"Database", fmt.Sprintf("%.1f MB", size/1e6)}, {"Store", Shown(status["store_id"])},
		{"Wall clock", Shown(status["now"])}, {"Clock of the limits", Shown(status["service_time"])},
	}})
}
