package httpapi

import (
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"parley/internal/id"
	"parley/internal/matrixerr"
)

// args is what there is to decode: the parameters of the path by their place, unescaped or
// not, the query as it came, and the body.
type args struct {
	path    []string
	escaped bool
	query   string
	body    []byte
}

// plan is how a type of request is decoded.
type plan struct {
	params  []param
	queries []param
	body    bodyKind
	// field is where the whole body goes, for bodyRaw and bodyField.
	field    []int
	needBody bool
}

type bodyKind uint8

const (
	bodyNone   bodyKind = iota
	bodyFields          // the request is what the body is decoded into
	bodyField           // one of its fields is
	bodyRaw             // one of its fields is the body
)

// param is a field that has a parameter of the path or the query.
type param struct {
	name  string
	place int // of the path
	field []int
	// set puts a value there; for a slice, one more.
	set      setter
	required bool
	slice    bool
}

type setter func(v reflect.Value, s string) error

func makePlan(t reflect.Type, route *Route) (*plan, error) {
	p := &plan{needBody: route.NeedBody}
	if t.Kind() != reflect.Struct {
		p.body = bodyFields
	} else if err := p.addFields(t, nil, route); err != nil {
		return nil, fmt.Errorf("%s: %w", t, err)
	}
	if len(p.queries) > 64 {
		return nil, fmt.Errorf("%s: more than 64 parameters of the query", t)
	}
	if p.body != bodyNone && route.Method == http.MethodGet {
		return nil, fmt.Errorf("%s: takes a body, but %s has none", t, route.Method)
	}
	return p, nil
}

func (p *plan) addFields(t reflect.Type, at []int, route *Route) error {
	main, err := parsePath(route.Path)
	if err != nil {
		return err
	}
	for i := range t.NumField() {
		f := t.Field(i)
		index := append(slices.Clone(at), i)
		path, isPath := f.Tag.Lookup("path")
		query, isQuery := f.Tag.Lookup("query")
		body, isBody := f.Tag.Lookup("body")
		jsonTag, isJSON := f.Tag.Lookup("json")
		tags := 0
		for _, is := range []bool{isPath, isQuery, isBody, isJSON && jsonTag != "-"} {
			if is {
				tags++
			}
		}
		var err error
		switch {
		case tags == 0 && (jsonTag == "-" || !f.IsExported() && !f.Anonymous):
		case tags == 0 && f.Anonymous && f.Type.Kind() == reflect.Struct:
			err = p.addFields(f.Type, index, route)
		case tags != 1 || !f.IsExported():
			err = errors.New("must be exported and have one of the tags path, query, body, json")
		case isPath:
			place := slices.Index(main.names, path)
			if place < 0 {
				return fmt.Errorf("field %s: there is no {%s} in the path", f.Name, path)
			}
			var set setter
			set, err = setterFor(f.Type)
			p.params = append(p.params, param{name: path, place: place, field: index, set: set})
		case isQuery:
			err = p.addQuery(f.Type, query, index)
		case isBody:
			err = p.addBody(f.Type, body, index)
		default:
			err = p.setBody(bodyFields, nil)
		}
		if err != nil {
			return fmt.Errorf("field %s: %w", f.Name, err)
		}
	}
	return nil
}

func (p *plan) addQuery(t reflect.Type, tag string, index []int) error {
	name, option, hasOption := strings.Cut(tag, ",")
	if name == "" || hasOption && option != "required" {
		return fmt.Errorf("tag query:%q is not understood", tag)
	}
	q := param{name: name, field: index, required: hasOption}
	if t.Kind() == reflect.Slice {
		q.slice, t = true, t.Elem()
	}
	set, err := setterFor(t)
	q.set = set
	if q.slice && err == nil {
		q.set = func(v reflect.Value, s string) error {
			v.Grow(1)
			v.SetLen(v.Len() + 1)
			return set(v.Index(v.Len()-1), s)
		}
	}
	p.queries = append(p.queries, q)
	return err
}

func (p *plan) addBody(t reflect.Type, tag string, index []int) error {
	switch {
	case tag == "raw" && t == reflect.TypeFor[json.RawMessage]():
		return p.setBody(bodyRaw, index)
	case tag == "json":
		return p.setBody(bodyField, index)
	}
	return fmt.Errorf("tag body:%q is not understood for a %s", tag, t)
}

func (p *plan) setBody(kind bodyKind, field []int) error {
	if p.body != bodyNone && (kind != bodyFields || p.body != bodyFields) {
		return errors.New("another field has the body already")
	}
	p.body, p.field = kind, field
	return nil
}

// checks are the identifiers that are refused when they are not well-formed.
var checks = map[reflect.Type]func(string) error{
	reflect.TypeFor[id.UserID]():     func(s string) error { _, err := id.ParseUserID(s); return err },
	reflect.TypeFor[id.RoomID]():     func(s string) error { _, err := id.ParseRoomID(s); return err },
	reflect.TypeFor[id.RoomAlias]():  func(s string) error { _, err := id.ParseRoomAlias(s); return err },
	reflect.TypeFor[id.EventID]():    func(s string) error { _, err := id.ParseEventID(s); return err },
	reflect.TypeFor[id.ServerName](): func(s string) error { _, err := id.ParseServerName(s); return err },
}

