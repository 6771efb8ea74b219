package media

import (
	"context"
	"errors"
	"time"

	"parley/internal/id"
	"parley/internal/matrixerr"
	"parley/media/blob"
	"parley/storage"
)

// File is a file that is open to be read; whoever gets it closes it.
type File struct {
	blob.Blob
	// Hash names the content.
	Hash string
	// Type and Name are what is known of it; "" for nothing.
	Type, Name string
}

// Want says how a file is asked for.
type Want struct {
	Origin id.ServerName
	ID     string
	// Timeout is how long to wait for a file that has no content yet.
	Timeout time.Duration
	// LocalOnly asks no other server.
	LocalOnly bool
	// Unauthenticated requests get nothing that is new.
	Unauthenticated bool
}

const (
	// maxWait bounds the time for which a file without content is waited for.
	maxWait = time.Minute
	// waitStep is how often it is looked for, as another process may have got it.
	waitStep = 2 * time.Second
	// usedStep is how exact the time of the last use is.
	usedStep = 24 * time.Hour
	// fetchTime is for how long another server may send a file.
	fetchTime = 5 * time.Minute
)

// Get opens a file.
//
// spec: client-server-api/modules/content_repo.md#get_matrixclientv1mediadownloadservernamemediaid
func (s *Server) Get(ctx context.Context, w Want) (*File, error) {
	m, err := s.find(ctx, w)
	if err != nil {
		return nil, err
	}
	f, err := s.open(ctx, m.Hash)
	if errors.Is(err, blob.ErrNotFound) && m.Origin != s.o.Name && !w.LocalOnly {
		if m, err = s.fetch(ctx, w, true); err != nil { // the copy is gone
			return nil, err
		}
		f, err = s.open(ctx, m.Hash)
	}
	if errors.Is(err, blob.ErrNotFound) {
		s.o.Log.ErrorContext(ctx, "the content of a file is missing", "origin", m.Origin, "media", m.ID, "hash", m.Hash)
		return nil, errNotFound
	}
	if err != nil {
		return nil, err
	}
	f.Type, f.Name = m.Type, m.Name
	return f, nil
}

func (s *Server) open(ctx context.Context, hash string) (*File, error) {
	h, err := blob.ParseHash(hash)
	if err != nil {
		return nil, err
	}
	b, err := s.o.Store.Open(ctx, h)
	if err != nil {
		return nil, err
	}
	return &File{Blob: b, Hash: hash}, nil
}

// find is the row of a file that has content and may be served.
func (s *Server) find(ctx context.Context, w Want) (storage.Media, error) {
	if !validID(w.ID) {
		return storage.Media{}, errNotFound
	}
	m, err := s.row(ctx, w)
	missing, err := notFound(err)
	switch {
	case err != nil:
		return m, err
	case missing && (w.Origin == s.o.Name || w.LocalOnly || w.Unauthenticated && !s.now().Before(s.o.Frozen)):
		// What is copied for an unauthenticated request from then on would be new, and so not for it.
		return m, errNotFound
	case missing:
		if m, err = s.fetch(ctx, w, false); err != nil {
			return m, err
		}
	case m.Hash == "":
		if m, err = s.await(ctx, w); err != nil {
			return m, err
		}
	}
	if m.Quarantined || w.Unauthenticated && m.Created >= s.o.Frozen.UnixMilli() {
		return m, errNotFound
	}
	return m, s.touch(ctx, &m)
}

func (s *Server) row(ctx context.Context, w Want) (storage.Media, error) {
	return storage.Get(ctx, s.o.DB, func(tx *storage.Tx) (storage.Media, error) { return tx.GetMedia(w.Origin, w.ID) })
}

// touch notes that a file was asked for, once a day.
func (s *Server) touch(ctx context.Context, m *storage.Media) error {
	now := s.now()
	if now.UnixMilli()-m.Used < usedStep.Milliseconds() {
		return nil
	}
	return s.o.DB.Write(ctx, func(tx *storage.Tx) error { return tx.UpdateMediaUsed(m.Origin, m.ID, now.UnixMilli()) })
}

