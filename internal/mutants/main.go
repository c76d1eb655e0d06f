// Command mutants shows what the tests of the main package do not notice. It makes random small mistakes in the
// code, one at a time, and runs the tests of the file's family (see layers_test.go) on each. A mutant that no test
// notices survives: a test is missing, or the mutant does the same as the code.
//
//	go run ./internal/mutants -n 300 -results FILE limits keys guard server store owners handlers_body
//
// The arguments are the beginnings of file names. All mutants are compiled into one test program, which has the
// mutant that the environment variable LATCHKEY_MUTANT names. FILE gets a line for each mutant that has been tried;
// a run with the same seed goes on where it was interrupted.
package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

func main() {
	log.SetFlags(0)
	n := flag.Int("n", 30, "number of mutants")
	seed := flag.Uint64("seed", 1, "chooses the mutants")
	results := flag.String("results", "mutants.jsonl", "file of the results")
	only := flag.Int("only", 0, "try the mutant with this number again, and print the output of the tests")
	flag.Parse()
	if flag.NArg() == 0 {
		log.Fatal("mutants: name the beginnings of the files to change, such as limits")
	}
	if err := run(*n, *seed, *results, *only, flag.Args()); err != nil {
		log.Fatal("mutants: ", err)
	}
}

// result is what has become of a mutant.
type result struct {
	Mutant   int
	At, What string
	Fate     string  // killed, survived, or unreached: no test of the family runs the code
	By       string  `json:",omitempty"` // the test that noticed it
	Seconds  float64 `json:",omitempty"`
}

func run(n int, seed uint64, path string, only int, files []string) error {
	all, err := findSites(files)
	if err != nil {
		return err
	}
	r := rand.New(rand.NewPCG(seed, 0))
	r.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	mutants := choose(all, n)
	log.Printf("%d of %d possible mutants", len(mutants), len(all))
	folder, err := os.MkdirTemp("", "mutants-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(folder)
	t := &trials{program: filepath.Join(folder, "mutants.test"), folder: folder, families: map[string]family{}}
	if err := build(mutants, folder, t.program); err != nil {
		return err
	}
	if only > 0 {
		return t.show(mutants[only-1])
	}
	done, err := readResults(path)
	if err != nil {
		return err
	}
	out, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer out.Close()
	for _, m := range mutants {
		if _, ok := done[m.number]; ok {
			continue
		}
		was, err := t.try(m)
		if err != nil {
			return err
		}
		done[m.number] = was
		log.Printf("%3d %-9s %s: %s (%s, %.0f s)", m.number, was.Fate, was.At, was.What, was.By, was.Seconds)
		if err := json.NewEncoder(out).Encode(was); err != nil {
			return err
		}
	}
	summarize(done)
	return nil
}

func readResults(path string) (map[int]result, error) {
	done := map[int]result{}
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return done, nil
	}
	for line := range strings.Lines(string(data)) {
		var r result
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		done[r.Mutant] = r
	}
	return done, err
}

// summarize prints the survivors and how many mutants had each fate.
func summarize(done map[int]result) {
	fates := map[string]int{}
	for _, r := range slices.SortedFunc(maps.Values(done), func(a, b result) int { return cmp.Compare(a.At, b.At) }) {
		fates[r.Fate]++
		if r.Fate != "killed" {
			fmt.Printf("%3d %-9s %s: %s\n", r.Mutant, r.Fate, r.At, r.What)
		}
	}
	fmt.Printf("%d mutants: %v\n", len(done), fates)
}

// trials runs the test program.
type trials struct {
	program, folder string
	families        map[string]family
}

// family is the tests of a family of files, the fastest first.
type family []familyTest

type familyTest struct {
	name    string
	takes   time.Duration // without a mutant
	reached map[int]bool  // mutants whose code it runs
}

var testFunc = regexp.MustCompile(`(?m)^func (Test\w+)\(t \*testing\.T\)`)

