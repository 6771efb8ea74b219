package preview

import (
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/html"
	"golang.org/x/net/html/atom"
	"golang.org/x/net/html/charset"
)

const (
	// maxPage is how much of a page is read. What it says of itself stands at its beginning, but
	// some have large scripts there.
	maxPage = 2 << 20
	// maxProperties and maxValue bound what is kept of it, in properties and in runes.
	maxProperties = 50
	maxValue      = 1000
	maxTitle      = 300
	// enoughText is when a page's own text says what it is about.
	enoughText = 300
	// maxDepth bounds the elements whose text is not for readers, one in the other.
	maxDepth = 1000
)

// Page is what a page says of itself.
type Page struct {
	// Properties are those of OpenGraph, such as og:title, but those of the picture.
	Properties map[string]string
	// Image is where its picture is, nil where it has none.
	Image *url.URL
	// embed is where it can be asked for as oEmbed.
	embed *url.URL
}

// page reads HTML. Only what is wrong with reading is an error: what isn't HTML says nothing.
func page(body io.Reader, contentType string, base *url.URL) (*Page, error) {
	text, err := charset.NewReader(io.LimitReader(body, maxPage), contentType)
	if errors.Is(err, io.EOF) {
		return &Page{Properties: map[string]string{}}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read a page: %w", err)
	}
	p := parser{base: base, meta: make(map[string]string), links: make(map[string]string)}
	if err := p.read(text); err != nil {
		return nil, fmt.Errorf("read a page: %w", err)
	}
	return p.page(), nil
}

// parser goes through a page from its beginning to its end. It builds no tree of it.
type parser struct {
	base *url.URL
	// meta are the properties by which pages tell of themselves, and links what they name: the
	// first of each.
	meta, links map[string]string
	title       text
	paragraphs  text
	// in is the element whose text is being read, and hidden how deep we are in what isn't for readers.
	in     atom.Atom
	hidden int
	based  bool
}

// unread are the elements whose text says nothing of what a page is about.
var unread = map[atom.Atom]bool{
	atom.Nav: true, atom.Header: true, atom.Footer: true, atom.Aside: true, atom.Svg: true, atom.Select: true,
	atom.Form: true, atom.Button: true, atom.Template: true, atom.Dialog: true,
}

func (p *parser) read(r io.Reader) error {
	z := html.NewTokenizer(r)
	for {
		switch z.Next() {
		case html.ErrorToken:
			if err := z.Err(); !errors.Is(err, io.EOF) {
				return err
			}
			return nil
		case html.StartTagToken:
			name, more := z.TagName()
			p.open(z, atom.Lookup(name), more, false)
		case html.SelfClosingTagToken:
			name, more := z.TagName()
			p.open(z, atom.Lookup(name), more, true)
		case html.EndTagToken:
			name, _ := z.TagName()
			p.close(atom.Lookup(name))
		case html.TextToken:
			switch {
			case p.in == atom.Title && p.hidden == 0:
				p.title.add(string(z.Text()), maxTitle)
			case p.in == atom.P && p.hidden == 0:
				p.paragraphs.add(string(z.Text()), maxValue)
			}
		}
		if p.paragraphs.runes >= enoughText && p.in == 0 {
			return nil // the rest tells nothing more
		}
	}
}

func (p *parser) open(z *html.Tokenizer, name atom.Atom, more, closed bool) {
	switch {
	case name == atom.Meta || name == atom.Link || name == atom.Base:
		p.tell(name, attributes(z, more))
	case closed:
	case name == atom.Title || name == atom.P || name == atom.Script || name == atom.Style || name == atom.Noscript:
		p.in = name
		p.paragraphs.end()
	case unread[name]:
		p.hidden = min(p.hidden+1, maxDepth)
	}
}

func (p *parser) close(name atom.Atom) {
	switch {
	case name == p.in:
		p.in = 0
		p.paragraphs.end()
	case unread[name]:
		p.hidden = max(p.hidden-1, 0)
	}
}

// attributes are those of a tag that can tell us something.
func attributes(z *html.Tokenizer, more bool) map[string]string {
	out := make(map[string]string)
	for range maxProperties {
		if !more {
			break
		}
		var key, value []byte
		key, value, more = z.TagAttr()
		switch string(key) {
		case "property", "name", "content", "rel", "href", "type":
			if _, ok := out[string(key)]; !ok {
				out[string(key)] = strings.ToValidUTF8(string(value), "\ufffd")
			}
		}
	}
	return out
}