// await waits for the content of a file of ours.
func (s *Server) await(ctx context.Context, w Want) (storage.Media, error) {
	late := time.NewTimer(min(w.Timeout, maxWait))
	defer late.Stop()
	waits := s.wait(w.ID)
	defer s.leave(w.ID, waits)
	came := waits.came
	for {
		m, err := s.row(ctx, w)
		if missing, err := notFound(err); err != nil {
			return m, err
		} else if missing || m.Hash == "" && m.Expires <= s.millis() {
			return m, errNotFound
		}
		if m.Hash != "" {
			return m, nil
		}
		select {
		case <-came:
			came = nil // to be looked at once, and then from time to time
		case <-time.After(waitStep):
		case <-late.C:
			return m, matrixerr.New(matrixerr.NotYetUploaded, "The file has not been uploaded yet.")
		case <-ctx.Done():
			return m, ctx.Err()
		}
	}
}

// fetch copies a file of another server, once for all who ask at the same time; anew says that it
// was copied before.
func (s *Server) fetch(ctx context.Context, w Want, anew bool) (storage.Media, error) {
	if s.o.Remote == nil {
		return storage.Media{}, errNotFound
	}
	return s.fetches.Do(ctx, fileName{w.Origin, w.ID}, func(ctx context.Context) (storage.Media, error) {
		ctx, cancel := context.WithTimeout(ctx, fetchTime)
		defer cancel()
		if !anew {
			// Somebody may have been quicker.
			m, err := s.row(ctx, w)
			if missing, err := notFound(err); err != nil || !missing {
				return m, err
			}
		}
		return s.copy(ctx, w)
	})
}

// fileName names a file that is being fetched.
type fileName struct {
	origin id.ServerName
	id     string
}

func (s *Server) copy(ctx context.Context, w Want) (storage.Media, error) {
	f, err := s.o.Remote.Media(ctx, w.Origin, w.ID, min(w.Timeout, maxWait))
	if err != nil {
		s.o.Log.DebugContext(ctx, "a file of another server can't be had", "origin", w.Origin, "media", w.ID, "error", err)
		return storage.Media{}, remoteError(err)
	}
	defer f.Body.Close()
	now := s.millis()
	m := storage.Media{Origin: w.Origin, ID: w.ID, Type: cleanType(f.Type), Name: cleanName(f.Name), Created: now, Used: now}
	err = s.store(ctx, f.Body, s.o.MaxRemote, func(info blob.Info) error {
		m.Hash, m.Size = info.Hash.String(), info.Size
		return s.insertCopy(ctx, &m)
	})
	if matrixerr.CodeOf(err) != "" {
		err = remoteError(err)
	}
	return m, err
}

// insertCopy makes a copy known, in place of one whose content is gone.
func (s *Server) insertCopy(ctx context.Context, m *storage.Media) error {
	return s.o.DB.Write(ctx, func(tx *storage.Tx) (err error) {
		if m.Quarantined, err = tx.IsQuarantined(m.Hash); err != nil {
			return err
		}
		inserted, err := tx.InsertMedia(m)
		if err != nil || inserted {
			return err
		}
		before, err := tx.GetMedia(m.Origin, m.ID)
		m.Created, m.Quarantined = before.Created, m.Quarantined || before.Quarantined
		if err != nil {
			return err
		}
		return tx.UpdateMediaContent(m)
	})
}

// remoteError is what a client is told of what went wrong with another server's file.
func remoteError(err error) error {
	var timed interface{ Timeout() bool }
	switch code := matrixerr.CodeOf(err); {
	case code == matrixerr.NotFound:
		return errNotFound
	case code == matrixerr.TooLarge:
		return matrixerr.New(matrixerr.TooLarge, "The file is larger than this server fetches.").WithStatus(502)
	case code == matrixerr.NotYetUploaded:
		return matrixerr.New(matrixerr.NotYetUploaded, "The file has not been uploaded yet.")
	case errors.As(err, &timed) && timed.Timeout():
		return matrixerr.New(matrixerr.Unknown, "The file's server did not send it in time.").WithStatus(504)
	default:
		return matrixerr.New(matrixerr.Unknown, "The file can't be had from its server.").WithStatus(502)
	}
}
