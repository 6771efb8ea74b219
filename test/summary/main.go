// Command summary reads the output of `go test -json` and writes what a person wants of it: a line a package, all of
// what failed, and at the end the tests that were skipped, with the reason of each. It exits with status 1 when
// anything failed.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

// event is one line of `go test -json`.
type event struct {
	Action     string
	Package    string
	ImportPath string // of what was built, where Action is build-output or build-fail
	Test       string
	Output     string
	Elapsed    float64
}

// test names one test, or with an empty Test, a package.
type test struct{ Package, Test string }

func main() {
	ok, err := summarise(os.Stdin, os.Stdout)
	if err != nil {
		fmt.Fprintln(os.Stderr, "summary:", err)
		os.Exit(2)
	}
	if !ok {
		os.Exit(1)
	}
}

// summarise tells whether all went well.
func summarise(in io.Reader, out io.Writer) (bool, error) {
	ok := true
	output := map[test][]string{}
	skipped := map[string][]string{} // reason → names
	passed, failed := 0, []string{}
	lines := bufio.NewReader(in)
	for {
		line, err := lines.ReadBytes('\n')
		if err == io.EOF {
			break
		} else if err != nil {
			return false, err
		}
		var e event
		if json.Unmarshal(line, &e) != nil {
			out.Write(line) // what go itself says before any test runs
			continue
		}
		name := test{e.Package, e.Test}
		switch e.Action {
		case "build-output":
			fmt.Fprint(out, e.Output)
		case "build-fail":
			ok = false
		case "output":
			if !strings.HasPrefix(e.Output, "=== ") { // that a test runs, pauses, continues
				output[name] = append(output[name], e.Output)
			}
		case "pass", "skip", "fail":
			switch {
			case e.Action == "skip" && e.Test != "":
				reason := skipReason(output[name])
				skipped[reason] = append(skipped[reason], strings.TrimPrefix(e.Package, "parley/")+" "+e.Test)
			case e.Action == "fail":
				ok = false
				failed = append(failed, strings.TrimSpace(e.Package+" "+e.Test))
				fmt.Fprintf(out, "FAIL %s %s\n%s", e.Package, e.Test, strings.Join(output[name], ""))
				if e.Test == "" {
					writeUnfinished(out, e.Package, output)
				}
			case e.Test == "" && e.Action == "pass":
				fmt.Fprintf(out, "ok   %s %.1fs\n", e.Package, e.Elapsed)
			case e.Test == "": // a package without tests
			default:
				passed++
			}
			delete(output, name)
		}
	}
	fmt.Fprintf(out, "%d tests passed, %d failed\n", passed, len(failed))
	for _, name := range failed {
		fmt.Fprintf(out, "failed: %s\n", name)
	}
	if len(skipped) == 0 {
		fmt.Fprintln(out, "no test was skipped")
	}
	for _, reason := range sortedKeys(skipped) {
		fmt.Fprintf(out, "skipped (%s):\n", reason)
		for _, name := range skipped[reason] {
			fmt.Fprintf(out, "  %s\n", name)
		}
	}
	return ok, nil
}

// writeUnfinished writes what the tests of a failed package said that never came to an end, for a panic or a timeout
// took them with it.
func writeUnfinished(out io.Writer, pkg string, output map[test][]string) {
	for name, lines := range output {
		if name.Package == pkg && name.Test != "" {
			fmt.Fprintf(out, "UNFINISHED %s %s\n%s", name.Package, name.Test, strings.Join(lines, ""))
			delete(output, name)
		}
	}
}

// skipReason finds the sentence that t.Skip wrote: the last line that is indented and names a file.
func skipReason(output []string) string {
	for _, line := range slices.Backward(output) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "---") || line == "" {
			continue
		}
		if _, reason, found := strings.Cut(line, ": "); found {
			return reason
		}
		return line
	}
	return "without a reason"
}

func sortedKeys(m map[string][]string) []string {
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}