// tell keeps what an element in the head of a page says.
func (p *parser) tell(name atom.Atom, a map[string]string) {
	switch name {
	case atom.Base:
		if u, err := p.base.Parse(a["href"]); err == nil && a["href"] != "" && !p.based {
			p.base, p.based = u, true
		}
	case atom.Meta:
		key := a["property"]
		if key == "" {
			key = a["name"]
		}
		if key = strings.ToLower(strings.TrimSpace(key)); known(key) {
			keep(p.meta, key, a["content"])
		}
	case atom.Link:
		for rel := range strings.FieldsSeq(strings.ToLower(a["rel"])) {
			switch {
			case rel == "image_src":
				keep(p.links, rel, a["href"])
			case rel == "alternate" && strings.EqualFold(strings.TrimSpace(a["type"]), "application/json+oembed"):
				keep(p.links, "oembed", a["href"])
			}
		}
	}
}

func known(key string) bool {
	return len(key) <= 100 && (strings.HasPrefix(key, "og:") || strings.HasPrefix(key, "twitter:") || key == "description")
}

// keep keeps the first value of a key, as pages that name several begin with the best.
func keep(m map[string]string, key, value string) {
	if _, ok := m[key]; !ok && len(m) < maxProperties && len(value) <= maxURL && strings.TrimSpace(value) != "" {
		m[key] = value
	}
}

// pictures are where a page says where its picture is.
var pictures = []string{"og:image", "og:image:url", "og:image:secure_url", "twitter:image", "twitter:image:src"}

// page is what a page said.
func (p *parser) page() *Page {
	out := &Page{Properties: make(map[string]string)}
	for key, value := range p.meta {
		if strings.HasPrefix(key, "og:") && (key == "og:image:alt" || !strings.HasPrefix(key, "og:image")) {
			out.set(key, value)
		}
	}
	out.set("og:title", p.meta["twitter:title"])
	out.set("og:title", p.title.String())
	out.set("og:description", p.meta["twitter:description"])
	out.set("og:description", p.meta["description"])
	out.set("og:description", p.paragraphs.String())
	if u, err := url.Parse(out.Properties["og:url"]); err != nil || u.Scheme != "http" && u.Scheme != "https" {
		delete(out.Properties, "og:url")
	}
	for _, key := range pictures {
		out.picture(p.base, p.meta[key])
	}
	out.picture(p.base, p.links["image_src"])
	out.embed = resolve(p.base, p.links["oembed"])
	return out
}

// set says something of a page unless it has been said.
func (p *Page) set(key, value string) {
	most := maxValue
	if key == "og:title" {
		most = maxTitle
	}
	var t text
	t.add(value, most)
	if value = t.String(); value != "" && p.Properties[key] == "" {
		p.Properties[key] = value
	}
}

// picture says where a page's picture is unless that has been said.
func (p *Page) picture(base *url.URL, address string) {
	if p.Image == nil {
		p.Image = resolve(base, address)
	}
}

// resolve is the address of something that a page names, nil where it is none that we could ask for.
func resolve(base *url.URL, address string) *url.URL {
	address = strings.TrimSpace(address)
	if address == "" || len(address) > maxURL {
		return nil
	}
	u, err := base.Parse(address)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" {
		return nil
	}
	return u
}

// text is text for readers: its white space is one space, whatever it was.
type text struct {
	b     strings.Builder
	runes int
	space bool
}

// add adds to it until it has so many runes.
func (t *text) add(s string, most int) {
	for _, r := range s {
		if r <= ' ' || r == 0x7f || r == 0xa0 || r == 0x2028 || r == 0x2029 {
			t.space = true
			continue
		}
		if r == utf8.RuneError && t.runes == 0 {
			continue // half a character, or a mark of byte order that was misread
		}
		if t.runes >= most {
			if t.runes == most {
				t.b.WriteRune('…')
				t.runes++
			}
			return
		}
		if t.space && t.runes > 0 {
			t.b.WriteByte(' ')
			t.runes++
		}
		t.space = false
		t.b.WriteRune(r)
		t.runes++
	}
}

// end ends a word.
func (t *text) end() { t.space = true }

func (t *text) String() string { return t.b.String() }
