package httpapi

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/prometheus/client_golang/prometheus"

	"parley/internal/id"
	"parley/internal/jsonshape"
	"parley/internal/matrixerr"
)

// Options is what a server needs. Authenticate must be given if a route needs a caller, and
// VerifyServer if one needs a server; the rest has defaults.
type Options struct {
	// Log gets what goes wrong, and at debug level each request.
	Log *slog.Logger
	// Authenticate says whom an access token stands for, or why for nobody. What it returns is
	// not changed, so it may return the same again.
	Authenticate func(ctx context.Context, r *Request, token string) (*Caller, error)
	// VerifyServer says which server has signed a request with this body; nil is no body.
	VerifyServer func(ctx context.Context, req *http.Request, body []byte) (id.ServerName, error)
	// Rates are the limits; a class that isn't in it has none.
	Rates map[Rate]Limit
	// MaxBody is the size of the largest body in bytes, where a route doesn't say another: 1 MiB.
	MaxBody int64
	// TrustedProxies are the addresses whose X-Forwarded-For and X-Request-Id are believed.
	TrustedProxies []netip.Prefix
	// Metrics is where the server's metrics are registered. Several servers may share one.
	Metrics prometheus.Registerer
	// Now is the clock.
	Now func() time.Time
}

// API answers HTTP requests by its tables. It is safe for concurrent use.
type API struct {
	engine  *gin.Engine
	routes  Table
	log     *slog.Logger
	auth    func(context.Context, *Request, string) (*Caller, error)
	verify  func(context.Context, *http.Request, []byte) (id.ServerName, error)
	limits  *limiter
	maxBody int64
	trusted []netip.Prefix
	now     func() time.Time

	idPrefix string
	lastID   atomic.Uint64
}

// served is a route with all that is needed to serve it.
type served struct {
	*Route
	*endpoint
	metrics routeMetrics
}

// New makes an http.Handler of tables. It fails when two routes are the same, when one
// doesn't say who may call it, or has a handler whose request doesn't fit its path.
func New(o Options, tables ...Table) (*API, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.MaxBody == 0 {
		o.MaxBody = defaultMaxBody
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	m, err := newMetrics(o.Metrics)
	if err != nil {
		return nil, err
	}
	a := &API{
		engine: newEngine(), routes: slices.Concat(tables...), log: slog.New(LogHandler(o.Log.Handler())),
		auth: o.Authenticate, verify: o.VerifyServer, limits: newLimiter(o.Rates), maxBody: o.MaxBody,
		trusted: o.TrustedProxies, now: o.Now, idPrefix: strings.ToLower(rand.Text()[:6]) + "-",
	}
	taken := make(map[string]bool)
	for i := range a.routes {
		if err := a.add(&a.routes[i], m, taken); err != nil {
			return nil, fmt.Errorf("route %s %s: %w", a.routes[i].Method, a.routes[i].Path, err)
		}
	}
	a.engine.NoRoute(a.refuse(m, "unknown", http.StatusNotFound, "there is no such endpoint"))
	a.engine.NoMethod(a.refuse(m, "wrong method", http.StatusMethodNotAllowed, "this endpoint does not have this method"))
	return a, nil
}

func newEngine() *gin.Engine {
	// The one setting that gin has only for the whole process: without it it prints every route.
	gin.SetMode(gin.ReleaseMode)
	e := gin.New()
	e.RedirectTrailingSlash = false
	e.HandleMethodNotAllowed = true
	// Parameters are found before they are unescaped, as they may have an escaped slash; and
	// we unescape them, as gin takes '+' for a space.
	e.UseRawPath = true
	e.UnescapePathValues = false
	return e
}

func (a *API) add(r *Route, m *metrics, taken map[string]bool) error {
	if err := r.check(); err != nil {
		return err
	}
	if r.Auth == Server && a.verify == nil || r.Auth != Server && r.Auth != None && a.auth == nil {
		return fmt.Errorf("nothing was given to find out who asks (%s)", r.Auth)
	}
	patterns, err := r.patterns()
	if err != nil {
		return err
	}
	e, err := r.Handler.build(r)
	if err != nil {
		return err
	}
	if r.MaxBody == 0 {
		r.MaxBody = a.maxBody
	}
	s := &served{Route: r, endpoint: e, metrics: m.of(r.Path, r.Method)}
	for _, p := range patterns {
		key := r.Method + " " + p.gin
		if taken[key] {
			return errors.New("is there twice")
		}
		taken[key] = true
		a.engine.Handle(r.Method, p.gin, func(c *gin.Context) { a.serve(c, s) })
	}
	return nil
}

// refuse is the handler for requests that no route is for.
//
// spec: client-server-api/index.md#common-error-codes
// spec: server-server-api.md#unsupported-endpoints
func (a *API) refuse(m *metrics, route string, status int, text string) gin.HandlerFunc {
	s := &served{
		Route: &Route{Path: route, Auth: None, Rate: RateNone},
		endpoint: &endpoint{plan: &plan{}, call: func(context.Context, *Request, http.ResponseWriter, args) error {
			return matrixerr.New(matrixerr.Unrecognized, "%s", text).WithStatus(status)
		}},
		metrics: m.of(route, "any"),
	}
	return func(c *gin.Context) { a.serve(c, s) }
}

// Routes are the tables in one.
func (a *API) Routes() Table { return slices.Clone(a.routes) }

// ServeHTTP implements http.Handler.
func (a *API) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if crossOrigin(req.URL.Path) {
		setCORS(w.Header())
		if req.Method == http.MethodOptions {
			w.WriteHeader(http.StatusNoContent)
			return
		}
	}
	a.engine.ServeHTTP(w, req)
}