// of returns the tests of the family of a file. Tests that fail without a mutant are left out.
func (t *trials) of(file string) (family, error) {
	name := strings.SplitN(strings.TrimSuffix(file, ".go"), "_", 2)[0]
	if f := t.families[name]; f != nil {
		return f, nil
	}
	paths, err := filepath.Glob(name + "*_test.go")
	if err != nil {
		return nil, err
	}
	var tests []string
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		for _, m := range testFunc.FindAllStringSubmatch(string(text), -1) {
			tests = append(tests, m[1])
		}
	}
	var f family
	var all time.Duration
	for _, test := range tests {
		reached := filepath.Join(t.folder, test)
		began := time.Now()
		failed, _, err := t.tests([]string{test}, time.Hour, "LATCHKEY_MUTANTS_REACHED="+reached)
		if err != nil {
			return nil, err
		}
		if failed != "" {
			log.Printf("%s fails without a mutant and is left out", test)
			continue
		}
		one := familyTest{name: test, takes: time.Since(began)}
		if one.reached, err = readNumbers(reached); err != nil {
			return nil, err
		}
		f, all = append(f, one), all+one.takes
	}
	slices.SortFunc(f, func(a, b familyTest) int { return cmp.Compare(a.takes, b.takes) })
	log.Printf("the %d tests of %s take %s", len(f), name, all.Round(time.Second))
	t.families[name] = f
	return f, nil
}

// readNumbers returns the numbers in a file, one in each line.
func readNumbers(path string) (map[int]bool, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	numbers := map[int]bool{}
	in := bufio.NewScanner(f)
	for in.Scan() {
		n, err := strconv.Atoi(in.Text())
		if err != nil {
			return nil, err
		}
		numbers[n] = true
	}
	return numbers, in.Err()
}

var failedTest = regexp.MustCompile(`(?m)^--- FAIL: (Test\w+)`)

// tests runs tests. failed is the first one that fails, or what ended the program; "" if none does.
func (t *trials) tests(names []string, limit time.Duration, env ...string) (failed, output string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, t.program, "-test.short", "-test.failfast", "-test.run", "^("+strings.Join(names, "|")+")$")
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if err == nil {
		return "", string(out), nil
	}
	if _, ended := errors.AsType[*exec.ExitError](err); !ended {
		return "", "", err
	}
	if ctx.Err() != nil {
		return "time", string(out), nil
	}
	if m := failedTest.FindStringSubmatch(string(out)); m != nil {
		return m[1], string(out), nil
	}
	return "a crash", string(out), nil
}

// try runs the tests of the family on a mutant.
func (t *trials) try(m site) (result, error) {
	r := result{Mutant: m.number, At: m.at, What: m.what}
	f, err := t.of(m.file)
	if err != nil {
		return r, err
	}
	r.Fate = "unreached"
	began := time.Now()
	for _, names := range f.reaching(m.number) {
		if r.By, _, err = t.tests(names.tests, 3*names.takes+20*time.Second, "LATCHKEY_MUTANT="+strconv.Itoa(m.number)); err != nil {
			return r, err
		}
		if r.Fate = "killed"; r.By != "" {
			break
		}
		r.Fate = "survived"
	}
	r.Seconds = time.Since(began).Seconds()
	return r, nil
}

// group is tests that one process runs.
type group struct {
	tests []string
	takes time.Duration
}

// reaching returns the tests that run the code of a mutant: first all that take less than a second, then one by one.
func (f family) reaching(mutant int) (list []group) {
	var quick group
	for _, test := range f {
		switch {
		case !test.reached[mutant]:
		case test.takes < time.Second:
			quick.tests, quick.takes = append(quick.tests, test.name), quick.takes+test.takes
		default:
			list = append(list, group{[]string{test.name}, test.takes})
		}
	}
	if len(quick.tests) > 0 {
		list = slices.Insert(list, 0, quick)
	}
	return list
}

// show prints what the tests say of a mutant.
func (t *trials) show(m site) error {
	f, err := t.of(m.file)
	if err != nil {
		return err
	}
	for _, names := range f.reaching(m.number) {
		failed, output, err := t.tests(names.tests, time.Hour, "LATCHKEY_MUTANT="+strconv.Itoa(m.number))
		if err != nil {
			return err
		}
		if fmt.Printf("%s\n%s: %s: %q\n", output, m.at, m.what, failed); failed != "" {
			break
		}
	}
	return nil
}
