// Command openapi writes the definitions of one of Matrix's APIs as a single OpenAPI document, without its prose and
// examples, so that a test can hold answers against them. It is run by hand when the project moves to a newer version:
//
//	go run ./internal/gen/openapi DATA/api/client-server >test/contract/testdata/client-server.json
//	go run ./internal/gen/openapi DATA/api/server-server >test/contract/testdata/server-server.json
//
// DATA is the folder of the specification's definitions, in YAML. They are licensed under Apache-2.0, and so is what
// is made of them here; see test/contract/testdata/NOTE.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: openapi DATA/api/NAME")
		os.Exit(2)
	}
	dir := filepath.Clean(os.Args[1])
	data := filepath.Dir(filepath.Dir(dir))
	if err := generate(os.Stdout, os.DirFS(data), path.Join("api", filepath.Base(dir))); err != nil {
		fmt.Fprintln(os.Stderr, "openapi:", err)
		os.Exit(1)
	}
}

// generate writes the definitions of the files in a folder, and of all files that those refer to.
func generate(w io.Writer, data fs.FS, dir string) error {
	b := &bundle{data: data, files: make(map[string]any), components: make(map[string]map[string]any)}
	names, err := fs.Glob(data, path.Join(dir, "*.yaml"))
	if err != nil {
		return err
	}
	slices.Sort(names)
	paths := make(map[string]any)
	for _, name := range names {
		if err := b.addPaths(paths, name); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	out := json.NewEncoder(w)
	out.SetEscapeHTML(false)
	out.SetIndent("", " ")
	return out.Encode(map[string]any{
		"openapi": "3.1.0",
		"info": map[string]any{
			"title": "Matrix " + path.Base(dir), "version": "1.19",
			"license": map[string]any{"name": "Apache-2.0", "identifier": "Apache-2.0"},
		},
		"paths":      paths,
		"components": b.components,
	})
}

// bundle gathers what files refer to.
type bundle struct {
	data       fs.FS
	files      map[string]any
	components map[string]map[string]any
}

func (b *bundle) load(name string) (any, error) {
	if doc, ok := b.files[name]; ok {
		return doc, nil
	}
	text, err := fs.ReadFile(b.data, name)
	if err != nil {
		return nil, err
	}
	var doc any
	if err := yaml.NewDecoder(bytes.NewReader(text)).Decode(&doc); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	b.files[name] = doc
	return doc, nil
}

// addPaths adds a file's endpoints under their whole paths.
func (b *bundle) addPaths(paths map[string]any, name string) error {
	doc, err := b.load(name)
	if err != nil {
		return err
	}
	file, _ := doc.(map[string]any)
	own, _ := file["paths"].(map[string]any)
	base, err := basePath(file)
	if err != nil {
		return err
	}
	for p, item := range own {
		made, err := b.rewrite(item, name, false)
		if err != nil {
			return err
		}
		full := base + p
		at, _ := paths[full].(map[string]any)
		if at == nil {
			at = make(map[string]any)
			paths[full] = at
		}
		for method, operation := range made.(map[string]any) {
			if was, ok := at[method]; ok {
				// Two files may say the same of an endpoint; the first has it, with the answers of both.
				merge(was.(map[string]any), operation.(map[string]any))
				continue
			}
			at[method] = operation
		}
	}
	return nil
}

// merge adds the answers of one operation to another's.
func merge(to, from map[string]any) {
	answers, _ := to["responses"].(map[string]any)
	more, _ := from["responses"].(map[string]any)
	for status, answer := range more {
		if _, ok := answers[status]; !ok {
			answers[status] = answer
		}
	}
}

// basePath is what stands before each path of a file.
func basePath(file map[string]any) (string, error) {
	servers, _ := file["servers"].([]any)
	if len(servers) != 1 {
		return "", fmt.Errorf("%d servers; want one", len(servers))
	}
	server, _ := servers[0].(map[string]any)
	variables, _ := server["variables"].(map[string]any)
	base, _ := variables["basePath"].(map[string]any)
	text, _ := base["default"].(string)
	return strings.TrimSuffix(text, "/"), nil
}

// prose is what people read, and what no validator looks at.
var prose = []string{"description", "summary", "title", "example", "examples", "tags", "externalDocs"}

// addedIn says since which version there is an endpoint.
const addedIn = "x-addedInMatrixVersion"

// named are the fields whose keys are names, which may be any word.
var named = []string{"properties", "patternProperties", "headers", "responses", "content", "$defs"}

// rewrite is a copy of a part of a file, with references into the bundle and without prose. names says that the keys of
// an object are names.
func (b *bundle) rewrite(node any, file string, names bool) (any, error) {
	switch node := node.(type) {
	case map[string]any:
		out := make(map[string]any, len(node))
		_, isOperation := node["operationId"]
		for key, value := range node {
			switch {
			case !names && (slices.Contains(prose, key) || strings.HasPrefix(key, "x-") && !(isOperation && key == addedIn)):
				continue
			case !names && key == "$ref":
				ref, err := b.refer(fmt.Sprint(value), file)
				if err != nil {
					return nil, err
				}
				out[key] = ref
				continue
			}
			made, err := b.rewrite(value, file, !names && slices.Contains(named, key))
			if err != nil {
				return nil, err
			}
			out[key] = made
		}
		return out, nil
	case []any:
		out := make([]any, len(node))
		for i, value := range node {
			made, err := b.rewrite(value, file, false)
			if err != nil {
				return nil, err
			}
			out[i] = made
		}
		return out, nil
	default:
		return node, nil
	}
}

// refer puts what a reference names into the bundle, and is the reference to it there.
func (b *bundle) refer(ref, file string) (string, error) {
	target, fragment, _ := strings.Cut(ref, "#")
	name := file
	if target != "" {
		name = path.Join(path.Dir(file), target)
	}
	node, err := b.load(name)
	if err != nil {
		return "", err
	}
	kind, part := "schemas", strings.TrimPrefix(fragment, "/")
	if rest, ok := strings.CutPrefix(part, "components/"); ok {
		kind, _, _ = strings.Cut(rest, "/")
	}
	for key := range strings.SplitSeq(part, "/") {
		if key == "" {
			continue
		}
		object, _ := node.(map[string]any)
		if node = object[key]; node == nil {
			return "", fmt.Errorf("there is no %s", ref)
		}
	}
	id := componentName(name, part)
	if b.components[kind] == nil {
		b.components[kind] = make(map[string]any)
	}
	if _, ok := b.components[kind][id]; !ok {
		b.components[kind][id] = nil // it may refer to itself
		made, err := b.rewrite(node, name, false)
		if err != nil {
			return "", err
		}
		b.components[kind][id] = made
	}
	return "#/components/" + kind + "/" + id, nil
}

// componentName is what a part of a file is called in the bundle: what OpenAPI lets names be.
func componentName(file, part string) string {
	name := strings.TrimSuffix(file, ".yaml")
	if part != "" {
		name += "." + part
	}
	return strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._-", r) {
			return r
		}
		return '-'
	}, name)
}
