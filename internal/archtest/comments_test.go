package archtest

import (
	"bufio"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func TestPackageComments(t *testing.T) {
	for _, p := range packages(t) {
		var comments []string
		name := ""
		onlyTests := !slices.ContainsFunc(p.files, func(f sourceFile) bool { return !f.test })
		for _, f := range p.files {
			if f.test && !onlyTests {
				continue
			}
			name = f.Name.Name
			if f.Doc != nil {
				comments = append(comments, f.Doc.Text())
			}
		}
		start := "Package " + name + " "
		if name == "main" {
			start = "Command " + filepath.Base(p.path) + " "
		}
		switch {
		case len(comments) == 0:
			t.Errorf("%s has no package comment; it begins with %q", p.path, start)
		case len(comments) > 1:
			t.Errorf("%s has %d package comments", p.path, len(comments))
		case !strings.HasPrefix(comments[0], start):
			t.Errorf("the package comment of %s does not begin with %q", p.path, start)
		}
	}
}

// spec is the pages of the Matrix specification with their anchors.
type spec map[string][]string

func readSpec(t *testing.T) spec {
	t.Helper()
	f, err := os.Open(filepath.Join("testdata", "spec-headings.txt"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	s, page := make(spec), ""
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if anchor, ok := strings.CutPrefix(lines.Text(), "\t"); ok {
			s[page] = append(s[page], anchor)
		} else {
			page = lines.Text()
			s[page] = nil
		}
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	return s
}

// citation is what follows "spec: " in a comment: a page, mostly with the anchor of a
// heading, and perhaps more of them after commas.
var citation = regexp.MustCompile(`(?:^|[\s(])spec: (.*)$`)

// wrong says what is wrong with the citations in a line of a comment.
func (s spec) wrong(line string) []string {
	m := citation.FindStringSubmatch(line)
	if m == nil {
		return nil
	}
	var problems []string
	found := false
	for _, word := range strings.Fields(m[1]) {
		page, anchor, hasAnchor := strings.Cut(strings.TrimRight(word, ".,;)"), "#")
		if !strings.HasSuffix(page, ".md") {
			continue
		}
		found = true
		anchors, ok := s[page]
		switch {
		case !ok:
			problems = append(problems, "the specification has no page "+page)
		case hasAnchor && !slices.Contains(anchors, anchor):
			problem := "the page " + page + " has no heading " + anchor
			for _, other := range slices.Sorted(maps.Keys(s)) {
				if slices.Contains(s[other], anchor) {
					problem += "; " + other + " has"
				}
			}
			problems = append(problems, problem)
		}
	}
	if !found {
		problems = append(problems, "cites no page: write spec: page.md#heading")
	}
	return problems
}

func TestCitations(t *testing.T) {
	s := readSpec(t)
	count := 0
	check := func(file string, number int, line string) {
		if citation.MatchString(line) {
			count++
		}
		for _, problem := range s.wrong(line) {
			t.Errorf("%s:%d: %s", file, number, problem)
		}
	}
	for _, p := range packages(t) {
		for _, f := range p.files {
			for _, group := range f.Comments {
				for _, c := range group.List {
					number := f.Position(c.Pos()).Line
					for i, line := range strings.Split(c.Text, "\n") {
						check(f.name, number+i, line)
					}
				}
			}
		}
	}
	walk(t, ".sql", func(name string) {
		text, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		for i, line := range strings.Split(string(text), "\n") {
			if _, comment, ok := strings.Cut(line, "--"); ok {
				check(name, i+1, comment)
			}
		}
	})
	if count < 10 {
		t.Errorf("found only %d citations", count)
	}
}

func TestWrongCitations(t *testing.T) {
	s := readSpec(t)
	for line, want := range map[string]string{
		"// spec: client-server-api/index.md#syncing":                                        "",
		"// Whatever (spec: rooms/v12.md#redactions).":                                       "",
		"// spec: rooms/index.md, client-server-api/index.md#syncing, and so on":             "",
		"// spec: client-server-api/index.md#get_matrixclientv3sync":                         "",
		"// spec: client-server-api/modules/instant_messaging.md#mroomname":                  "",
		"// spec: client-server-api/modules/end_to_end_encryption.md#e2e-extensions-to-sync": "",
		"// the spec: nobody reads it":                                                       "cites no page: write spec: page.md#heading",
		"// spec: nowhere.md#syncing":                                                        "the specification has no page nowhere.md",
		"// spec: rooms/v12.md#syncing":                                                      "the page rooms/v12.md has no heading syncing; client-server-api/index.md has",
		"// aspec: nowhere.md":                                                               "",
	} {
		if got := strings.Join(s.wrong(line), "; "); got != want {
			t.Errorf("%s\ngot  %q\nwant %q", line, got, want)
		}
	}
}