func setterFor(t reflect.Type) (setter, error) {
	if check := checks[t]; check != nil {
		return func(v reflect.Value, s string) error {
			if err := check(s); err != nil {
				return err
			}
			v.SetString(s)
			return nil
		}, nil
	}
	if reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]()) {
		return func(v reflect.Value, s string) error {
			return v.Addr().Interface().(encoding.TextUnmarshaler).UnmarshalText([]byte(s))
		}, nil
	}
	switch t.Kind() {
	case reflect.String:
		return func(v reflect.Value, s string) error { v.SetString(s); return nil }, nil
	case reflect.Bool:
		return func(v reflect.Value, s string) error {
			if s != "true" && s != "false" {
				return errors.New("is neither true nor false")
			}
			v.SetBool(s == "true")
			return nil
		}, nil
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return func(v reflect.Value, s string) error {
			n, err := strconv.ParseInt(s, 10, t.Bits())
			if err != nil {
				return errors.New("is not an integer, or too large")
			}
			v.SetInt(n)
			return nil
		}, nil
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return func(v reflect.Value, s string) error {
			n, err := strconv.ParseUint(s, 10, t.Bits())
			if err != nil {
				return errors.New("is not a positive integer, or too large")
			}
			v.SetUint(n)
			return nil
		}, nil
	case reflect.Pointer:
		set, err := setterFor(t.Elem())
		if err != nil {
			return nil, err
		}
		return func(v reflect.Value, s string) error {
			n := reflect.New(t.Elem())
			if err := set(n.Elem(), s); err != nil {
				return err
			}
			v.Set(n)
			return nil
		}, nil
	}
	return nil, fmt.Errorf("a parameter cannot be a %s", t)
}

// decode fills the request v.
func (p *plan) decode(v reflect.Value, a args) error {
	if err := p.decodeBody(v, a.body); err != nil {
		return err
	}
	if p.body == bodyFields && v.Kind() == reflect.Struct {
		// encoding/json sets these too, when the body has a field of that name.
		for i := range p.params {
			v.FieldByIndex(p.params[i].field).SetZero()
		}
		for i := range p.queries {
			v.FieldByIndex(p.queries[i].field).SetZero()
		}
	}
	for i := range p.params {
		if err := p.params[i].decodePath(v, a); err != nil {
			return err
		}
	}
	if len(p.queries) == 0 {
		return nil
	}
	return p.decodeQuery(v, a.query)
}

func (p *plan) decodeBody(v reflect.Value, body []byte) error {
	if p.body == bodyNone {
		return nil
	}
	if len(body) == 0 {
		if p.needBody {
			return notJSON()
		}
		body = emptyObject
	}
	switch p.body {
	case bodyRaw:
		v.FieldByIndex(p.field).SetBytes(body)
		return unmarshalObject(body, nil)
	case bodyField:
		v = v.FieldByIndex(p.field)
	}
	return unmarshalObject(body, v.Addr().Interface())
}

func (q *param) decodePath(v reflect.Value, a args) error {
	s := ""
	// A last parameter that is empty may not have been in the path at all.
	if q.place < len(a.path) {
		s = a.path[q.place]
	}
	if a.escaped && strings.IndexByte(s, '%') >= 0 {
		u, err := url.PathUnescape(s)
		if err != nil {
			return q.refuse(errors.New("is not escaped as it should be"))
		}
		s = u
	}
	return q.put(v, s)
}

func (p *plan) decodeQuery(v reflect.Value, query string) error {
	var seen uint64
	for query != "" {
		var key, value string
		key, value, query = nextQuery(query)
		for i := range p.queries {
			q := &p.queries[i]
			if q.name != key || !q.slice && seen&(1<<i) != 0 {
				continue
			}
			seen |= 1 << i
			s, err := unescapeQuery(value)
			if err != nil {
				return q.refuse(errors.New("is not escaped as it should be"))
			}
			if err := q.put(v, s); err != nil {
				return err
			}
		}
	}
	for i := range p.queries {
		if p.queries[i].required && seen&(1<<i) == 0 {
			return matrixerr.New(matrixerr.MissingParam, "the query has no %s", p.queries[i].name)
		}
	}
	return nil
}

// nextQuery cuts the first pair off a query. The key is unescaped, the value isn't: most are
// of no interest. A key that cannot be unescaped is nobody's.
func nextQuery(query string) (key, value, rest string) {
	pair, rest, _ := strings.Cut(query, "&")
	key, value, _ = strings.Cut(pair, "=")
	key, err := unescapeQuery(key)
	if err != nil {
		return "", "", rest
	}
	return key, value, rest
}

func unescapeQuery(s string) (string, error) {
	if strings.IndexByte(s, '%') < 0 && strings.IndexByte(s, '+') < 0 {
		return s, nil
	}
	return url.QueryUnescape(s)
}

func (q *param) put(v reflect.Value, s string) error {
	if !utf8.ValidString(s) || strings.IndexByte(s, 0) >= 0 {
		return q.refuse(errors.New("is not valid text"))
	}
	if err := q.set(v.FieldByIndex(q.field), s); err != nil {
		return q.refuse(err)
	}
	return nil
}

func (q *param) refuse(err error) error {
	var own *matrixerr.Error
	if errors.As(err, &own) {
		return own
	}
	return matrixerr.New(matrixerr.InvalidParam, "%s: %v", q.name, err)
}
