package archtest

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "parley"

var root = filepath.Join("..", "..")

// pkg is the source of one package, whatever the build tags of its files.
type pkg struct {
	path  string // below the module: "internal/id"
	files []sourceFile
}

type sourceFile struct {
	name string // from the root of the module
	test bool
	*ast.File
	*token.FileSet
}

// packages are all packages of the module.
func packages(t *testing.T) []pkg {
	t.Helper()
	found := make(map[string]*pkg)
	walk(t, ".go", func(name string) {
		fset := token.NewFileSet()
		f, err := parser.ParseFile(fset, filepath.Join(root, name), nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		dir := filepath.ToSlash(filepath.Dir(name))
		if found[dir] == nil {
			found[dir] = &pkg{path: dir}
		}
		found[dir].files = append(found[dir].files, sourceFile{name, strings.HasSuffix(name, "_test.go"), f, fset})
	})
	var list []pkg
	for _, dir := range slices.Sorted(maps.Keys(found)) {
		list = append(list, *found[dir])
	}
	if len(list) < 5 {
		t.Fatalf("found only %d packages", len(list))
	}
	return list
}

// walk calls f for each of the module's files that end so.
func walk(t *testing.T, ending string, f func(name string)) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() && path != root && (strings.HasPrefix(name, ".") || name == "testdata" || name == "node_modules" || name == "data") {
			return filepath.SkipDir
		}
		if d.Type().IsRegular() && strings.HasSuffix(name, ending) {
			rel, err := filepath.Rel(root, path)
			if err != nil {
				return err
			}
			f(rel)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// imports are the import paths of a file.
func (f sourceFile) imports() []string {
	var list []string
	for _, i := range f.Imports {
		if path, err := strconv.Unquote(i.Path.Value); err == nil {
			list = append(list, path)
		}
	}
	return list
}
