package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

// bench is one run.
type bench struct {
	binary  string
	scratch string
	quick   bool
	rows    []row
	failed  bool
	fsync   [2]time.Duration // of a small synced write: p50 and p95
}

// row is one line of the result.
type row struct {
	what, got, target string
}

func (b *bench) row(what, target, format string, args ...any) {
	r := row{what, fmt.Sprintf(format, args...), target}
	b.rows = append(b.rows, r)
	fmt.Printf("  %-58s %-44s %s\n", r.what, r.got, r.target)
}

// wrong says that the server did something that is not a matter of speed.
func (b *bench) wrong(format string, args ...any) {
	b.failed = true
	fmt.Printf("  WRONG: "+format+"\n", args...)
}

type scenario struct {
	name string
	run  func(*bench) error
}

var scenarios = []scenario{
	{"send", (*bench).send},
	{"fanout", (*bench).fanout},
	{"crowd", (*bench).crowd},
	{"idle", (*bench).idle},
	{"sync", (*bench).sync},
	{"account", (*bench).account},
	{"presence", (*bench).presence},
	{"large", (*bench).large},
	{"messages", (*bench).messages},
	{"files", (*bench).files},
	{"keys", (*bench).keys},
	{"federation", (*bench).federation},
	{"joining", (*bench).joining},
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run() error {
	var names []string
	for _, s := range scenarios {
		names = append(names, s.name)
	}
	only := flag.String("scenario", strings.Join(names, ","), "what to measure, separated by commas")
	quick := flag.Bool("quick", false, "a tenth of the work, to see that it runs")
	binary := flag.String("binary", "", "a parley binary; empty to build one")
	scratch := flag.String("scratch", "", "folder for databases, on the disk to be measured; empty for a temporary one")
	flag.Parse()
	if *scratch == "" {
		dir, err := os.MkdirTemp("", "parley-bench-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		*scratch = dir
	}
	b := &bench{binary: *binary, scratch: *scratch, quick: *quick}
	if b.binary == "" {
		b.binary = filepath.Join(*scratch, "parley")
		build := exec.Command("go", "build", "-o", b.binary, "parley/cmd/parley")
		build.Stderr = os.Stderr
		if err := build.Run(); err != nil {
			return fmt.Errorf("build: %w", err)
		}
	}
	var err error
	fmt.Printf("machine: %d cores, %s, %s; SQLite on %s\n", runtime.NumCPU(), cpuModel(), runtime.Version(), *scratch)
	if b.fsync, err = measureFsync(*scratch); err != nil {
		return err
	}
	fmt.Printf("fsync of 4 KiB appended: p50 %v, p95 %v\n", b.fsync[0], b.fsync[1])
	for _, s := range scenarios {
		if !slices.Contains(strings.Split(*only, ","), s.name) {
			continue
		}
		fmt.Println(s.name)
		if err := s.run(b); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	if b.failed {
		return fmt.Errorf("the server did something wrong")
	}
	return nil
}

// scale is n, or a tenth of it in a quick run.
func (b *bench) scale(n int) int {
	if b.quick {
		return max(n/10, 1)
	}
	return n
}

// measureFsync tells the p50 and p95 of a small synced write on the disk to be used.
func measureFsync(dir string) ([2]time.Duration, error) {
	f, err := os.CreateTemp(dir, "fsync")
	if err != nil {
		return [2]time.Duration{}, err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	block := make([]byte, 4096)
	var times []time.Duration
	for range 300 {
		start := time.Now()
		if _, err := f.Write(block); err != nil {
			return [2]time.Duration{}, err
		}
		if err := f.Sync(); err != nil {
			return [2]time.Duration{}, err
		}
		times = append(times, time.Since(start))
	}
	return [2]time.Duration{percentile(times, 50), percentile(times, 95)}, nil
}

// percentile sorts times.
func percentile(times []time.Duration, p int) time.Duration {
	if len(times) == 0 {
		return 0
	}
	slices.Sort(times)
	return times[min(len(times)*p/100, len(times)-1)].Round(time.Microsecond)
}

func cpuModel() string {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return runtime.GOARCH
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "model name"); ok {
			return strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(rest), ":"))
		}
	}
	return runtime.GOARCH
}
