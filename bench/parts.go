package main

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"time"
)

const agentsPath = "/api/v1/agents"

// reads measures GET /api/v1/agents with few and many keys, with few and many connections, and as the
// servers are after installation, with a log of every request.
func (b *bench) reads() error {
	if err := b.idle(); err != nil {
		return err
	}
	small, err := b.seedAll("small", 1000)
	if err != nil {
		return err
	}
	one, err := small[0].firstKeys(1)
	if err != nil {
		return err
	}
	cells := []cell{
		{title: "1 key, 32 connections", keys: one, connections: 32},
		{title: "1,000 keys, 32 connections", connections: 32},
		{title: "1,000 keys, 1,000 connections", connections: 1000},
		{title: "1,000 keys, 32 connections, with the log of requests", connections: 32, logged: true},
	}
	for _, c := range cells {
		if err := b.read(c, small); err != nil {
			return err
		}
	}
	if b.stored == 0 {
		return nil
	}
	large, err := b.large()
	if err != nil {
		return err
	}
	return b.read(cell{title: fmt.Sprintf("%d keys, of which %d are used, 32 connections", b.stored, min(b.used, b.stored)), keys: large.used, connections: 32}, []store{large})
}

// cell is one of the tables of reads.
type cell struct {
	title       string
	keys        string // path of the file with the keys of the requests; "" for all keys of the store
	connections int
	logged      bool // the servers log each request
}

// read measures one cell. stores has a store of each build, the first of this one.
func (b *bench) read(c cell, stores []store) error {
	body := filepath.Join(b.dir, "body")
	own := loadOptions{path: agentsPath, keys: stores[0].keys, connections: c.connections}
	if c.keys != "" {
		own.keys = c.keys
	}
	contenders := []*contender{{name: "net/http and httprouter, no check", start: b.ceiling(serverCore, agentsPath, "-body", body), load: own}}
	var reasons []string
	if err := b.buildPeers(); err != nil {
		reasons = append(reasons, err.Error())
	} else {
		contenders = append(contenders, &contender{name: "fasthttp, no check", start: b.peer("fasthttp", ""), load: own})
	}
	for _, o := range others {
		start, err := b.other(o, otherSetup{path: agentsPath, keys: stores[0].keys, body: body, logged: c.logged})
		if err != nil {
			reasons = append(reasons, err.Error())
			continue
		}
		contenders = append(contenders, &contender{name: o.name, start: start, load: own})
	}
	for _, s := range stores {
		load := own
		if c.keys == "" {
			load.keys = s.keys
		} else if s.build.beside {
			var err error
			if load.keys, err = s.firstKeys(1); err != nil {
				return err
			}
		}
		contenders = append(contenders, &contender{name: s.build.name, start: s.logging(c.logged), load: load})
	}
	if err := b.compare("GET "+agentsPath+", "+c.title, contenders); err != nil {
		return err
	}
	absent(reasons)
	return nil
}

// proxies measures reverse proxies in front of the same upstream.
func (b *bench) proxies() error {
	stores, err := b.seedAll("proxies", 1000)
	if err != nil {
		return err
	}
	const path = "/things"
	upstream, err := b.ceiling(loadCore, path, "-body", filepath.Join(b.dir, "body"))()
	if err != nil {
		return err
	}
	return upstream.stop(b.proxiesTo(upstream.url, path, stores))
}

// proxiesTo measures reverse proxies in front of an upstream.
func (b *bench) proxiesTo(upstream, path string, stores []store) error {
	config := filepath.Join(b.dir, "guard.toml")
	text := fmt.Sprintf("[[route]]\npath = %q\nmethods = [\"GET\"]\npermission = \"can_read_agents\"\nupstream = %q\n", path, upstream)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return err
	}
	own := loadOptions{path: path, keys: stores[0].keys, connections: 32}
	contenders := []*contender{{name: "a bare reverse proxy in Go", start: b.ceiling(serverCore, path, "-proxy", upstream), load: own}}
	var reasons []string
	list := others
	if b.traefikFile != "" {
		list = append(list[:len(list):len(list)], traefik(b.traefikFile))
	} else {
		reasons = append(reasons, "Traefik (-traefik FILE)")
	}
	for _, o := range list {
		start, err := b.other(o, otherSetup{path: path, keys: stores[0].keys, upstream: upstream})
		if err != nil {
			reasons = append(reasons, err.Error())
			continue
		}
		contenders = append(contenders, &contender{name: o.name, start: start, load: own})
	}
	for _, s := range stores {
		load := own
		load.keys = s.keys
		contenders = append(contenders, &contender{name: s.build.name, start: s.starter("--config", config), load: load})
	}
	if err := b.compare("GET through a reverse proxy, 1,000 keys, 32 connections", contenders); err != nil {
		return err
	}
	absent(reasons)
	return nil
}

