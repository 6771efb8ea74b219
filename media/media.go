// Package media keeps the files of our users and copies of those of other servers: who uploaded
// what is in the database, the bytes are in a [blob.Store], once for each content.
//
// It decides who may upload how much, what may be served to whom, and what is given up when
// there is no room. How a file is sent over HTTP is the faces' business.
//
// spec: client-server-api/modules/content_repo.md, server-server-api.md#content-repository
package media

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"runtime"
	"sync"
	"time"

	"parley/internal/flight"
	"parley/internal/id"
	"parley/internal/matrixerr"
	"parley/internal/serverapi"
	"parley/media/blob"
	"parley/media/preview"
	"parley/storage"
)

// Remote fetches files of other servers.
type Remote interface {
	// Media is a file of another server. It waits up to timeout for one that has not been
	// uploaded there yet.
	Media(ctx context.Context, server id.ServerName, mediaID string, timeout time.Duration) (*serverapi.File, error)
}

// Options is what a media server needs. DB, Name and Store must be given; a limit that is 0 is none.
type Options struct {
	DB    *storage.DB
	Name  id.ServerName
	Store blob.Store
	// Remote is nil where this node talks to no other.
	Remote Remote
	// Previews reads the pages of which there are to be previews, nil where there are none. It
	// is closed with the server.
	Previews *preview.Client
	// MaxUpload and MaxRemote are the largest files that our users may upload and that are
	// fetched from other servers, in bytes.
	MaxUpload, MaxRemote int64
	// UserQuota is how many bytes the files of one user may have.
	UserQuota int64
	// CacheBytes and CacheAge bound the copies of other servers' files: the longest unused go first.
	CacheBytes int64
	CacheAge   time.Duration
	// MaxPixels bounds the pictures that thumbnails are made of.
	MaxPixels int
	// Frozen is when unauthenticated requests ceased to get what is new: what was uploaded or
	// copied before is served to them. The zero time is for ever ago.
	Frozen time.Time
	Log    *slog.Logger
	// Now is the clock; nil means the system's.
	Now func() time.Time
}

// Server is the media repository. Close ends what it does by itself.
type Server struct {
	o   Options
	now func() time.Time
	// fetches, makes and previews are what is being done for whoever waits for it.
	fetches  *flight.Group[fileName, storage.Media]
	makes    *flight.Group[thumbnailName, storage.Thumbnail]
	previews *flight.Group[string, string]
	// previewing has as many places as previews may be made at once.
	previewing chan struct{}
	// workers has as many places as thumbnails may be made at once.
	workers chan struct{}

	// sweeping is held by whoever stores a blob, shared, until there is a row that names it, and
	// alone by whoever looks whether there is one and deletes the blob.
	sweeping sync.RWMutex

	mu sync.Mutex
	// uploaded are the files that somebody waits for.
	uploaded map[string]*waiting

	stop context.CancelFunc
	done chan struct{}
}

// New makes a media server that is ready to use.
func New(o Options) (*Server, error) {
	if o.DB == nil || o.Name == "" || o.Store == nil {
		return nil, errors.New("media: database, name and store must be given")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.MaxPixels == 0 {
		o.MaxPixels = 32_000_000
	}
	ctx, stop := context.WithCancel(context.Background())
	s := &Server{
		o: o, now: o.Now, workers: make(chan struct{}, max(1, runtime.GOMAXPROCS(0))),
		fetches: flight.New[fileName, storage.Media](), makes: flight.New[thumbnailName, storage.Thumbnail](),
		previews: flight.New[string, string](), previewing: make(chan struct{}, maxPreviews),
		uploaded: make(map[string]*waiting), stop: stop, done: make(chan struct{}),
	}
	go s.tidy(ctx)
	return s, nil
}

// Close ends what the server does by itself, and waits for it.
func (s *Server) Close() {
	s.stop()
	<-s.done
	s.fetches.Close()
	s.makes.Close()
	s.previews.Close()
	if s.o.Previews != nil {
		s.o.Previews.Close()
	}
}

func (s *Server) millis() int64 { return s.now().UnixMilli() }

// MaxUpload is the largest file that may be uploaded, in bytes.
func (s *Server) MaxUpload() int64 { return s.o.MaxUpload }

// newID is the ID of a file, which can't be guessed.
func newID() string { return rand.Text() }

// maxID bounds the media ID of another server's file.
const maxID = 255

// validID says whether something can be a media ID.
//
// spec: client-server-api/modules/content_repo.md#content-repo-security-considerations
func validID(mediaID string) bool {
	if mediaID == "" || len(mediaID) > maxID {
		return false
	}
	for _, c := range []byte(mediaID) {
		ok := c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' || c == '_' || c == '-'
		if !ok {
			return false
		}
	}
	return true
}

var errNotFound = matrixerr.New(matrixerr.NotFound, "There is no such file.")

func notFound(err error) (bool, error) {
	if errors.Is(err, storage.ErrNotFound) {
		return true, nil
	}
	return false, err
}
