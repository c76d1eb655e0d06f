package main

import "net/http"

// Overview tells the operator what the API door serves.
type Overview struct{ o OverviewOptions }

// OverviewOptions are what an Overview is made of.
type OverviewOptions struct {
	Guards      *Guards
	Keyed, Free []Route
}

// NewOverview tells of these parts.
func NewOverview(o OverviewOptions) *Overview { return &Overview{o} }

// AdminRoutes lists the endpoints.
func (v *Overview) AdminRoutes() []Route {
	return []Route{
		{Method: "GET", Path: "/admin/v1/routes", Handle: v.routes},
	}
}

// routes lists the endpoints of the API door with what they need, and behind
// them the routes of another API.
func (v *Overview) routes(w http.ResponseWriter, r *Request) error {
	now := v.o.Guards.Now()
	rows := []any{}
	for _, row := range v.o.Keyed {
		limits := []string{RequestsPerMinute}
		if row.Spends != "" {
			limits = append(limits, row.Spends)
		}
		limits = append(limits, row.Limits...)
		rows = append(rows, map[string]any{"method": row.Method, "path": row.Path, "permissions": now.Rights.Names(row.Permission), "limits": limits, "upstream": nil})
	}
	for _, row := range v.o.Free {
		rows = append(rows, map[string]any{"method": row.Method, "path": row.Path, "permissions": Permission(0), "limits": []string{}, "upstream": nil})
	}
	for _, g := range now.List {
		shown := map[string]any{
			"method": g.MethodNames(), "path": g.Path, "permissions": now.Rights.Names(g.Permission), "limits": append([]string{RequestsPerMinute}, g.Limits...),
			"cost": g.Cost, "upstream": "", "strip_prefix": g.StripPrefix, "timeout_seconds": g.Timeout.Seconds(), "max_body_bytes": g.MaxBody,
		}
		if g.Upstream != nil {
			shown["upstream"] = g.Upstream.String()
		}
		rows = append(rows, shown)
	}
	return WriteJSON(w, http.StatusOK, map[string]any{"routes": rows})
}
