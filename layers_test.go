package main

import (
	"go/ast"
	"go/build"
	"go/parser"
	"go/token"
	"go/types"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// layers lists the files from the bottom up. A file may use what a line above
// its own declares, and nothing else; of another file only names with a
// capital letter. The table is the map of the program: keep it true.
var layers = [][]string{
	{"errors.go", "lock.go", "disk.go", "version.go", "schemas.go", "silent.go"},
	{"errorcatalog.go"},
	{"clock.go", "connections.go", "upstreams.go"},
	{"trace.go"},
	{"tx.go"},
	{"filepages.go"},
	{"storefile.go"},
	{"migrations.go"},
	{"store.go"},
	{"table.go", "ring.go"},
	{"history.go"},
	{"checks.go"},
	{"audit.go"},
	{"windows.go"},
	{"quotas.go"},
	{"gauges.go"},
	{"charges.go"},
	{"observations.go"},
	{"limits.go", "throttle.go"},
	{"settings.go", "permissions.go", "doortls.go"},
	{"configrows.go", "rights.go", "paths.go"},
	{"routetable.go"},
	{"routerows.go"},
	{"config.go", "secrets.go", "targets.go"},
	{"log.go"},
	{"certificates.go", "issuer.go", "supervisor.go"},
	{"keys.go", "ownerlimits.go"},
	{"keycache.go"},
	{"keyring.go", "folder.go"},
	{"handlers.go", "outcomes.go"},
	{"body.go", "limitfields.go", "carrier.go", "router.go", "openapi.go", "forged.go", "guards.go"},
	{"reference.go", "proxy.go", "authz.go"},
	{"catalog.go"},
	{"owners.go"},
	{"teams.go"},
	{"outbox.go"},
	{"endpoints.go"},
	{"delivery.go"},
	{"agents.go", "donotcall.go"},
	{"contactform.go"},
	{"contacts.go"},
	{"variables.go", "idempotency.go"},
	{"context.go"},
	{"callrecords.go", "events.go", "schedules.go"},
	{"eventform.go"},
	{"callevents.go"},
	{"calls.go", "calendar.go", "ics.go"},
	{"eventdesk.go"},
	{"availability.go", "reminders.go"},
	{"callmoves.go"},
	{"dialer.go"},
	{"calldesk.go"},
	{"sender.go", "notices.go"},
	{"keyform.go", "keyrequests.go", "keyquery.go"},
	{"admin.go", "keyimport.go", "verify.go", "explain.go", "refusals.go", "tokens.go", "webhooks.go", "usage.go", "reload.go"},
	{"overview.go"},
	{"backups.go"},
	{"restore.go"},
	{"sessions.go", "origins.go", "meters.go", "plots.go"},
	{"operators.go"},
	{"serveroptions.go"},
	{"server.go", "navigation.go", "templates.go", "cells.go"},
	{"dashboard.go", "doors.go", "auditlog.go", "metrics.go", "status.go"},
	{"pagelists.go"},
	{"pageforms.go", "keyfields.go"},
	{"pagerecords.go"},
	{"ownerpages.go", "auditpages.go", "statuspages.go", "weeks.go"},
	{"calendarpages.go"},
	{"keylists.go"},
	{"keypages.go", "agentpages.go", "blockpages.go", "callpages.go", "contactpages.go", "eventpages.go", "hookpages.go", "schedulepages.go", "teampages.go", "variablepages.go"},
	{"app.go", "client.go"},
	{"demo.go", "session.go"},
	{"output.go", "foreignkeys.go"},
	{"leaks.go", "mancommand.go"},
	{"keycommands.go"},
	{"storecommands.go", "ownercommands.go", "refusalcommands.go", "hookcommands.go", "usagecommands.go"},
	{"commands.go"},
	{"admincommands.go", "auditcommands.go"},
	{"cli.go"},
	{"main.go"},
}

func TestLayers(t *testing.T) {
	names, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	fset := token.NewFileSet()
	var files []*ast.File
	for _, name := range names {
		if ok, err := build.Default.MatchFile(".", name); err != nil || !ok || strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(fset, name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	info := &types.Info{Uses: map[*ast.Ident]types.Object{}}
	// Imports stay unresolved, which is quick and enough: only names that the
	// package declares itself matter here.
	conf := types.Config{Error: func(error) {}}
	pkg, _ := conf.Check("main", fset, files, info)
	layer := func(pos token.Pos) (string, int) {
		name := filepath.Base(fset.Position(pos).Filename)
		for _, system := range []string{"_linux.go", "_unix.go", "_other.go"} { // one file in several forms
			name = strings.Replace(name, system, ".go", 1)
		}
		return name, slices.IndexFunc(layers, func(l []string) bool { return slices.Contains(l, name) })
	}
	for id, obj := range info.Uses {
		if obj.Pkg() != pkg {
			continue
		}
		from, low := layer(id.Pos())
		to, high := layer(obj.Pos())
		switch {
		case low < 0:
			t.Errorf("%s is in no layer", from)
		case from != to && high >= low:
			t.Errorf("%s uses %s of %s, which is not below it", fset.Position(id.Pos()), id.Name, to)
		case from != to && !obj.Exported():
			t.Errorf("%s uses %s, which is private to %s", fset.Position(id.Pos()), id.Name, to)
		}
	}
}
