package config

import (
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"
)

// Problem is one thing that is wrong with a configuration.
type Problem struct {
	File         string // empty when the configuration did not come from a file
	Line, Column int    // from 1; 0 when the file says nothing about the setting
	Setting      string // such as listeners.client.address; empty for the file as a whole
	Reason       string
}

// String is the problem on one line: parley.yaml:12:5: database.durability: must be ….
func (p Problem) String() string {
	var b strings.Builder
	if p.File != "" {
		b.WriteString(p.File)
		if p.Line > 0 {
			fmt.Fprintf(&b, ":%d:%d", p.Line, p.Column)
		}
		b.WriteString(": ")
	}
	if p.Setting != "" {
		b.WriteString(p.Setting)
		b.WriteString(": ")
	}
	b.WriteString(p.Reason)
	return b.String()
}

// Problems is all that is wrong with a configuration. It is the error of Load and of Check.
type Problems []Problem

// Error is the problems, one a line.
func (ps Problems) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

// Load reads and checks a configuration file, and the files that it names for secrets and
// certificates. Its error is a Problems with all that is wrong, unless the file can't be read.
func Load(file string) (*Config, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("cannot read the configuration: %w", err)
	}
	c := Default()
	d := decode(data, c)
	if d.broken {
		return nil, d.located(file)
	}
	c.eachPath(func(_ string, p *Path) {
		if *p != "" && !filepath.IsAbs(string(*p)) {
			*p = Path(filepath.Join(filepath.Dir(file), string(*p)))
		}
	})
	d.problems = append(d.problems, c.readSecrets()...)
	// What could not be read keeps its default, so that checking goes on from there, and a
	// setting is not blamed twice.
	var found Problems
	if errors.As(c.Check(), &found) {
		d.problems = append(d.problems, slices.DeleteFunc(found, d.blamed)...)
	}
	d.problems = append(d.problems, c.checkCertificates()...)
	if len(d.problems) > 0 {
		return nil, d.located(file)
	}
	return c, nil
}

// located is the problems with their places in the file, in the file's order.
func (d *decoder) located(file string) Problems {
	for i := range d.problems {
		p := &d.problems[i]
		p.File = file
		if p.Line == 0 {
			p.Line, p.Column = d.position(p.Setting)
		}
	}
	slices.SortStableFunc(d.problems, func(a, b Problem) int { return cmp.Compare(a.Line, b.Line) })
	return d.problems
}

// readSecrets fills each secret from the file that its _file setting names.
func (c *Config) readSecrets() Problems {
	var problems Problems
	each(reflect.ValueOf(c).Elem(), "", func(path string, v reflect.Value) {
		if v.Kind() != reflect.Struct {
			return
		}
		for i := range v.NumField() {
			if v.Type().Field(i).Type != reflect.TypeFor[Secret]() {
				continue
			}
			secret := v.Field(i).Addr().Interface().(*Secret)
			file := v.FieldByName(v.Type().Field(i).Name + "File").Interface().(Path)
			if file == "" {
				continue
			}
			name := join(path, key(v.Type().Field(i)))
			if *secret != "" {
				problems = append(problems, Problem{Setting: name + "_file",
					Reason: fmt.Sprintf("set either this or %s, not both", name)})
				continue
			}
			data, err := os.ReadFile(string(file))
			text := strings.TrimSpace(string(data))
			switch {
			case err != nil:
				problems = append(problems, Problem{Setting: name + "_file", Reason: err.Error()})
			case text == "":
				problems = append(problems, Problem{Setting: name + "_file", Reason: fmt.Sprintf("%s is empty", file)})
			}
			*secret = Secret(text)
		}
	})
	return problems
}

func (c *Config) checkCertificates() Problems {
	var problems Problems
	check := func(setting string, l Listener) {
		if l.TLSCertificate == "" || l.TLSKey == "" {
			return
		}
		if _, err := tls.LoadX509KeyPair(string(l.TLSCertificate), string(l.TLSKey)); err != nil {
			problems = append(problems, Problem{Setting: setting + ".tls_certificate",
				Reason: fmt.Sprintf("the certificate and its key cannot be used: %v", err)})
		}
	}
	check("listeners.client", c.Listeners.Client)
	check("listeners.federation", c.Listeners.Federation)
	return problems
}

func (c *Config) eachPath(f func(setting string, p *Path)) {
	each(reflect.ValueOf(c).Elem(), "", func(path string, v reflect.Value) {
		if p, ok := v.Addr().Interface().(*Path); ok {
			f(path, p)
		}
	})
}

// each calls f for v and for all that it consists of, except what is in maps.
func each(v reflect.Value, path string, f func(path string, v reflect.Value)) {
	f(path, v)
	if v.Type() == reflect.TypeFor[time.Time]() {
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			if name := key(v.Type().Field(i)); name != "" {
				each(v.Field(i), join(path, name), f)
			}
		}
	case reflect.Slice:
		for i := range v.Len() {
			each(v.Index(i), fmt.Sprintf("%s[%d]", path, i), f)
		}
	}
}

// key is the name of a struct field in the file; empty when it has none, as in types of
// other packages.
func key(f reflect.StructField) string { return f.Tag.Get("yaml") }

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}
