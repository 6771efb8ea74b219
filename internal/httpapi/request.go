package httpapi

import (
	"context"
	"log/slog"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"parley/internal/id"
)

// Caller is whom an access token stands for.
type Caller struct {
	User   id.UserID
	Device id.DeviceID
	// DeviceNID is the device's number, which is never given to another one.
	DeviceNID int64
	// AppService is the ID of the application service whose token it is, and "" for others.
	AppService string
	Admin      bool
	Guest      bool
	// Locked callers reach only routes that have AllowLocked.
	Locked bool
	// Suspended callers do not reach routes that have RefuseSuspended.
	Suspended bool
	// Unlimited callers have no rate limits.
	Unlimited bool
}

// Request is what a handler may want to know beyond its parameters.
type Request struct {
	// HTTP is the request as it came. Its body has been read if the handler takes a body.
	HTTP *http.Request
	// ID names the request in logs and in the answer's X-Request-Id.
	ID string
	// IP is where it came from, as far as we trust those on the way. It may be the zero Addr.
	IP netip.Addr
	// Caller is who asks. It is nil on routes with Auth None and Server, and perhaps with
	// Optional. Not to be changed.
	Caller *Caller
	// Origin is the server that asks, on routes with Auth Server.
	Origin id.ServerName

	limits *limiter
	now    func() time.Time
	ctx    requestContext

	// What would be allocations of their own.
	idHeader [1]string
	places   [4]string
}

// requestContext is the request's context that knows the request.
type requestContext struct {
	context.Context
	request *Request
}

type requestKey struct{}

func (c *requestContext) Value(key any) any {
	if key == (requestKey{}) {
		return c.request
	}
	return c.Context.Value(key)
}

// FromContext is the request that ctx was made for, and nil when there is none.
func FromContext(ctx context.Context) *Request {
	r, _ := ctx.Value(requestKey{}).(*Request)
	return r
}

// Query is the first value of a parameter of the query, and "" when there is none.
func (r *Request) Query(name string) string {
	for query := r.HTTP.URL.RawQuery; query != ""; {
		var key, value string
		key, value, query = nextQuery(query)
		if key != name {
			continue
		}
		s, err := unescapeQuery(value)
		if err != nil {
			return ""
		}
		return s
	}
	return ""
}

// Limit counts one more request for key in a class, besides what the route counts: attempts
// to log in to one account, from wherever they come. It is an error when there are too many.
func (r *Request) Limit(rate Rate, key string) error {
	return r.limits.check(limitKey{rate: rate, who: key}, r.now())
}

// who names in logs who asks.
func (r *Request) who() slog.Attr {
	switch {
	case r.Caller != nil:
		return slog.String("user", string(r.Caller.User))
	case r.Origin != "":
		return slog.String("server", string(r.Origin))
	}
	return slog.Attr{}
}

// Token is the access token that was sent, or "". One in the query is no longer in the
// specification, but older clients and application services send it there.
//
// spec: client-server-api/index.md#using-access-tokens
func (r *Request) Token() string {
	if h := r.HTTP.Header["Authorization"]; len(h) > 0 {
		scheme, token, _ := strings.Cut(h[0], " ")
		if strings.EqualFold(scheme, "Bearer") {
			return strings.TrimSpace(token)
		}
		return ""
	}
	return r.Query("access_token")
}

// clientIP is where a request came from. A proxy appends to X-Forwarded-For whom it speaks for, so
// the client is the last one in it that isn't a proxy of ours; what is before that anyone may
// have made up.
func clientIP(req *http.Request, trusted []netip.Prefix) (ip netip.Addr, viaProxy bool) {
	peer, err := netip.ParseAddrPort(req.RemoteAddr)
	if err != nil {
		return netip.Addr{}, false
	}
	ip = peer.Addr().Unmap().WithZone("")
	if !contains(trusted, ip) {
		return ip, false
	}
	values := req.Header["X-Forwarded-For"]
	for i := len(values) - 1; i >= 0; i-- {
		for rest := values[i]; rest != ""; {
			var hop string
			if j := strings.LastIndexByte(rest, ','); j >= 0 {
				rest, hop = rest[:j], rest[j+1:]
			} else {
				rest, hop = "", rest
			}
			a, err := netip.ParseAddr(strings.TrimSpace(hop))
			if err != nil {
				return ip, true
			}
			ip = a.Unmap().WithZone("")
			if !contains(trusted, ip) {
				return ip, true
			}
		}
	}
	return ip, true
}

func contains(prefixes []netip.Prefix, ip netip.Addr) bool {
	return slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(ip) })
}

// goodRequestID says whether a proxy's request id may be ours.
func goodRequestID(s string) bool {
	if s == "" || len(s) > 64 {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if c != '-' && c != '_' && c != '.' && (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') {
			return false
		}
	}
	return true
}
