package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"latchkey/internal/clock"
)

func TestOpenApp_Refusals(t *testing.T) {
	for _, tt := range []struct {
		name   string
		damage func(t *testing.T, dir string)
		want   string
	}{
		{"database gone", func(t *testing.T, dir string) { remove(t, dir, storeFile) }, "restore a backup"},
		{"database empty", func(t *testing.T, dir string) { overwrite(t, dir, storeFile, "") }, "restore a backup"},
		{"pepper gone", func(t *testing.T, dir string) { remove(t, dir, pepperFile) }, "put the file back"},
		{"another pepper", func(t *testing.T, dir string) { overwrite(t, dir, pepperFile, strings.Repeat("ab", 32)) }, "put the right pepper file back"},
		{"database of another folder", func(t *testing.T, dir string) { overwrite(t, dir, markFile, "other\n") }, "belongs to another data folder"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := newTestApp(t)
			if err := a.Close(); err != nil {
				t.Fatal(err)
			}
			a.App = nil
			tt.damage(t, a.config.Server.Data)
			app, err := OpenApp(AppOptions{Config: a.config, Clock: clock.NewClock(), Create: true, Log: a.logger().Logger})
			if err == nil {
				_ = app.Close()
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
			again, err := OpenDataDir(a.config.Server.Data)
			if err != nil {
				t.Fatalf("the folder is still held: %v", err)
			}
			_ = again.Close()
		})
	}
}

func remove(t *testing.T, dir, name string) {
	t.Helper()
	if err := os.Remove(filepath.Join(dir, name)); err != nil {
		t.Fatal(err)
	}
}

func overwrite(t *testing.T, dir, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestOpenFolder_InUse(t *testing.T) {
	a := newTestApp(t)
	_, err := OpenApp(AppOptions{Config: a.config, Clock: clock.NewClock(), Create: true, Log: a.logger().Logger})
	if err == nil || !strings.Contains(err.Error(), "is in use by process") {
		t.Errorf("got %v, want the process that has it", err)
	}
}

func TestOpenFolder_NotWritable(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := CreateDataDir(filepath.Join(file, "data")); err == nil || !strings.Contains(err.Error(), "--data") {
		t.Errorf("got %v, want a way out", err)
	}
}

// TestFolder_InterruptedCreation starts where a first start was cut off after
// each of its steps: nothing was stored yet, so it goes on.
func TestFolder_InterruptedCreation(t *testing.T) {
	for _, left := range [][]string{{}, {pepperFile}, {pepperFile, storeFile}} {
		a := newTestApp(t)
		if err := a.Close(); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{pepperFile, storeFile, markFile} {
			overwrite(t, a.config.Server.Data, name+".new", "0a") // what the crash had begun
			if !strings.Contains(strings.Join(left, " "), name) {
				remove(t, a.config.Server.Data, name)
			}
		}
		a.start()
		a.key(`["can_read_calls"]`)
	}
}
