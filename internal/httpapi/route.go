package httpapi

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
)

// Table is a list of routes. It is the list of what we implement.
type Table []Route

// Route is one endpoint.
type Route struct {
	Method string
	// Path in the specification's spelling. "/_matrix/client/v3/rooms/{roomId}/leave". One that
	// ends in "/" is also found without.
	Path string
	// Also are older or unstable paths for the same, with the same parameters. What is found under
	// /_matrix/client/v3/ is found under /_matrix/client/r0/ too, where old clients look for it.
	Also []string
	// LastMayBeEmpty says that the last parameter of the path may be the empty string, and then
	// the slash before it may be absent too: what the specification says of {stateKey}.
	LastMayBeEmpty bool

	// Auth is who may call. It must be given.
	Auth Auth
	// AllowLocked lets users call it whose account is locked.
	AllowLocked bool
	// RefuseSuspended keeps users from it whose account is suspended.
	RefuseSuspended bool
	// Rate is which limit a call counts for.
	Rate Rate

	// MaxBody is the size of the largest body in bytes; 0 is that of [Options].
	MaxBody int64
	// MaxEntries is how many entries a signed body may have in its first two levels: its own, and
	// those of the lists and objects in it. A body that has more is refused before anything is made
	// of it; 0 is for no bound but its size.
	MaxEntries int
	// NeedBody says that no body is not as good as {}.
	NeedBody bool

	Handler Handler
}

// Auth is who may call a route.
type Auth uint8

// Whoever forgets to say who may call has not opened a door: the zero value is none of these.
const (
	// None: anyone; a token is not looked at.
	None Auth = iota + 1
	// User: somebody with an account, but no guest.
	User
	// UserOrGuest: any valid access token.
	UserOrGuest
	// Optional: anyone, but whoever sends a token sends a valid one. [Request.Caller] may be nil.
	Optional
	// Admin: an administrator of this node.
	Admin
	// AppService: an application service.
	AppService
	// Server: another homeserver that signed the request. [Request.Origin] is its name.
	Server
)

var authNames = [...]string{"", "none", "user", "user or guest", "optional", "admin", "application service", "server"}

// String is how generated documents name it.
func (a Auth) String() string {
	if int(a) < len(authNames) {
		return authNames[a]
	}
	return fmt.Sprintf("Auth(%d)", a)
}

// Rate is a class of requests that are limited together: all of one user's, or of one
// address's where there is no user, or of one server's.
type Rate uint8

// The classes. What isn't said to be something else is RateDefault.
const (
	RateDefault Rate = iota
	RateNone
	RateLogin
	RateRegister
	RateSend
	RateMedia
	RateServer
	numRates
)

var rateNames = [numRates]string{"default", "none", "login", "registration", "sending", "media", "server"}

// String is how generated documents name it.
func (r Rate) String() string {
	if r < numRates {
		return rateNames[r]
	}
	return fmt.Sprintf("Rate(%d)", r)
}

// pattern is one path under which a route is found.
type pattern struct {
	// gin is the path in gin's spelling. All parameters have the names "a", "b", … by their
	// place, because gin wants those that share a place to share a name, and the specification
	// does not.
	gin string
	// names are the parameters by their place.
	names []string
}

func parsePath(path string) (pattern, error) {
	if path == "" || path[0] != '/' {
		return pattern{}, errors.New("does not start with '/'")
	}
	var p pattern
	var b strings.Builder
	for _, segment := range strings.Split(path[1:], "/") {
		b.WriteByte('/')
		name, isParam := strings.CutPrefix(segment, "{")
		name, closed := strings.CutSuffix(name, "}")
		switch {
		case isParam != closed || strings.ContainsAny(name, "{}:*%?"):
			return pattern{}, fmt.Errorf("cannot have %q between two slashes", segment)
		case !isParam:
			b.WriteString(segment)
		case name == "" || len(p.names) == 26:
			return pattern{}, errors.New("has a parameter without a name, or too many of them")
		default:
			b.WriteByte(':')
			b.WriteByte('a' + byte(len(p.names)))
			p.names = append(p.names, name)
		}
	}
	p.gin = b.String()
	return p, nil
}

// patterns are all paths under which the route is found.
func (r *Route) patterns() ([]pattern, error) {
	paths := append([]string{r.Path}, r.Also...)
	for _, path := range paths {
		if rest, ok := strings.CutPrefix(path, "/_matrix/client/v3/"); ok {
			paths = append(paths, "/_matrix/client/r0/"+rest)
		}
	}
	var all []pattern
	for _, path := range paths {
		p, err := parsePath(path)
		if err != nil {
			return nil, fmt.Errorf("path %q %w", path, err)
		}
		if len(all) > 0 && len(p.names) != len(all[0].names) {
			return nil, fmt.Errorf("path %q has other parameters than %q", path, r.Path)
		}
		all = append(all, p)
		if r.LastMayBeEmpty {
			i := strings.LastIndexByte(p.gin, '/')
			if !strings.HasPrefix(p.gin[i:], "/:") {
				return nil, fmt.Errorf("path %q does not end in a parameter that could be empty", path)
			}
			fewer := p.names[:len(p.names)-1]
			all = append(all, pattern{gin: p.gin[:i+1], names: fewer}, pattern{gin: p.gin[:i], names: fewer})
		}
		if len(p.gin) > 1 && strings.HasSuffix(p.gin, "/") {
			all = append(all, pattern{gin: strings.TrimSuffix(p.gin, "/"), names: p.names})
		}
	}
	return all, nil
}

func (r *Route) check() error {
	switch {
	case r.Method == "" || r.Method != strings.ToUpper(r.Method) || r.Method == http.MethodOptions:
		return fmt.Errorf("method %q is not one that a route may have", r.Method)
	case r.Auth == 0 || int(r.Auth) >= len(authNames):
		return errors.New("does not say who may call it")
	case r.Rate >= numRates:
		return errors.New("has an unknown rate class")
	case r.Handler.build == nil:
		return errors.New("has no handler")
	}
	return nil
}
