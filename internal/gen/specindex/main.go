// Command specindex lists the anchors of the Matrix specification, so that a test can check
// citations of it without the text. It is run by hand when the project moves to a newer
// version:
//
//	go run ./internal/gen/specindex DIR >internal/archtest/testdata/spec-headings.txt
//
// DIR is the folder of the specification's pages in Markdown.
package main

import (
	"bufio"
	"fmt"
	"html"
	"io"
	"io/fs"
	"os"
	"regexp"
	"strings"
	"unicode"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: specindex DIR")
		os.Exit(2)
	}
	if err := index(os.Stdout, os.DirFS(os.Args[1])); err != nil {
		fmt.Fprintln(os.Stderr, "specindex:", err)
		os.Exit(1)
	}
}

// index writes each page's name and below it, after a tab, its anchors in their order.
func index(w io.Writer, pages fs.FS) error {
	out := bufio.NewWriter(w)
	err := fs.WalkDir(pages, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(name, ".md") {
			return err
		}
		text, err := fs.ReadFile(pages, name)
		if err != nil {
			return err
		}
		fmt.Fprintln(out, name)
		for _, a := range anchors(string(text)) {
			fmt.Fprintf(out, "\t%s\n", a)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return out.Flush()
}

var (
	heading = regexp.MustCompile(`^#{1,6} +(.*?)(?: *\{(?:#|id=")([^"}]+)"?\})?$`)
	// The text of a link, without its target.
	link = regexp.MustCompile(`\[([^\]]*)\]\([^)]*\)`)
	// Endpoints and events stand in lists, and have the anchors of the headings that they have
	// in the published specification.
	endpoint = regexp.MustCompile("^- `(GET|PUT|POST|DELETE|OPTIONS|HEAD|PATCH) ([^`]+)`")
	event    = regexp.MustCompile("^- \\*\\*`([^`]+)`\\*\\* — schema")
	element  = regexp.MustCompile(`<a id="([^"]+)">`)
)

// anchors are what a link to a page may name after its #. Of headings with the same text the
// second has the anchor of the first and -1, and so on.
func anchors(page string) []string {
	var list []string
	seen := make(map[string]int)
	add := func(a string) {
		if n := seen[a]; n > 0 {
			list = append(list, fmt.Sprintf("%s-%d", a, n))
		} else {
			list = append(list, a)
		}
		seen[a]++
	}
	code := false
	for line := range strings.Lines(page) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "```") {
			code = !code
		}
		if code {
			continue
		}
		if m := heading.FindStringSubmatch(line); m != nil {
			if m[2] != "" {
				add(m[2])
			} else {
				add(slug(link.ReplaceAllString(m[1], "$1")))
			}
		}
		if m := endpoint.FindStringSubmatch(line); m != nil {
			add(slug(m[1] + strings.TrimSpace(m[2])))
		}
		if m := event.FindStringSubmatch(line); m != nil {
			add(slug(m[1]))
		}
		for _, m := range element.FindAllStringSubmatch(line, -1) {
			add(m[1])
		}
	}
	return list
}

// slug is the anchor of a heading: in lower case, with hyphens for spaces, and nothing else
// but letters, digits, hyphens and underscores.
func slug(text string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == ' ':
			return '-'
		case r == '-' || r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r):
			return unicode.ToLower(r)
		default:
			return -1
		}
	}, html.UnescapeString(text))
}
