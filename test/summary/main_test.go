package main

import (
	"strings"
	"testing"
)

func TestSummarise(t *testing.T) {
	const good = `{"Action":"run","Package":"parley/a","Test":"TestGood"}
{"Action":"pass","Package":"parley/a","Test":"TestGood","Elapsed":0.1}
{"Action":"output","Package":"parley/a","Test":"TestSkip","Output":"    a_test.go:7: no database\n"}
{"Action":"output","Package":"parley/a","Test":"TestSkip","Output":"--- SKIP: TestSkip (0.00s)\n"}
{"Action":"skip","Package":"parley/a","Test":"TestSkip","Elapsed":0}
{"Action":"pass","Package":"parley/a","Elapsed":1.5}
`
	const bad = `{"Action":"output","Package":"parley/b","Test":"TestBad","Output":"    b_test.go:3: wrong\n"}
{"Action":"fail","Package":"parley/b","Test":"TestBad","Elapsed":0.1}
{"Action":"fail","Package":"parley/b","Elapsed":0.2}
`
	const unbuilt = `{"ImportPath":"parley/c","Action":"build-output","Output":"c.go:1: syntax error\n"}
{"ImportPath":"parley/c","Action":"build-fail"}
`
	const hung = `{"Action":"output","Package":"parley/d","Test":"TestHung","Output":"waiting\n"}
{"Action":"output","Package":"parley/d","Output":"panic: test timed out\n"}
{"Action":"fail","Package":"parley/d","Elapsed":720}
`
	for _, c := range []struct {
		name, in string
		ok       bool
		want     []string
	}{
		{"all well", good, true, []string{"ok   parley/a 1.5s", "1 tests passed, 0 failed", "skipped (no database):\n  a TestSkip"}},
		{"a failure", good + bad, false, []string{"FAIL parley/b TestBad\n    b_test.go:3: wrong", "failed: parley/b TestBad\n"}},
		{"a timeout", good + hung, false, []string{"panic: test timed out", "UNFINISHED parley/d TestHung\nwaiting"}},
		{"what does not build", unbuilt, false, []string{"c.go:1: syntax error"}},
		{"a word of go's own", "go: no such tool\n", true, []string{"go: no such tool", "no test was skipped"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out strings.Builder
			ok, err := summarise(strings.NewReader(c.in), &out)
			if err != nil || ok != c.ok {
				t.Errorf("got %v, %v; want %v", ok, err, c.ok)
			}
			for _, want := range c.want {
				if !strings.Contains(out.String(), want) {
					t.Errorf("no %q in\n%s", want, out.String())
				}
			}
		})
	}
}
