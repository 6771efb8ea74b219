package main

import (
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"net/http"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// sources is what the module's Go files say of endpoints.
type sources struct {
	// requests are what tests ask for.
	requests []request
	// operations are the tests of test/contract by the operations that they call.
	operations map[string]string
	// cited are tests by the headings that they cite.
	cited map[string][]string
	// proposals are the names of what was proposed for the specification, by the proposal's number.
	proposals map[string][]string
	contract  *ast.File // test/contract/contract_test.go
}

// request is a method, and a path with "*" for what is not known before the test runs.
type request struct{ method, path, test string }

func readSources(root string) (*sources, error) {
	s := &sources{operations: make(map[string]string), cited: make(map[string][]string), proposals: make(map[string][]string)}
	packages := make(map[string][]*ast.File)
	files := token.NewFileSet()
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir():
			if base := d.Name(); base == "node_modules" || base == "testdata" || base == "gen" || name != root && strings.HasPrefix(base, ".") {
				return fs.SkipDir
			}
			return nil
		case !strings.HasSuffix(name, ".go"):
			return nil
		}
		f, err := parser.ParseFile(files, name, nil, parser.ParseComments)
		if err != nil {
			return err
		}
		dir := filepath.ToSlash(filepath.Dir(name))
		packages[dir] = append(packages[dir], f)
		return nil
	})
	if err != nil {
		return nil, err
	}
	for dir, all := range packages {
		constants := constantsOf(all)
		for _, f := range all {
			name := filepath.Base(files.Position(f.Pos()).Filename)
			if strings.HasSuffix(dir, "test/contract") && name == "contract_test.go" {
				s.contract = f
			}
			switch isTest := strings.HasSuffix(name, "_test.go"); {
			case isTest && (strings.HasSuffix(dir, "federation/remote") || strings.HasSuffix(dir, "internal/httpapi")):
				// These have servers of their own.
			case isTest:
				s.readTests(f, filepath.Base(dir), constants, strings.HasSuffix(dir, "test/contract"))
			default:
				s.readProposals(f)
			}
		}
	}
	if s.contract == nil {
		return nil, errors.New("there is no test/contract/contract_test.go")
	}
	return s, nil
}

// constantsOf are the constant strings of a package by their names, those of its functions among them.
func constantsOf(files []*ast.File) map[string]ast.Expr {
	all := make(map[string]ast.Expr)
	for _, f := range files {
		ast.Inspect(f, func(n ast.Node) bool {
			if d, ok := n.(*ast.GenDecl); ok && d.Tok == token.CONST {
				for _, spec := range d.Specs {
					v := spec.(*ast.ValueSpec)
					for i, value := range v.Values {
						all[v.Names[i].Name] = value
					}
				}
			}
			return true
		})
	}
	return all
}

var citation = regexp.MustCompile(`spec: \S+#(\S+)`)

// readTests notes what the functions of a file of tests ask for.
func (s *sources) readTests(f *ast.File, pkg string, constants map[string]ast.Expr, contract bool) {
	for _, decl := range f.Decls {
		fn, ok := decl.(*ast.FuncDecl)
		if !ok || fn.Body == nil {
			continue
		}
		test := "`" + pkg + "." + fn.Name.Name + "`"
		for _, comment := range f.Comments {
			if comment.End() >= fn.End() || fn.Doc != comment && comment.Pos() < fn.Pos() {
				continue
			}
			for _, m := range citation.FindAllStringSubmatch(comment.Text(), -1) {
				s.cited[m[1]] = append(s.cited[m[1]], test)
			}
		}
		ast.Inspect(fn.Body, func(n ast.Node) bool {
			var parts []ast.Expr
			switch n := n.(type) {
			case *ast.CallExpr:
				parts = n.Args
			case *ast.CompositeLit:
				parts = n.Elts
			default:
				return true
			}
			var method string
			var paths []string
			for _, part := range parts {
				if kv, ok := part.(*ast.KeyValueExpr); ok {
					part = kv.Value
				}
				text := textOf(part, constants, 0)
				switch {
				case slices.Contains([]string{http.MethodGet, http.MethodPut, http.MethodPost, http.MethodDelete}, text):
					method = text
				case strings.HasPrefix(text, "/_matrix/") || strings.HasPrefix(text, "/.well-known/"):
					paths = append(paths, text)
				case contract && !strings.ContainsAny(text, "* /"):
					if had := s.operations[text]; had == "" || test < had {
						s.operations[text] = test
					}
				}
			}
			for _, path := range paths {
				if method != "" {
					s.requests = append(s.requests, request{method, path, test})
				}
			}
			return true
		})
	}
}

