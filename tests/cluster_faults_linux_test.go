package tests

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"latchkey/tests/program"
)

// mountMemory mounts a file system of a size in memory on a folder.
func mountMemory(dir string, size int) error {
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d,mode=700", size)); err != nil {
		return fmt.Errorf("mount a file system on %s: %w", dir, err)
	}
	return nil
}

// unmount undoes mountMemory.
func unmount(dir string) error { return syscall.Unmount(dir, 0) }

// TestClusterClocks_Source builds what the long form of TestClusterRandom_Faults replaces in the source of the program.
func TestClusterClocks_Source(t *testing.T) {
	program.NotQuick(t)
	root, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	list, err := program.SteppedOverlay(root, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("go", "build", "-overlay", list, "./internal/clock", "./internal/cluster/etcd").CombinedOutput(); err != nil {
		t.Errorf("build with other clocks: %v\n%s", err, out)
	}
}

// nodeClocks are the clocks of a node, and how far they are ahead.
type nodeClocks struct {
	*program.Clocks
	wall, boot time.Duration
}

// setClocks lets the test set the clocks of each node.
func (r *randomRound) setClocks() {
	r.Helper()
	root, err := os.Getwd()
	if err != nil {
		r.Fatal(err)
	}
	r.program = program.SteppedProgram(r, filepath.Clean(root))
	r.clocks = map[string]*nodeClocks{}
	for _, name := range r.names {
		r.clocks[name] = &nodeClocks{Clocks: program.NewClocks(r)}
	}
	r.suspends = r.rng.IntN(2) == 0
}

// stepped makes a command use the clocks of a node.
func (r *randomRound) stepped(cmd *exec.Cmd, name string) {
	if r.clocks != nil {
		cmd.Path, cmd.Args[0] = r.program, r.program
		cmd.Env = append(cmd.Env, r.clocks[name].Environ())
	}
}

// stepClock sets the wall clock of a node.
func (r *randomRound) stepClock() string {
	if r.clocks == nil {
		return ""
	}
	name := r.names[r.rng.IntN(len(r.names))]
	c := r.clocks[name]
	if c.wall = r.between(-time.Minute, time.Minute); r.rng.IntN(3) == 0 {
		c.wall = r.between(-11*time.Hour, 11*time.Hour) // an Idempotency-Key is known for 24 hours by the clock of a node that has loaded a new view
	}
	if err := c.Set(c.wall, c.boot); err != nil {
		r.Error(err)
	}
	return fmt.Sprintf("wall clock of a node set: %s, %s", name, c.wall.Round(time.Second))
}

// suspendNode lets a node believe that its machine was suspended.
func (r *randomRound) suspendNode() string {
	if r.clocks == nil || !r.suspends {
		return ""
	}
	took := r.between(time.Second, time.Minute)
	return r.onNode("machine of a node suspended", r.between(0, time.Second), func(name string) func() {
		_ = r.nodes[name].Cmd.Process.Signal(syscall.SIGSTOP)
		c := r.clocks[name]
		c.wall, c.boot = c.wall+took, c.boot+took
		if err := c.Set(c.wall, c.boot); err != nil {
			r.Error(err)
		}
		return func() { _ = r.nodes[name].Cmd.Process.Signal(syscall.SIGCONT) }
	})
}
