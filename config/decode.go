package config

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// decoder copies a YAML document into a Config and goes on after each problem, so that all
// are found in one run. What is wrong keeps its default.
type decoder struct {
	problems Problems
	at       map[string]*token.Position // where each setting's key or list entry stands
	broken   bool                       // not YAML at all: nothing was read
}

// decode reads data into c.
func decode(data []byte, c *Config) *decoder {
	d := &decoder{at: make(map[string]*token.Position)}
	if !utf8.Valid(data) || bytes.IndexByte(data, 0) >= 0 {
		d.broken = true
		d.problems = Problems{{Reason: "is not a text file in UTF-8"}}
		return d
	}
	file, err := parser.ParseBytes(data, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		d.broken = true
		p := Problem{Reason: err.Error()}
		var at yaml.Error
		if errors.As(err, &at) {
			p.Reason = "not valid YAML: " + at.GetMessage()
			p.Line, p.Column = at.GetToken().Position.Line, at.GetToken().Position.Column
		}
		d.problems = Problems{p}
		return d
	}
	var docs []ast.Node
	for _, doc := range file.Docs {
		if doc.Body != nil {
			docs = append(docs, doc.Body)
		}
	}
	if len(docs) > 1 {
		d.problem(docs[1], "", "begins a second document; a configuration is one")
	}
	if len(docs) > 0 {
		d.structure(docs[0], "", reflect.ValueOf(c).Elem())
	}
	return d
}

// position is where the setting stands in the file, or else the innermost section around it.
func (d *decoder) position(setting string) (line, column int) {
	for setting != "" {
		if p := d.at[setting]; p != nil {
			return p.Line, p.Column
		}
		setting = setting[:max(strings.LastIndexAny(setting, ".["), 0)]
	}
	return 0, 0
}

// blamed says whether p is about a setting that could not be read, and so still has a default
// that the operator did not mean.
func (d *decoder) blamed(p Problem) bool {
	return slices.ContainsFunc(d.problems, func(q Problem) bool {
		return q.Setting != "" && (p.Setting == q.Setting ||
			strings.HasPrefix(p.Setting, q.Setting+".") || strings.HasPrefix(p.Setting, q.Setting+"["))
	})
}

func (d *decoder) problem(n ast.Node, setting, format string, args ...any) {
	at := start(n)
	d.problems = append(d.problems, Problem{
		Line: at.Line, Column: at.Column, Setting: setting, Reason: fmt.Sprintf(format, args...)})
}

// start is where n begins; the token of a block mapping is its first colon.
func start(n ast.Node) *token.Position {
	switch m := n.(type) {
	case *ast.MappingNode:
		if !m.IsFlowStyle && len(m.Values) > 0 {
			return start(m.Values[0].Key)
		}
	case *ast.MappingValueNode:
		return start(m.Key)
	}
	return n.GetToken().Position
}

// mapping is the entries of a mapping; ok is false, with the problem noted, if n is none.
func (d *decoder) mapping(n ast.Node, setting string) (entries []*ast.MappingValueNode, ok bool) {
	switch n := n.(type) {
	case *ast.NullNode: // a section whose settings are all commented out
		return nil, true
	case *ast.MappingNode:
		entries = n.Values
	case *ast.MappingValueNode:
		entries = []*ast.MappingValueNode{n}
	default:
		d.problem(n, setting, "must be a section with settings of its own (key: value), not %s", kind(n))
		return nil, false
	}
	seen := make(map[string]int)
	for _, e := range entries {
		name := e.Key.GetToken().Value
		if line, twice := seen[name]; twice {
			d.problem(e.Key, join(setting, name), "is set twice; the first time in line %d", line)
		}
		seen[name] = e.Key.GetToken().Position.Line
		d.at[join(setting, name)] = e.Key.GetToken().Position
	}
	return entries, true
}

func (d *decoder) structure(n ast.Node, setting string, v reflect.Value) {
	entries, _ := d.mapping(n, setting)
	for _, e := range entries {
		name := e.Key.GetToken().Value
		var known []string
		found := false
		for i := range v.NumField() {
			field := key(v.Type().Field(i))
			known = append(known, field)
			if field == name {
				found = true
				d.value(e.Value, join(setting, name), v.Field(i))
			}
		}
		if !found {
			where := "the settings here are"
			if setting == "" {
				where = "the settings and sections are"
			}
			d.problem(e.Key, join(setting, name), "there is no such setting; %s %s", where, strings.Join(known, ", "))
		}
	}
}

