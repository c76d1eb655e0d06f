package lean

import (
	"testing"

	"go.uber.org/goleak"
)

// No test may leave a goroutine behind, whatever its connections were handed over to.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
