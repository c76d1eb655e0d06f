package main

import "testing"

// Finding a key that is in memory must not allocate: every request does it.
func TestKeyring_FindAllocations(t *testing.T) {
	a := newTestApp(t)
	_, secret := a.key(`["can_read_agents"]`)
	if _, _, err := a.Keyring.Find(secret); err != nil {
		t.Fatal(err)
	}
	if n := testing.AllocsPerRun(100, func() {
		if _, _, err := a.Keyring.Find(secret); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("got %v allocations, want 0", n)
	}
}

// A start must not read the keys, or a million of them would be waited for.
func TestKeyring_StartsEmpty(t *testing.T) {
	a := newTestApp(t)
	var secrets []string
	for range 20 {
		_, secret := a.key(`["can_read_agents"]`)
		secrets = append(secrets, secret)
	}
	a.restart()
	if n := len(a.Keyring.memory.byID); n != 0 {
		t.Errorf("got %d keys in memory after the start, want 0", n)
	}
	for _, secret := range secrets {
		if w := a.ask("GET", "/api/v1/agents", secret, ""); w.Code != 200 {
			t.Errorf("got %d %s, want 200", w.Code, w.Body)
		}
	}
	if n := len(a.Keyring.memory.byID); n != len(secrets) {
		t.Errorf("got %d keys in memory, want the %d that were used", n, len(secrets))
	}
}
