package media

import (
	"context"
	"errors"
	"io"
	"mime"
	"strings"
	"time"

	"parley/internal/id"
	"parley/internal/matrixerr"
	"parley/media/blob"
	"parley/storage"
)

const (
	// pendingLife is how long a file may be without content.
	pendingLife = 24 * time.Hour
	// maxPending bounds the files of one user that are without.
	maxPending = 20
	// maxText bounds the type and the name that are kept of a file.
	maxText = 255
)

// Upload is a file that somebody uploads.
type Upload struct {
	User id.UserID
	// Type and Name are what the uploader says of it; "" for nothing.
	Type, Name string
	Body       io.Reader
}

// Upload takes in a file and gives its media ID.
//
// spec: client-server-api/modules/content_repo.md#post_matrixmediav3upload
func (s *Server) Upload(ctx context.Context, u Upload) (mediaID string, err error) {
	mediaID = newID()
	return mediaID, s.receive(ctx, &u, mediaID, func(tx *storage.Tx, m *storage.Media) error {
		_, err := tx.InsertMedia(m)
		return err
	})
}

// Create makes a media ID whose content is to be uploaded until expires.
//
// spec: client-server-api/modules/content_repo.md#post_matrixmediav1create
func (s *Server) Create(ctx context.Context, user id.UserID) (mediaID string, expires time.Time, err error) {
	now := s.now()
	expires = now.Add(pendingLife)
	m := storage.Media{Origin: s.o.Name, ID: newID(), User: user, Created: now.UnixMilli(), Used: now.UnixMilli(), Expires: expires.UnixMilli()}
	err = s.o.DB.Write(ctx, func(tx *storage.Tx) error {
		if err := tx.DeleteExpiredMedia(user, now.UnixMilli()); err != nil {
			return err
		}
		n, err := tx.CountPendingMedia(user, now.UnixMilli())
		if err != nil {
			return err
		}
		if n >= maxPending {
			return matrixerr.New(matrixerr.LimitExceeded, "%d of your files wait for their content.", n)
		}
		_, err = tx.InsertMedia(&m)
		return err
	})
	return m.ID, expires, err
}

// UploadTo takes in the content of a file that Create made.
//
// spec: client-server-api/modules/content_repo.md#put_matrixmediav3uploadservernamemediaid
func (s *Server) UploadTo(ctx context.Context, origin id.ServerName, mediaID string, u Upload) error {
	check := func(tx *storage.Tx) error {
		m, err := tx.GetMedia(origin, mediaID)
		missing, err := notFound(err)
		switch {
		case err != nil:
			return err
		case missing || origin != s.o.Name:
			return errNotFound
		case m.User != u.User:
			return matrixerr.New(matrixerr.Forbidden, "Somebody else made this media ID.")
		case m.Hash != "":
			return matrixerr.New(matrixerr.CannotOverwriteMedia, "The file has been uploaded already.")
		case m.Expires <= s.millis():
			return errNotFound
		}
		return nil
	}
	// Before anything is taken in, and once more when all has come.
	if err := s.o.DB.Read(ctx, check); err != nil {
		return err
	}
	err := s.receive(ctx, &u, mediaID, func(tx *storage.Tx, m *storage.Media) error {
		if err := check(tx); err != nil {
			return err
		}
		return tx.UpdateMediaContent(m)
	})
	if err == nil {
		s.announce(mediaID)
	}
	return err
}

// receive stores what is uploaded, and has write make it known.
func (s *Server) receive(ctx context.Context, u *Upload, mediaID string, write func(*storage.Tx, *storage.Media) error) error {
	if s.o.UserQuota > 0 {
		used, err := storage.Get(ctx, s.o.DB, func(tx *storage.Tx) (int64, error) { return tx.SumMediaOfUser(u.User) })
		if err != nil {
			return err
		}
		if used >= s.o.UserQuota {
			return errQuota
		}
	}
	return s.store(ctx, u.Body, s.o.MaxUpload, func(info blob.Info) error {
		now := s.millis()
		m := storage.Media{
			Origin: s.o.Name, ID: mediaID, User: u.User, Hash: info.Hash.String(), Size: info.Size,
			Type: cleanType(u.Type), Name: cleanName(u.Name), Created: now, Used: now,
		}
		return s.o.DB.Write(ctx, func(tx *storage.Tx) error {
			if err := s.admit(tx, &m); err != nil {
				return err
			}
			return write(tx, &m)
		})
	})
}