var verb = regexp.MustCompile(`%(\[\d+\])?[a-z]`)

// textOf is what an expression says, with "*" for what it does not.
func textOf(e ast.Expr, constants map[string]ast.Expr, depth int) string {
	if depth > 8 {
		return "*"
	}
	switch e := e.(type) {
	case *ast.BasicLit:
		if text, err := strconv.Unquote(e.Value); err == nil && e.Kind == token.STRING {
			path, _, _ := strings.Cut(verb.ReplaceAllString(text, "*"), "?")
			return path
		}
	case *ast.ParenExpr:
		return textOf(e.X, constants, depth+1)
	case *ast.BinaryExpr:
		if e.Op == token.ADD {
			return textOf(e.X, constants, depth+1) + textOf(e.Y, constants, depth+1)
		}
	case *ast.Ident:
		if value, ok := constants[e.Name]; ok {
			return textOf(value, constants, depth+1)
		}
	case *ast.SelectorExpr:
		if x, ok := e.X.(*ast.Ident); ok && x.Name == "http" {
			if name, ok := strings.CutPrefix(e.Sel.Name, "Method"); ok {
				return strings.ToUpper(name)
			}
		}
	case *ast.CallExpr:
		return textOfCall(e, constants, depth)
	}
	return "*"
}

// textOfCall knows the functions that make paths: fmt.Sprintf, and harness.Path, which joins segments.
func textOfCall(e *ast.CallExpr, constants map[string]ast.Expr, depth int) string {
	selector, ok := e.Fun.(*ast.SelectorExpr)
	if !ok || len(e.Args) == 0 {
		return "*"
	}
	switch x, _ := selector.X.(*ast.Ident); {
	case x == nil:
	case x.Name == "harness" && selector.Sel.Name == "Path":
		text := "/_matrix/client"
		for _, arg := range e.Args {
			text += "/" + textOf(arg, constants, depth+1)
		}
		return text
	case x.Name == "fmt" && selector.Sel.Name == "Sprintf":
		return textOf(e.Args[0], constants, depth+1)
	}
	return "*"
}

// testOf is a test that covers an endpoint, "" for none.
func (s *sources) testOf(e *endpoint) string {
	tests := slices.Clone(s.cited[anchor(e.method+e.path)])
	for _, r := range s.requests {
		if r.method == e.method && asks(r.path, e.path) {
			tests = append(tests, r.test)
		}
	}
	if len(tests) == 0 {
		return ""
	}
	return slices.Min(tests)
}

// asks says whether a request's path is one of an endpoint's.
func asks(path, template string) bool {
	got, want := strings.Split(strings.TrimSuffix(path, "/"), "/"), strings.Split(strings.TrimSuffix(template, "/"), "/")
	// What is not known may end in further segments.
	if open := strings.HasSuffix(path, "*"); len(got) > len(want) || len(got) < len(want) && !open {
		return false
	}
	for i, segment := range want {
		switch {
		case i >= len(got):
			if !strings.HasPrefix(segment, "{") {
				return false
			}
		case strings.HasPrefix(segment, "{"):
		case got[i] == "*":
			return false // it may be anything
		default:
			if ok, err := filepath.Match(got[i], segment); err != nil || !ok {
				return false
			}
		}
	}
	return true
}

// anchor is an endpoint's heading in the specification.
func anchor(text string) string {
	return strings.Map(func(r rune) rune {
		if r == '-' || r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r) {
			return unicode.ToLower(r)
		}
		return -1
	}, text)
}

// notOffered are the operations that test/contract sees refused, with the errcodes.
func notOffered(s *sources) (map[string]string, error) {
	// It is an endpoint of policy servers, which this is not.
	all := map[string]string{"askPolicyServerToSign": "M_UNRECOGNIZED"}
	for _, decl := range s.contract.Decls {
		d, ok := decl.(*ast.GenDecl)
		if !ok || d.Tok != token.VAR {
			continue
		}
		spec := d.Specs[0].(*ast.ValueSpec)
		if spec.Names[0].Name != "notOffered" {
			continue
		}
		for _, element := range spec.Values[0].(*ast.CompositeLit).Elts {
			kv := element.(*ast.KeyValueExpr)
			all[textOf(kv.Key, nil, 0)] = textOf(kv.Value, nil, 0)
		}
		return all, nil
	}
	return nil, errors.New("test/contract has no notOffered")
}
