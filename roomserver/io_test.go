package roomserver

import (
	"os"
	"strconv"
	"strings"
	"testing"
)

// writtenBytes is what this process has had written to disks so far; 0 where the system
// does not tell.
func writtenBytes(t testing.TB) int64 {
	t.Helper()
	text, err := os.ReadFile("/proc/self/io")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "write_bytes: "); ok {
			n, _ := strconv.ParseInt(strings.TrimSpace(rest), 10, 64)
			return n
		}
	}
	return 0
}
