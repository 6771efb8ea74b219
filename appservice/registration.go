package appservice

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"regexp"
	"strings"

	"github.com/goccy/go-yaml"

	"parley/internal/id"
)

const (
	// maxFile bounds a registration file, and maxNamespaces the expressions in one.
	maxFile       = 1 << 20
	maxNamespaces = 1000
)

// registration is a registration file.
//
// spec: application-service-api.md#registration
type registration struct {
	ID          string  `yaml:"id"`
	URL         *string `yaml:"url"`
	ASToken     string  `yaml:"as_token"`
	HSToken     string  `yaml:"hs_token"`
	Sender      string  `yaml:"sender_localpart"`
	RateLimited *bool   `yaml:"rate_limited"`
	Namespaces  struct {
		Users   []pattern `yaml:"users"`
		Rooms   []pattern `yaml:"rooms"`
		Aliases []pattern `yaml:"aliases"`
	} `yaml:"namespaces"`
	Protocols []string `yaml:"protocols"`
	Ephemeral bool     `yaml:"receive_ephemeral"`
	// OldEphemeral is what Ephemeral was called while it was MSC2409.
	OldEphemeral bool `yaml:"de.sorunome.msc2409.push_ephemeral"`
	// Devices asks for what encryption needs: MSC3202.
	Devices bool `yaml:"org.matrix.msc3202"`
}

type pattern struct {
	Exclusive bool   `yaml:"exclusive"`
	Regex     string `yaml:"regex"`
}

// Service is an application service.
type Service struct {
	ID string
	// Sender is the user who acts for it.
	Sender id.UserID
	// RateLimited says that its users are, but Sender.
	RateLimited bool
	Protocols   []string

	url       string // "" for none: it is sent nothing
	hsToken   string
	token     tokenHash // of the token by which it calls us
	ephemeral bool
	// oldEphemeral has what is ephemeral sent by the name that it had before it was specified.
	oldEphemeral bool
	devices      bool
	users        namespace
	rooms        namespace
	aliases      namespace
}

type tokenHash [sha256.Size]byte

// namespace is a set of names. Like the specification's examples, an expression says how a name begins.
type namespace []struct {
	*regexp.Regexp
	exclusive bool
}

func newNamespace(patterns []pattern) (namespace, error) {
	if len(patterns) > maxNamespaces {
		return nil, fmt.Errorf("has more than %d expressions", maxNamespaces)
	}
	out := make(namespace, len(patterns))
	for i, p := range patterns {
		if p.Regex == "" {
			return nil, fmt.Errorf("[%d].regex is empty", i)
		}
		re, err := regexp.Compile("^(?:" + p.Regex + ")")
		if err != nil {
			return nil, fmt.Errorf("[%d].regex: %w", i, err)
		}
		out[i].Regexp, out[i].exclusive = re, p.Exclusive
	}
	return out, nil
}

func (n namespace) has(name string) bool {
	for _, e := range n {
		if e.MatchString(name) {
			return true
		}
	}
	return false
}

func (n namespace) reserves(name string) bool {
	for _, e := range n {
		if e.exclusive && e.MatchString(name) {
			return true
		}
	}
	return false
}

// hasUser says whether the service has to do with a user, who is one of ours.
func (s *Service) hasUser(user id.UserID) bool {
	return user == s.Sender || user.Server() == s.Sender.Server() && s.users.has(string(user))
}

// Load reads registration files. Its error says in which file what is wrong.
func Load(files []string, server id.ServerName) ([]*Service, error) {
	var out []*Service
	for _, file := range files {
		s, err := loadFile(file, server)
		if err != nil {
			return nil, fmt.Errorf("application service %s: %w", file, err)
		}
		for i, other := range out {
			switch {
			case other.ID == s.ID:
				return nil, fmt.Errorf("application service %s: its id %q is that of %s too", file, s.ID, files[i])
			case other.token == s.token:
				return nil, fmt.Errorf("application service %s: its as_token is that of %s too", file, files[i])
			case other.Sender == s.Sender:
				return nil, fmt.Errorf("application service %s: its sender_localpart is that of %s too", file, files[i])
			}
		}
		out = append(out, s)
	}
	return out, nil
}

func loadFile(file string, server id.ServerName) (*Service, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxFile {
		return nil, fmt.Errorf("is larger than %d bytes", maxFile)
	}
	return parse(text, server)
}

// parse reads a registration. What it does not know of is passed over: services have settings of their
// own in it.
func parse(text []byte, server id.ServerName) (*Service, error) {
	var r registration
	if err := yaml.NewDecoder(bytes.NewReader(text)).Decode(&r); err != nil {
		return nil, errors.New(yaml.FormatError(err, false, false))
	}
	for _, given := range []struct{ name, value string }{{"id", r.ID}, {"as_token", r.ASToken}, {"hs_token", r.HSToken}, {"sender_localpart", r.Sender}} {
		if given.value == "" || strings.ContainsAny(given.value, "\r\n\x00") {
			return nil, fmt.Errorf("%s is missing, or is no single line", given.name)
		}
	}
	if !id.ValidLocalpart(r.Sender) {
		return nil, fmt.Errorf("sender_localpart: %q can't be the name of a user", r.Sender)
	}
	if r.ASToken == r.HSToken {
		return nil, errors.New("as_token and hs_token must not be the same")
	}
	s := &Service{
		ID: r.ID, Sender: id.NewUserID(r.Sender, server), RateLimited: r.RateLimited == nil || *r.RateLimited, Protocols: r.Protocols,
		hsToken: r.HSToken, token: sha256.Sum256([]byte(r.ASToken)),
		ephemeral: r.Ephemeral, oldEphemeral: r.OldEphemeral, devices: r.Devices,
	}
	if r.URL != nil && *r.URL != "" {
		u, err := url.Parse(*r.URL)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
			return nil, fmt.Errorf("url: %q is not a URL such as http://127.0.0.1:29318", *r.URL)
		}
		s.url = strings.TrimSuffix(*r.URL, "/")
	}
	var err error
	for _, n := range []struct {
		name string
		to   *namespace
		from []pattern
	}{{"users", &s.users, r.Namespaces.Users}, {"rooms", &s.rooms, r.Namespaces.Rooms}, {"aliases", &s.aliases, r.Namespaces.Aliases}} {
		if *n.to, err = newNamespace(n.from); err != nil {
			return nil, fmt.Errorf("namespaces.%s%w", n.name, err)
		}
	}
	return s, nil
}