func (d *decoder) value(n ast.Node, setting string, v reflect.Value) {
	switch v.Addr().Interface().(type) {
	case *netip.Prefix:
		read(d, n, setting, v, parsePrefix)
		return
	case *time.Time:
		read(d, n, setting, v, func(s string) (time.Time, error) {
			if s == "" { // unset
				return time.Time{}, nil
			}
			t, err := time.Parse(time.RFC3339, s)
			if err != nil {
				err = errors.New("must be a time such as 2026-01-31T00:00:00Z")
			}
			return t, err
		})
		return
	case *time.Duration:
		read(d, n, setting, v, parseDuration)
		return
	case *Size:
		read(d, n, setting, v, ParseSize)
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		d.structure(n, setting, v)
	case reflect.Map:
		d.table(n, setting, v)
	case reflect.Slice:
		d.list(n, setting, v)
	case reflect.String:
		d.text(n, setting, v)
	case reflect.Bool:
		if b, ok := n.(*ast.BoolNode); ok {
			v.SetBool(b.Value)
		} else {
			d.problem(n, setting, "must be true or false, not %s", kind(n))
		}
	case reflect.Int:
		if i, err := strconv.Atoi(n.GetToken().Value); err == nil && n.Type() == ast.IntegerType {
			v.SetInt(int64(i))
		} else {
			d.problem(n, setting, "must be a whole number, not %s", kind(n))
		}
	case reflect.Float64:
		f, err := strconv.ParseFloat(n.GetToken().Value, 64)
		if number := n.Type() == ast.IntegerType || n.Type() == ast.FloatType; number && err == nil && !math.IsInf(f, 0) {
			v.SetFloat(f)
		} else {
			d.problem(n, setting, "must be a number, not %s", kind(n))
		}
	default:
		d.problem(n, setting, "cannot be set: Parley has no reader for %s", v.Type())
	}
}

func (d *decoder) list(n ast.Node, setting string, v reflect.Value) {
	seq, ok := n.(*ast.SequenceNode)
	if !ok {
		d.problem(n, setting, "must be a list, such as [a, b], or [] for none, not %s", kind(n))
		return
	}
	out := reflect.MakeSlice(v.Type(), len(seq.Values), len(seq.Values))
	for i, entry := range seq.Values {
		name := fmt.Sprintf("%s[%d]", setting, i)
		d.at[name] = start(entry)
		d.value(entry, name, out.Index(i))
	}
	v.Set(out)
}

func (d *decoder) table(n ast.Node, setting string, v reflect.Value) {
	entries, ok := d.mapping(n, setting)
	if !ok {
		return
	}
	out := reflect.MakeMap(v.Type())
	for _, e := range entries {
		name := e.Key.GetToken().Value
		value := reflect.New(v.Type().Elem()).Elem()
		d.value(e.Value, join(setting, name), value)
		out.SetMapIndex(reflect.ValueOf(name), value)
	}
	v.Set(out)
}

func (d *decoder) text(n ast.Node, setting string, v reflect.Value) {
	choice, limited := v.Interface().(choice)
	var s string
	switch n := n.(type) {
	case *ast.StringNode:
		s = n.Value
	case *ast.LiteralNode:
		s = n.Value.Value
	case *ast.IntegerNode, *ast.FloatNode:
		if !limited {
			d.problem(n, setting, `must be text, not a number; in quotes it is text: "%s"`, n.GetToken().Value)
			return
		}
		s = n.GetToken().Value
	default:
		d.problem(n, setting, "must be text, not %s", kind(n))
		return
	}
	if limited && !slices.Contains(choice.Choices(), s) {
		d.problem(n, setting, "must be %s, not %q", or(choice.Choices()), s)
		return
	}
	v.SetString(s)
}

// read sets v to what parse makes of a scalar.
func read[T any](d *decoder, n ast.Node, setting string, v reflect.Value, parse func(string) (T, error)) {
	if _, ok := n.(ast.ScalarNode); !ok || n.Type() == ast.NullType {
		d.problem(n, setting, "must be one value, not %s", kind(n))
		return
	}
	value, err := parse(n.GetToken().Value)
	if err != nil {
		d.problem(n, setting, "%v", err)
		return
	}
	v.Set(reflect.ValueOf(value))
}

func parseDuration(s string) (time.Duration, error) {
	t, err := time.ParseDuration(s)
	if err != nil {
		return 0, errors.New(`must be a time with a unit, such as "30s", "5m" or "24h"`)
	}
	return t, nil
}

// kind is what the operator wrote, in words.
func kind(n ast.Node) string {
	switch n.(type) {
	case *ast.NullNode:
		return "nothing"
	case *ast.BoolNode:
		return "true or false"
	case *ast.IntegerNode, *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		return "the number " + n.GetToken().Value
	case *ast.StringNode, *ast.LiteralNode:
		return "text"
	case *ast.SequenceNode:
		return "a list"
	case *ast.MappingNode, *ast.MappingValueNode:
		return "a section"
	default:
		return "an anchor, alias or tag, which have no use here"
	}
}

// or joins words as in `"a", "b" or "c"`.
func or(list []string) string {
	quoted := make([]string, len(list))
	for i, s := range list {
		quoted[i] = strconv.Quote(s)
	}
	last := len(quoted) - 1
	return strings.Join(quoted[:last], ", ") + " or " + quoted[last]
}
