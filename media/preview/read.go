package preview

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"
)

const (
	// maxEmbed is how large an answer in oEmbed may be.
	maxEmbed = 256 << 10
)

// Read asks for an address. What is there is a page, or else a picture, which the caller closes;
// where it is neither, the page says its name at most.
func (c *Client) Read(ctx context.Context, u *url.URL) (p *Page, picture *Answer, err error) {
	a, err := c.Get(ctx, u)
	if err != nil {
		return nil, nil, err
	}
	if strings.HasPrefix(a.Media, "image/") {
		p = &Page{Properties: make(map[string]string)}
		p.set("og:title", a.Name())
		return p, a, nil
	}
	defer a.Body.Close()
	if a.Media != "text/html" && a.Media != "application/xhtml+xml" {
		p = &Page{Properties: make(map[string]string)}
		p.set("og:title", a.Name())
		return p, nil, nil
	}
	if p, err = page(a.Body, a.Type, a.URL); err != nil {
		return nil, nil, fmt.Errorf("%w of %s: %w", ErrUnavailable, u.Redacted(), err)
	}
	if p.embed != nil && (p.Image == nil || p.Properties["og:title"] == "" || p.Properties["og:description"] == "") {
		// What it has to add is welcome, and no more than that.
		if e, base, err := c.embedded(ctx, p.embed); err == nil {
			e.tell(p, base)
		}
	}
	return p, nil, nil
}

// embed is what we want to know of an answer in oEmbed.
type embed struct {
	Type      string `json:"type"`
	Title     string `json:"title"`
	Author    string `json:"author_name"`
	Provider  string `json:"provider_name"`
	Thumbnail string `json:"thumbnail_url"`
	URL       string `json:"url"`
	HTML      string `json:"html"`
}

func (c *Client) embedded(ctx context.Context, u *url.URL) (*embed, *url.URL, error) {
	a, err := c.Get(ctx, u)
	if err != nil {
		return nil, nil, err
	}
	defer a.Body.Close()
	body, err := io.ReadAll(io.LimitReader(a.Body, maxEmbed+1))
	if err != nil {
		return nil, nil, err
	}
	if len(body) > maxEmbed {
		return nil, nil, errors.New("the answer in oEmbed is too large")
	}
	e, err := parseEmbed(body)
	return e, a.URL, err
}

func parseEmbed(body []byte) (*embed, error) {
	var e embed
	// What has another type than it should is as if it were not there.
	var wrong *json.UnmarshalTypeError
	if err := json.Unmarshal(body, &e); err != nil && !errors.As(err, &wrong) {
		return nil, fmt.Errorf("read oEmbed: %w", err)
	}
	return &e, nil
}

// tell adds to a page what it does not say itself.
func (e *embed) tell(p *Page, base *url.URL) {
	p.set("og:title", e.Title)
	p.set("og:title", e.Author)
	p.set("og:site_name", e.Provider)
	p.picture(base, e.Thumbnail)
	switch e.Type {
	case "photo":
		p.picture(base, e.URL)
	case "rich":
		if inner, err := page(strings.NewReader(e.HTML), "text/html; charset=utf-8", base); err == nil {
			p.set("og:description", inner.Properties["og:description"])
		}
	}
}
