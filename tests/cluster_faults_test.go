//go:build linux

package tests

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"

	"latchkey/tests/program"
)

// memberName returns the name of an etcd server among those with a fault.
func memberName(i int) string { return fmt.Sprint("etcd ", i) }

// begin begins a fault, and returns its kind and what it is about, or "" if the fault that was drawn is not possible now.
func (r *randomRound) begin() string {
	kinds := []func() string{
		r.killNode, r.killNode, r.pauseNode, r.pauseNode, r.killMember, r.killMember, r.pauseMember, r.pauseMember, r.killMajority, r.moveLeader, r.moveLeader,
		r.cutLink, r.cutLink, r.cutNode, r.cutNode, r.cutNode, r.delayLink, r.resetLinks, r.cutPeers, r.slowMember, r.slowNode, r.fillNode, r.fillMember, r.stepClock, r.stepClock, r.suspendNode,
	}
	return kinds[r.rng.IntN(len(kinds))]()
}

// after ends a fault after a time.
func (r *randomRound) after(d time.Duration, end func()) {
	r.pending = append(r.pending, pendingEnd{time.Now().Add(d), end})
}

// between returns a random time.
func (r *randomRound) between(least, most time.Duration) time.Duration {
	return least + time.Duration(r.rng.Int64N(int64(most-least)))
}

// freeNode returns a node without a fault, or "" if it is the last one.
func (r *randomRound) freeNode() string {
	free := slices.DeleteFunc(slices.Clone(r.names), func(name string) bool { return r.hurt[name] })
	if len(free) < 2 {
		return ""
	}
	return free[r.rng.IntN(len(free))]
}

// freeMember returns an etcd server, or -1 if one has a fault already: a majority works, except in killMajority.
func (r *randomRound) freeMember() int {
	for i := range r.etcd.Endpoints {
		if r.hurt[memberName(i)] {
			return -1
		}
	}
	return r.rng.IntN(len(r.etcd.Endpoints))
}

// onNode begins a fault of a node for a time.
func (r *randomRound) onNode(kind string, lasts time.Duration, begin func(name string) (end func())) string {
	name := r.freeNode()
	if name == "" {
		return ""
	}
	end := begin(name)
	if end == nil {
		return ""
	}
	r.hurt[name] = true
	r.after(lasts, func() {
		end()
		delete(r.hurt, name)
	})
	return fmt.Sprintf("%s: %s, %s", kind, name, lasts.Round(time.Millisecond))
}

// onMember begins a fault of an etcd server for a time.
func (r *randomRound) onMember(kind string, lasts time.Duration, begin func(i int) (end func())) string {
	i := r.freeMember()
	if i < 0 {
		return ""
	}
	end := begin(i)
	if end == nil {
		return ""
	}
	r.hurt[memberName(i)] = true
	r.after(lasts, func() {
		end()
		delete(r.hurt, memberName(i))
	})
	return fmt.Sprintf("%s: %d, %s", kind, i, lasts.Round(time.Millisecond))
}

func (r *randomRound) killNode() string {
	return r.onNode("node killed", r.between(0, 3*time.Second), func(name string) func() {
		r.nodes[name].Kill()
		return func() { r.launch(name) }
	})
}

// pauses returns how long a process is paused: up to 10 s, mostly shorter.
func (r *randomRound) pauses() time.Duration {
	x := r.rng.Float64()
	return time.Duration(x * x * float64(10*time.Second))
}

func (r *randomRound) pauseNode() string {
	return r.onNode("node paused", r.pauses(), func(name string) func() {
		_ = r.nodes[name].Cmd.Process.Signal(syscall.SIGSTOP)
		return func() { _ = r.nodes[name].Cmd.Process.Signal(syscall.SIGCONT) }
	})
}

func (r *randomRound) killMember() string {
	return r.onMember("etcd server killed", r.between(0, 4*time.Second), func(i int) func() {
		r.etcd.Kill(i)
		return func() { r.etcd.Launch(i) }
	})
}