// libraries measures one handler behind each of the servers that are libraries, and behind our loop.
func (b *bench) libraries() error {
	if err := b.buildPeers(); err != nil {
		return err
	}
	stores, err := b.seedAll("libraries", 1000)
	if err != nil {
		return err
	}
	for _, connections := range []int{32, 1000} {
		load := loadOptions{path: agentsPath, keys: stores[0].keys, connections: connections}
		var contenders []*contender
		for _, name := range []string{"net/http", "lean", "fasthttpadaptor", "nbio", "nbio-pool", "fasthttp"} {
			c := &contender{name: name, start: b.peer(name, stores[0].keys), load: load}
			if name == "fasthttp" {
				c.name = "fasthttp, a handler of its own, no check"
			}
			contenders = append(contenders, c)
		}
		if err := b.compare(fmt.Sprintf("One handler behind each server, 1,000 keys, %d connections", connections), contenders); err != nil {
			return err
		}
	}
	return nil
}

// calls measures POST /api/v1/calls with 64 connections, whose keys are of one owner or of 64.
func (b *bench) calls() error {
	one, err := b.seedAll("calls", 1000)
	if err != nil {
		return err
	}
	many, err := b.seedAll("owners", 64)
	if err != nil {
		return err
	}
	const body = `{"phone_number": "+4930555044", "agent_id": %s}`
	var contenders []*contender
	for i := range one {
		own := loadOptions{path: "/api/v1/calls", connections: 64, keys: one[i].keys, body: fmt.Sprintf(body, "1")}
		others := loadOptions{path: "/api/v1/calls", connections: 64, keys: many[i].keys, body: fmt.Sprintf(body, "AGENT")}
		contenders = append(contenders, &contender{name: one[i].build.name + ", one owner", start: one[i].starter(), load: own},
			&contender{name: many[i].build.name + ", 64 owners", start: many[i].starter(), load: others})
	}
	if err := b.compare("POST /api/v1/calls, 64 connections, each on disk before its answer", contenders); err != nil {
		return err
	}
	sync, err := b.syncTime()
	if err != nil {
		return err
	}
	fmt.Printf("a 4 KiB write with fsync takes %.2f ms here\n", sync.Seconds()*1000)
	return nil
}

// syncTime returns the median time that the disk needs to write and sync one page of 4 KiB.
func (b *bench) syncTime() (time.Duration, error) {
	f, err := os.Create(filepath.Join(b.dir, "sync"))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	page := make([]byte, 4096)
	var times []float64
	for range 200 {
		began := time.Now()
		if _, err := f.WriteAt(page, 0); err != nil {
			return 0, err
		}
		if err := f.Sync(); err != nil {
			return 0, err
		}
		times = append(times, float64(time.Since(began)))
	}
	return time.Duration(median(times)), nil
}

// idle measures a server with 100 keys that gets no requests.
func (b *bench) idle() error {
	few, err := b.seed(b.builds()[0], "idle", 100)
	if err != nil {
		return err
	}
	fresh, err := store{bench: b, build: few.build, folder: "fresh"}.starter()()
	if err != nil {
		return err
	}
	if err := fresh.stop(nil); err != nil {
		return err
	}
	return b.report("100 keys", few.starter(), fmt.Sprintf(", on a new folder %v", fresh.ready.Round(time.Millisecond)))
}

// report starts a server and prints the time to its first answer and its memory. It adds extra after
// the time.
func (b *bench) report(name string, start func() (*server, error), extra string) error {
	s, err := start()
	if err != nil {
		return err
	}
	time.Sleep(2 * time.Second) // until the server has released the memory that only the start needed
	_, rss, err := usage(s.command.Process.Pid)
	fmt.Printf("%s: first answer after %v%s, idle RSS %.0f MB\n", name, s.ready.Round(time.Millisecond), extra, float64(rss)/1e6)
	return s.stop(err)
}

// large creates a data folder with b.stored keys, of which the requests use the first b.used.
func (b *bench) large() (store, error) {
	large, err := b.seed(b.builds()[0], "large", 1)
	if err != nil {
		return large, err
	}
	s, err := large.starter()()
	if err != nil {
		return large, err
	}
	began := time.Now()
	var list bytes.Buffer
	for done := 0; done < b.stored && err == nil; {
		var part bytes.Buffer
		part.WriteString("[")
		for i := range min(50_000, b.stored-done) {
			secret := rand.Text()
			fmt.Fprintln(&list, secret)
			if i > 0 {
				part.WriteString(",")
			}
			fmt.Fprintf(&part, `{"name":"stored %d","permissions":["can_read_agents"],"limits":{"requests_per_minute_limit":1000000},"sha256":"%x"}`, done+i, sha256.Sum256([]byte(secret)))
		}
		part.WriteString("]")
		_, err = large.run(part.String(), "keys", "import", "-")
		done += min(50_000, b.stored-done)
	}
	if err := s.stop(err); err != nil {
		return large, err
	}
	log.Printf("imported %d keys in %v", b.stored, time.Since(began).Round(time.Second))
	if err := os.WriteFile(large.keys, list.Bytes(), 0o600); err != nil {
		return large, err
	}
	if large.used, err = large.firstKeys(b.used); err != nil {
		return large, err
	}
	return large, b.report(fmt.Sprintf("%d keys", b.stored), large.starter(), "")
}