func (a *API) serve(c *gin.Context, s *served) {
	start := a.now()
	r := &Request{HTTP: c.Request, limits: a.limits, now: a.now}
	var viaProxy bool
	r.IP, viaProxy = clientIP(c.Request, a.trusted)
	if id := c.Request.Header.Get("X-Request-Id"); viaProxy && goodRequestID(id) {
		r.ID = id
	} else {
		r.ID = a.idPrefix + strconv.FormatUint(a.lastID.Add(1), 36)
	}
	r.ctx = requestContext{c.Request.Context(), r}
	r.idHeader[0] = r.ID
	c.Writer.Header()["X-Request-Id"] = r.idHeader[:]

	err := a.guard(c, s, r)
	began := c.Writer.Written()
	if err != nil {
		a.fail(c, s, r, err)
	}
	took := a.now().Sub(start)
	s.metrics.observe(c.Writer.Status(), took)
	if a.log.Enabled(&r.ctx, slog.LevelDebug) {
		a.log.LogAttrs(&r.ctx, slog.LevelDebug, "request", slog.String("method", c.Request.Method),
			slog.String("route", s.Path), slog.Int("status", c.Writer.Status()), slog.Int("bytes", c.Writer.Size()),
			slog.Duration("took", took), slog.String("ip", r.IP.String()), r.who())
	}
	if err != nil && began {
		// How net/http is told to break the connection: half an answer is not to be taken for a
		// whole one.
		panic(http.ErrAbortHandler)
	}
}

// guard is run, with a panic as an error.
func (a *API) guard(c *gin.Context, s *served, r *Request) (err error) {
	defer func() {
		switch v := recover(); v {
		case nil:
		case http.ErrAbortHandler:
			panic(v)
		default:
			err = fmt.Errorf("%w: %v\n%s", errPanic, v, debug.Stack())
		}
	}()
	return a.run(c, s, r)
}