func (r *randomRound) pauseMember() string {
	return r.onMember("etcd server paused", r.pauses(), func(i int) func() {
		r.etcd.Stop(i)
		return func() { r.etcd.Continue(i) }
	})
}

func (r *randomRound) killMajority() string {
	first := r.freeMember()
	if first < 0 {
		return ""
	}
	killed := []int{first, (first + 1) % 3}
	if r.rng.IntN(3) == 0 {
		killed = append(killed, (first+2)%3)
	}
	for _, i := range killed {
		r.hurt[memberName(i)] = true
		r.etcd.Kill(i)
	}
	lasts := r.between(0, 2*time.Second)
	r.after(lasts, func() {
		for _, i := range killed {
			r.etcd.Launch(i)
			delete(r.hurt, memberName(i))
		}
	})
	return fmt.Sprintf("majority of etcd killed: %v, %s", killed, lasts.Round(time.Millisecond))
}

func (r *randomRound) moveLeader() string {
	if r.freeMember() < 0 {
		return "" // it would take long to find the leader
	}
	leader, ids := r.etcd.FindLeader()
	if leader < 0 {
		return ""
	}
	to := (leader + 1 + r.rng.IntN(len(ids)-1)) % len(ids)
	if ids[to] == "" || r.etcd.MoveLeader(leader, ids[to]) != nil {
		return ""
	}
	return fmt.Sprintf("leader of etcd moved: from %d to %d", leader, to)
}

// cut returns a state of a Link that lets nothing pass, or only in one direction.
func (r *randomRound) cut() (state program.LinkState, what string) {
	switch r.rng.IntN(3) {
	case 0:
		return program.LinkState{HoldRequests: true, HoldAnswers: true}, "both ways"
	case 1:
		return program.LinkState{HoldRequests: true}, "requests"
	}
	return program.LinkState{HoldAnswers: true}, "answers"
}

// heal ends the state of a Link. Connections that had to wait are closed now and then, as by a firewall.
func (r *randomRound) heal(links ...*program.Link) func() {
	reset := r.rng.IntN(2) == 0
	return func() {
		for _, link := range links {
			if link.Set(program.LinkState{}); reset {
				link.Reset()
			}
		}
	}
}

func (r *randomRound) cutLink() string {
	name, i := r.names[r.rng.IntN(len(r.names))], r.rng.IntN(3)
	state, what := r.cut()
	r.links[name][i].Set(state)
	lasts := r.between(0, 5*time.Second)
	r.after(lasts, r.heal(r.links[name][i]))
	return fmt.Sprintf("node cut from an etcd server, %s: %s from %d, %s", what, name, i, lasts.Round(time.Millisecond))
}

func (r *randomRound) cutNode() string {
	state, what := r.cut()
	return r.onNode("node cut from all of etcd, "+what, r.between(0, 5*time.Second), func(name string) func() {
		for _, link := range r.links[name] {
			link.Set(state)
		}
		return r.heal(r.links[name]...)
	})
}

func (r *randomRound) delayLink() string {
	name, delay, lasts := r.names[r.rng.IntN(len(r.names))], r.between(0, 200*time.Millisecond), r.between(0, 5*time.Second)
	for _, link := range r.links[name] {
		link.Set(program.LinkState{Delay: delay})
	}
	r.after(lasts, r.heal(r.links[name]...))
	return fmt.Sprintf("slow network of a node: %s by %s, %s", name, delay.Round(time.Millisecond), lasts.Round(time.Millisecond))
}

func (r *randomRound) resetLinks() string {
	name := r.names[r.rng.IntN(len(r.names))]
	for _, link := range r.links[name] {
		link.Reset()
	}
	return "connections of a node to etcd closed: " + name
}

func (r *randomRound) cutPeers() string {
	state, what := r.cut()
	return r.onMember("etcd server cut from the others, "+what, r.between(0, 4*time.Second), func(i int) func() {
		r.etcd.PeerLinks[i].Set(state)
		return r.heal(r.etcd.PeerLinks[i])
	})
}

