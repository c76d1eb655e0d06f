package program

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// Clocks are the clocks of a server that SteppedProgram runs.
type Clocks struct{ file *os.File }

// clocksVariable is the environment variable with the path of a file that shifts the clocks of SteppedProgram.
const clocksVariable = "LATCHKEY_TEST_CLOCKS"

// NewClocks returns clocks that are right. They end with the test.
func NewClocks(t testing.TB) *Clocks {
	t.Helper()
	f, err := os.CreateTemp(t.TempDir(), "clocks")
	if err == nil {
		_, err = f.Write(make([]byte, 16))
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return &Clocks{f}
}

// Environ returns the environment variable for a command that uses the clocks.
func (c *Clocks) Environ() string { return clocksVariable + "=" + c.file.Name() }

// Set sets how far the wall clock and the time since the boot are ahead, in whole seconds. The monotonic clock goes on.
func (c *Clocks) Set(wall, boot time.Duration) error {
	var data [16]byte
	binary.NativeEndian.PutUint64(data[:], uint64(wall/time.Second))
	binary.NativeEndian.PutUint64(data[8:], uint64(boot/time.Second))
	_, err := c.file.WriteAt(data[:], 0)
	return err
}

// steppedFile is added to the package of the clocks. The seconds of a time.Time with a monotonic reading are above the 30 bits of its nanoseconds.
const steppedFile = `package clock

import (
	"os"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"
)

var steps = func() *[2]int64 {
	f, err := os.Open(os.Getenv("` + clocksVariable + `"))
	if err != nil {
		return new([2]int64)
	}
	data, err := syscall.Mmap(int(f.Fd()), 0, 16, syscall.PROT_READ, syscall.MAP_SHARED)
	if err != nil {
		panic(err)
	}
	return (*[2]int64)(unsafe.Pointer(&data[0]))
}()

// SteppedNow is time.Now with another wall clock.
func SteppedNow() time.Time {
	now := time.Now()
	*(*uint64)(unsafe.Pointer(&now)) += uint64(atomic.LoadInt64(&steps[0])) << 30
	return now
}

// BootStep is added to the time since the boot.
func BootStep() time.Duration { return time.Duration(atomic.LoadInt64(&steps[1])) * time.Second }
`

// steppedSources are what SteppedProgram replaces in the source of the program: by file, pairs of old and new text.
var steppedSources = map[string][]string{
	"internal/clock/clock.go":             {"c.wall = time.Now\n", "c.wall = SteppedNow\n"},
	"internal/clock/clock_linux.go":       {"Wall: time.Now()", "Wall: SteppedNow()", "time.Duration(ts.Nano())", "time.Duration(ts.Nano())+BootStep()"},
	"internal/cluster/etcd/boot_linux.go": {"import (\n", "import (\n\t\"latchkey/internal/clock\"\n", "time.Duration(t.Nano())", "time.Duration(t.Nano()) + clock.BootStep()"},
	"internal/cluster/etcd/permit.go":     {"import \"time\"", "import (\n\t\"time\"\n\t\"latchkey/internal/clock\"\n)", "now := time.Now()", "now := clock.SteppedNow()"},
	"internal/cluster/etcd/members.go":    {"import (\n", "import (\n\t\"latchkey/internal/clock\"\n", "return time.Now()", "return clock.SteppedNow()"},
}

// SteppedProgram returns the path of a program that can be a node of a cluster, and whose wall clock and time since the boot Clocks
// can set. It is the program with other readings of clocks in internal/clock and in the lease of a node. root is the folder of the source.
// LATCHKEY_TEST_STEPPED is the path of one that is built already.
func SteppedProgram(t testing.TB, root string) string {
	t.Helper()
	NotQuick(t)
	path, err := buildStepped(root)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

var stepped struct {
	sync.Mutex
	path string
}

// buildStepped builds the program once for all tests of a process.
func buildStepped(root string) (string, error) {
	stepped.Lock()
	defer stepped.Unlock()
	if stepped.path == "" {
		stepped.path = os.Getenv("LATCHKEY_TEST_STEPPED")
	}
	if stepped.path != "" {
		return stepped.path, nil
	}
	list, err := SteppedOverlay(root, filepath.Join(folder, "stepped-source"))
	if err != nil {
		return "", err
	}
	path := filepath.Join(folder, "latchkeystepped")
	c := exec.Command("go", "build", "-tags", "cluster", "-overlay", list, "-o", path, "latchkey")
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := c.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build with other clocks: %w\n%s", err, out)
	}
	stepped.path = path
	return path, nil
}

// SteppedOverlay writes the files that SteppedProgram replaces to a folder. It returns the path of the list of them for go build -overlay.
func SteppedOverlay(root, sources string) (list string, err error) {
	if err := os.MkdirAll(sources, 0o700); err != nil {
		return "", err
	}
	var overlay struct{ Replace map[string]string }
	overlay.Replace = map[string]string{}
	add := func(path, text string) error {
		replaced := filepath.Join(sources, fmt.Sprint(len(overlay.Replace), ".go"))
		overlay.Replace[filepath.Join(root, path)] = replaced
		return os.WriteFile(replaced, []byte(text), 0o600)
	}
	for file, pairs := range steppedSources {
		source, err := os.ReadFile(filepath.Join(root, file))
		if err != nil {
			return "", err
		}
		text := string(source)
		for i := 0; i < len(pairs); i += 2 {
			if strings.Count(text, pairs[i]) != 1 {
				return "", fmt.Errorf("%s has %q not just once, so the clocks cannot be replaced", file, pairs[i])
			}
			text = strings.Replace(text, pairs[i], pairs[i+1], 1)
		}
		if err := add(file, text); err != nil {
			return "", err
		}
	}
	if err := add("internal/clock/stepped.go", steppedFile); err != nil {
		return "", err
	}
	data, err := json.Marshal(overlay)
	if err != nil {
		return "", err
	}
	list = filepath.Join(sources, "overlay.json")
	return list, os.WriteFile(list, data, 0o600)
}