// run does what the package comment says, from who asks to the handler's answer.
func (a *API) run(c *gin.Context, s *served, r *Request) error {
	in := args{query: c.Request.URL.RawQuery, escaped: c.Request.URL.RawPath != ""}
	hasBody := false
	if s.Auth == Server {
		// The signature is over the body.
		body, err := readBody(c.Writer, c.Request, s.MaxBody)
		if err != nil {
			return err
		}
		if s.MaxEntries > 0 && jsonshape.MoreThan(body, 2, s.MaxEntries) {
			return matrixerr.New(matrixerr.InvalidParam, "the request body has more than %d entries", s.MaxEntries)
		}
		in.body, hasBody = body, true
		if r.Origin, err = a.verify(&r.ctx, c.Request, body); err != nil {
			return err
		}
	} else if err := a.authenticate(s, r); err != nil {
		return err
	}
	if err := a.limit(s, r); err != nil {
		return err
	}
	if !hasBody && s.plan.body != bodyNone {
		body, err := readBody(c.Writer, c.Request, s.MaxBody)
		if err != nil {
			return err
		}
		in.body = body
	}
	in.path = r.places[:0]
	for i := range c.Params {
		in.path = append(in.path, c.Params[i].Value)
	}
	return s.call(&r.ctx, r, c.Writer, in)
}

// authenticate finds out who asks, and whether they may.
func (a *API) authenticate(s *served, r *Request) error {
	if s.Auth == None {
		return nil
	}
	token := r.Token()
	if token == "" {
		if s.Auth == Optional {
			return nil
		}
		return matrixerr.New(matrixerr.MissingToken, "there is no access token")
	}
	caller, err := a.auth(&r.ctx, r, token)
	if err != nil {
		return err
	}
	r.Caller = caller
	switch {
	case caller.Locked && !s.AllowLocked:
		// spec: client-server-api/index.md#account-locking
		return matrixerr.New(matrixerr.UserLocked, "this account has been locked").With("soft_logout", true)
	case caller.Guest && s.Auth == User:
		// spec: client-server-api/modules/guest_access.md#guest-access
		return matrixerr.New(matrixerr.GuestAccessForbidden, "guests cannot do this")
	case s.Auth == Admin && (!caller.Admin || caller.Guest):
		return matrixerr.New(matrixerr.Forbidden, "only an administrator of this server can do this")
	case s.Auth == AppService && caller.AppService == "":
		return matrixerr.New(matrixerr.Forbidden, "only an application service can do this")
	case caller.Suspended && s.RefuseSuspended:
		// spec: client-server-api/index.md#account-suspension
		return matrixerr.New(matrixerr.UserSuspended, "you cannot do this while your account is suspended")
	}
	return nil
}

func (a *API) limit(s *served, r *Request) error {
	if s.Rate == RateNone || r.Caller != nil && r.Caller.Unlimited {
		return nil
	}
	key := limitKey{rate: s.Rate}
	switch {
	case r.Caller != nil:
		key.who = string(r.Caller.User)
	case r.Origin != "":
		key.who = string(r.Origin)
	default:
		key.ip = r.IP
	}
	return a.limits.check(key, a.now())
}

// errPanic is what became of a handler that panicked.
var errPanic = errors.New("panic")

// fail is the one place where an error becomes an answer.
func (a *API) fail(c *gin.Context, s *served, r *Request, err error) {
	var own *matrixerr.Error
	isOwn := errors.As(err, &own)
	gone := errors.Is(err, errClientGone) || c.Request.Context().Err() != nil
	began := c.Writer.Written()
	if errors.Is(err, errPanic) || !gone && (!isOwn || began) {
		a.log.LogAttrs(&r.ctx, slog.LevelError, "request failed", slog.String("method", c.Request.Method),
			slog.String("route", s.Path), r.who(), slog.Any("err", err))
	}
	if isOwn && !gone && s.Auth == Server && (r.Origin == "" || c.Request.Method != http.MethodGet) {
		// Operators want to know what others send in vain; what they ask for in vain is no news.
		a.log.LogAttrs(&r.ctx, slog.LevelInfo, "a server's request was refused", slog.String("method", c.Request.Method),
			slog.String("route", s.Path), r.who(), slog.String("ip", r.IP.String()), slog.Any("reason", err))
	}
	if began {
		return
	}
	if !isOwn {
		own = matrixerr.New(matrixerr.Unknown, "Internal server error.").WithStatus(http.StatusInternalServerError)
	}
	if gone {
		own = own.WithStatus(statusClientGone)
	}
	if err := writeError(c.Writer, own); err != nil && !errors.Is(err, errClientGone) {
		a.log.LogAttrs(&r.ctx, slog.LevelError, "an error could not be told", slog.Any("err", err))
	}
}
