// Command speccoverage writes docs/spec-coverage.md: every endpoint of the specification, what this server does of it,
// and a test that covers it. It is run by `make docs`.
//
// The endpoints come from the specification's definitions in test/contract/testdata, what is served from the tables of
// routes, and the tests from the sources: a test covers an endpoint when it names the endpoint's operation, asks for its
// method and path, or cites it.
package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"parley/internal/httpapi"
)

// document is what is written, in the module.
const document = "docs/spec-coverage.md"

func main() {
	root := flag.String("root", ".", "the module's folder")
	flag.Parse()
	text, err := generate(*root)
	if err == nil {
		err = os.WriteFile(filepath.Join(*root, document), text, 0o644)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "speccoverage:", err)
		os.Exit(1)
	}
}

// endpoint is one of the specification's.
type endpoint struct {
	id, method, path, since string
	deprecated              bool

	route *httpapi.Route // nil for none
	not   string         // the errcode that says that it is not offered
	test  string
}

// api is the endpoints of one of the APIs.
type api struct {
	title     string
	endpoints []endpoint
}

func generate(root string) ([]byte, error) {
	apis, sources, err := survey(root)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	out.WriteString(head)
	for _, a := range apis {
		writeEndpoints(&out, a.title, a.endpoints)
	}
	err = writeMSCs(&out, sources)
	return out.Bytes(), err
}

// survey finds out what becomes of each endpoint.
func survey(root string) ([]api, *sources, error) {
	sources, err := readSources(root)
	if err != nil {
		return nil, nil, err
	}
	clientRoutes, serverRoutes, err := routes()
	if err != nil {
		return nil, nil, err
	}
	not, err := notOffered(sources)
	if err != nil {
		return nil, nil, err
	}
	var apis []api
	for _, a := range []struct {
		name, title string
		routes      httpapi.Table
	}{
		{"client-server", "The client-server API", clientRoutes},
		{"server-server", "The server-server API", serverRoutes},
	} {
		endpoints, err := readEndpoints(filepath.Join(root, "test", "contract", "testdata", a.name+".json"))
		if err != nil {
			return nil, nil, err
		}
		for i := range endpoints {
			e := &endpoints[i]
			e.route, e.not = find(a.routes, e), not[e.id]
			if a.name == "client-server" {
				e.test = sources.operations[e.id]
			}
			if e.test == "" {
				e.test = sources.testOf(e)
			}
		}
		apis = append(apis, api{a.title, endpoints})
	}
	return apis, sources, nil
}

func readEndpoints(file string) ([]endpoint, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var doc struct {
		Paths map[string]map[string]struct {
			OperationID string `json:"operationId"`
			Deprecated  bool   `json:"deprecated"`
			Since       string `json:"x-addedInMatrixVersion"`
		} `json:"paths"`
	}
	if err := json.Unmarshal(text, &doc); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	var all []endpoint
	for path, methods := range doc.Paths {
		for method, o := range methods {
			// Of two endpoints with one path, the second has a space behind it.
			all = append(all, endpoint{id: o.OperationID, method: strings.ToUpper(method), path: strings.TrimSpace(path),
				since: o.Since, deprecated: o.Deprecated})
		}
	}
	slices.SortFunc(all, func(a, b endpoint) int {
		return cmp.Or(cmp.Compare(a.path, b.path), cmp.Compare(a.method, b.method), cmp.Compare(a.id, b.id))
	})
	return all, nil
}

// find is the route that serves an endpoint, nil for none. Parameters have names of their own here and there; and where
// a parameter is one of a few words, the routes may be those of the words.
func find(table httpapi.Table, e *endpoint) *httpapi.Route {
	var word *httpapi.Route
	for i := range table {
		r := &table[i]
		if r.Method != e.method {
			continue
		}
		for _, path := range append([]string{r.Path}, r.Also...) {
			switch same, close := samePath(path, e.path); {
			case same:
				return r
			case close && word == nil:
				word = r
			}
		}
	}
	return word
}

// samePath compares the path of a route with that of an endpoint, but for the parameters' names and the slash that may
// end them. close says that the route has a word in place of a parameter.
func samePath(route, path string) (same, close bool) {
	as, bs := strings.Split(strings.TrimSuffix(route, "/"), "/"), strings.Split(strings.TrimSuffix(path, "/"), "/")
	same, close = true, true
	if len(as) != len(bs) {
		return false, false
	}
	for i, a := range as {
		parameter, wanted := strings.HasPrefix(a, "{"), strings.HasPrefix(bs[i], "{")
		same = same && (a == bs[i] || parameter && wanted)
		close = close && (a == bs[i] || wanted)
	}
	return same, close
}

func (e *endpoint) state() string {
	switch {
	case e.not != "":
		return "not offered: `" + e.not + "`"
	case e.route == nil:
		return "**missing**"
	default:
		return "supported"
	}
}

const head = `<!-- Generated by go run ./internal/gen/speccoverage; make docs writes it anew. -->

# What Parley serves of the Matrix specification

Every endpoint of version 1.19. Not offered is what a server may leave out; the errcode is what it then answers. The test
is one of those that ask for the endpoint: the stories of ` + "`test/contract`" + ` hold its answers, good ones and errors,
against the specification's OpenAPI definitions.
`

func writeEndpoints(out *bytes.Buffer, title string, endpoints []endpoint) {
	supported, not := 0, 0
	for i := range endpoints {
		switch e := &endpoints[i]; {
		case e.not != "":
			not++
		case e.route != nil:
			supported++
		}
	}
	fmt.Fprintf(out, "\n## %s\n\n%d endpoints: %d supported, %d not offered.\n\n", title, len(endpoints), supported, not)
	out.WriteString("| endpoint | since | state | who may call | test |\n|---|---|---|---|---|\n")
	for i := range endpoints {
		e := &endpoints[i]
		who, since := "", e.since
		if e.route != nil {
			who = e.route.Auth.String()
		}
		if e.deprecated {
			since = strings.TrimSpace(since + " deprecated")
		}
		fmt.Fprintf(out, "| `%s %s` | %s | %s | %s | %s |\n", e.method, e.path, since, e.state(), who, e.test)
	}
}