// slow makes each call of a process that writes to the disk take longer. It returns nil if this machine cannot do that.
func (r *randomRound) slow(pid int, calls string) (end func()) {
	strace, err := exec.LookPath("strace")
	if err != nil {
		return nil
	}
	delay := r.between(10*time.Millisecond, 300*time.Millisecond)
	c := exec.Command(strace, "-f", "-qq", "-o", os.DevNull, "-e", "trace="+calls, "-e", fmt.Sprintf("inject=%s:delay_exit=%d", calls, delay.Microseconds()), "-p", strconv.Itoa(pid))
	if c.Start() != nil {
		return nil
	}
	return func() {
		_ = c.Process.Signal(syscall.SIGTERM) // strace lets the process go on
		_ = c.Wait()
	}
}

func (r *randomRound) slowMember() string {
	return r.onMember("slow disk of an etcd server", r.between(time.Second, 4*time.Second), func(i int) func() { return r.slow(r.etcd.Process(i), "fsync,fdatasync") })
}

func (r *randomRound) slowNode() string {
	return r.onNode("slow disk of a node", r.between(time.Second, 4*time.Second), func(name string) func() {
		return r.slow(r.nodes[name].Cmd.Process.Pid, "fsync,fdatasync,pwrite64")
	})
}

// The sizes of the file systems.
const (
	nodeDisk   = 64 << 20
	memberDisk = 512 << 20
)

// mountAll mounts a file system in memory for each node and each etcd server, which can be filled up. It returns false if this user
// may not do that.
func (r *randomRound) mountAll() bool {
	r.Helper()
	sizes := map[string]int{}
	for _, name := range r.names {
		sizes[name] = nodeDisk
	}
	for i := range 3 {
		sizes[filepath.Join("etcd", strconv.Itoa(i))] = memberDisk
	}
	mounted := true
	for name, size := range sizes {
		dir := filepath.Join(r.home, name)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			r.Fatal(err)
		}
		if !mounted {
			continue
		}
		if err := mountMemory(dir, size); err != nil {
			r.Logf("no disk will be full: %v", err)
			mounted = false
			continue
		}
		r.Cleanup(func() {
			if err := unmount(dir); err != nil {
				r.Errorf("unmount %s: %v", dir, err)
			}
		})
	}
	return mounted
}

// fill fills the file system of a folder, and returns what frees it again. It returns nil if the folder has no file system of its own.
func (r *randomRound) fill(dir string) (end func()) {
	if !r.disks {
		return nil
	}
	path := filepath.Join(dir, "ballast")
	f, err := os.Create(path)
	if err != nil {
		return nil
	}
	for block := make([]byte, 1<<20); len(block) > 0; {
		if _, err = f.Write(block); err != nil {
			block = block[:len(block)/2]
		}
	}
	if _ = f.Close(); !errors.Is(err, syscall.ENOSPC) {
		r.Errorf("fill %s: %v", dir, err)
	}
	return func() { _ = os.Remove(path) }
}

func (r *randomRound) fillNode() string {
	return r.onNode("disk of a node full", r.between(0, 4*time.Second), func(name string) func() {
		end := r.fill(r.folder(name))
		if end == nil {
			return nil
		}
		return func() {
			end()
			if r.nodes[name].Ended() || r.failed(name) {
				r.nodes[name].Kill()
				r.restarts++
				r.launch(name)
			}
		}
	})
}

func (r *randomRound) fillMember() string {
	return r.onMember("disk of an etcd server full", r.between(0, 4*time.Second), func(i int) func() {
		end := r.fill(filepath.Join(r.home, "etcd", strconv.Itoa(i)))
		if end == nil {
			return nil
		}
		return func() {
			end()
			if r.etcd.Ended(i) {
				r.restarts++
				r.etcd.Launch(i)
			}
		}
	})
}
