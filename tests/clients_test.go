package tests

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"latchkey/tests/program"
)

// TestClients_Go has a client that oapi-codegen made from openapi.json create a key, use it, meet
// 403 and 429, and revoke it. testdata/clients/README.md says how to make the client again.
func TestClients_Go(t *testing.T) {
	built := filepath.Join(t.TempDir(), "journey")
	build := exec.Command("go", "build", "-mod=vendor", "-o", built, ".")
	build.Dir = filepath.Join("tests", "testdata", "clients", "go")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the client: %v\n%s", err, out)
	}
	journeyWith(t, built)
}

// TestClients_TypeScript does the same with the client of @hey-api/openapi-ts.
func TestClients_TypeScript(t *testing.T) {
	node, err := exec.LookPath("node")
	if err != nil {
		t.Skip("node is not installed")
	}
	journeyWith(t, node, filepath.Join("tests", "testdata", "clients", "typescript", "journey.js"))
}

// journeyWith runs a client against a new server.
func journeyWith(t *testing.T, name string, args ...string) {
	t.Helper()
	data := filepath.Join(t.TempDir(), "data")
	p := program.Serve(t, data)
	token, errs, exit := program.Run(t, "admin", "token", "create", "--data", data, "--name", "journey")
	if exit != 0 {
		t.Fatalf("token create: exit %d, %s", exit, errs)
	}
	c := exec.CommandContext(t.Context(), name, append(args, p.URL, "http://"+p.Admin)...)
	c.Env = append(c.Environ(), "LATCHKEY_ADMIN_TOKEN="+strings.TrimSpace(token))
	if out, err := c.CombinedOutput(); err != nil || !strings.Contains(string(out), "200 403 429 401") {
		t.Errorf("%v\n%s", err, out)
	}
	p.Stop(t)
}