var errQuota = matrixerr.New(matrixerr.Forbidden, "You have uploaded as much as you may.")

// admit is what is looked at with the file's content known, in the transaction that makes it known.
func (s *Server) admit(tx *storage.Tx, m *storage.Media) error {
	if s.o.UserQuota > 0 {
		used, err := tx.SumMediaOfUser(m.User)
		if err != nil {
			return err
		}
		if used+m.Size > s.o.UserQuota {
			return errQuota
		}
	}
	var err error
	m.Quarantined, err = tx.IsQuarantined(m.Hash)
	return err
}

// store makes a blob of up to limit bytes, of which 0 is no limit, and has know write down what it
// is for: until it has, the blob is not swept.
func (s *Server) store(ctx context.Context, body io.Reader, limit int64, know func(blob.Info) error) error {
	w, err := s.o.Store.Create(ctx)
	if err != nil {
		return err
	}
	defer w.Abort()
	if limit > 0 {
		body = io.LimitReader(body, limit+1)
	}
	from := &readError{Reader: body}
	n, err := io.Copy(w, from)
	switch {
	case from.err != nil:
		return from.err
	case err != nil:
		return err
	case limit > 0 && n > limit:
		return matrixerr.New(matrixerr.TooLarge, "The file is larger than %d bytes.", limit)
	}
	s.sweeping.RLock()
	defer s.sweeping.RUnlock()
	info, err := w.Commit(ctx)
	if err != nil {
		return err
	}
	return know(info)
}

// readError tells what went wrong with reading from what went wrong with writing.
type readError struct {
	io.Reader
	err error
}

func (r *readError) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		r.err = matrixerr.New(matrixerr.Unknown, "The file did not come whole.").WithStatus(400)
		if matrixerr.CodeOf(err) != "" {
			r.err = err
		}
	}
	return n, err
}

// cleanType is a content type in the form in which it is served, "" where it is none.
func cleanType(t string) string {
	base, params, err := mime.ParseMediaType(t)
	if err != nil || len(t) > maxText {
		return ""
	}
	return mime.FormatMediaType(base, params)
}

// cleanName is a file name without what has no business in one: no path, and nothing that
// can't be seen.
func cleanName(name string) string {
	name = strings.ToValidUTF8(name, "")
	if i := strings.LastIndexAny(name, `/\`); i >= 0 {
		name = name[i+1:]
	}
	name = strings.Map(func(r rune) rune {
		if r < 0x20 || r == 0x7f || r >= 0x80 && r < 0xa0 || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069 {
			return -1
		}
		return r
	}, name)
	for len(name) > maxText {
		runes := []rune(name)
		name = string(runes[:len(runes)-1])
	}
	return name
}

// waiting is a file that somebody waits for.
type waiting struct {
	came chan struct{} // closed when it comes
	many int           // who wait
}

// wait gives what tells of a file of ours that it got its content. Whoever waits calls leave in the end.
func (s *Server) wait(mediaID string) *waiting {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := s.uploaded[mediaID]
	if w == nil {
		w = &waiting{came: make(chan struct{})}
		s.uploaded[mediaID] = w
	}
	w.many++
	return w
}

func (s *Server) leave(mediaID string, w *waiting) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if w.many--; w.many == 0 && s.uploaded[mediaID] == w {
		delete(s.uploaded, mediaID)
	}
}

func (s *Server) announce(mediaID string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if w := s.uploaded[mediaID]; w != nil {
		close(w.came)
		delete(s.uploaded, mediaID)
	}
}
