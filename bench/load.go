package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"time"
)

// loadOptions describes the requests that wrk sends.
type loadOptions struct {
	path        string // URL path
	keys        string // path of a file with one key per line
	body        string // body of a POST request; "" for GET requests
	connections int
}

// result holds the measurements of one load.
type result struct {
	perSecond float64       // requests per second
	p50, p99  time.Duration // percentiles of the latency
	p999      time.Duration // the 99.9th percentile
	cpu       time.Duration // CPU time of the server and its child processes per request
	rss       int64         // memory of the server at the end, in bytes
	refused   int           // number of answers other than 2xx, and of errors
}

func (r result) rate() float64    { return r.perSecond }
func (r result) median() float64  { return r.p50.Seconds() * 1000 }
func (r result) high() float64    { return r.p99.Seconds() * 1000 }
func (r result) highest() float64 { return r.p999.Seconds() * 1000 }
func (r result) cost() float64    { return r.cpu.Seconds() * 1e6 }
func (r result) memory() float64  { return float64(r.rss) / 1e6 }

func (r result) String() string {
	return fmt.Sprintf("%8.0f req/s, p50 %v, p99 %v, p99.9 %v, %.1f us CPU, %d refused", r.perSecond, r.p50, r.p99, r.p999, r.cost(), r.refused)
}

// script makes wrk send each request with the next key of the file in BENCH_KEYS, in turn. AGENT in
// the body is replaced by the agent of the key's owner: the first has the id 2.
const script = `
local requests, count, at = {}, 0, 0
function init()
  for key in io.lines(os.getenv("BENCH_KEYS")) do
    count = count + 1
    local body = os.getenv("BENCH_BODY")
    requests[count] = wrk.format(body and "POST" or "GET", nil, {["X-API-Key"] = key}, body and body:gsub("AGENT", count + 1))
  end
end
function request()
  at = at % count + 1
  return requests[at]
end
function done(summary, latency)
  local errors = summary.errors
  io.write(string.format("result %d %d %d %d %d %d\n", summary.requests, summary.duration, latency:percentile(50), latency:percentile(99), latency:percentile(99.9),
    errors.status + errors.connect + errors.read + errors.write + errors.timeout))
end
`

var resultLine = regexp.MustCompile(`result (\d+) (\d+) (\d+) (\d+) (\d+) (\d+)`)

// load sends requests to a server for a second to warm it up, and then measures a load of b.seconds
// seconds.
func (b *bench) load(s *server, o loadOptions) (result, error) {
	if _, err := b.wrk(s, o, 1); err != nil {
		return result{}, err
	}
	before, _, err := treeUsage(s.command.Process.Pid)
	if err != nil {
		return result{}, err
	}
	numbers, err := b.wrk(s, o, b.seconds)
	if err != nil {
		return result{}, err
	}
	after, rss, err := treeUsage(s.command.Process.Pid)
	if err != nil {
		return result{}, err
	}
	return result{
		perSecond: float64(numbers[0]) / (float64(numbers[1]) / 1e6), p50: time.Duration(numbers[2]) * time.Microsecond,
		p99: time.Duration(numbers[3]) * time.Microsecond, p999: time.Duration(numbers[4]) * time.Microsecond, cpu: (after - before) / time.Duration(max(1, numbers[0])), rss: rss, refused: numbers[5],
	}, nil
}

// wrk loads a server for some seconds. It returns six numbers: the number of requests, the duration
// in microseconds, the 50th, the 99th and the 99.9th percentile of the latency in microseconds, and the
// number of errors.
func (b *bench) wrk(s *server, o loadOptions, seconds int) (numbers [6]int, err error) {
	lua := filepath.Join(b.dir, "wrk.lua")
	if err := os.WriteFile(lua, []byte(script), 0o600); err != nil {
		return numbers, err
	}
	c := exec.Command("taskset", "-c", loadCore, "wrk", "-t1", fmt.Sprint("-c", o.connections), fmt.Sprintf("-d%ds", seconds), "-s", lua, s.url+o.path)
	c.Env = append(os.Environ(), "BENCH_KEYS="+o.keys)
	if o.body != "" {
		c.Env = append(c.Env, "BENCH_BODY="+o.body)
	}
	c.Stderr = os.Stderr
	out, err := c.Output()
	if err != nil {
		return numbers, fmt.Errorf("wrk: %w", err)
	}
	m := resultLine.FindSubmatch(out)
	if m == nil {
		return numbers, fmt.Errorf("wrk printed no result: %s", out)
	}
	for i := range numbers {
		if numbers[i], err = strconv.Atoi(string(m[i+1])); err != nil {
			return numbers, err
		}
	}
	return numbers, nil
}
