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
	m, err := s.receive(ctx, &u)
	if err != nil {
		return "", err
	}
	m.ID = newID()
	err = s.o.DB.Write(ctx, func(tx *storage.Tx) error {
		if err := s.admit(tx, &m); err != nil {
			return err
		}
		_, err := tx.InsertMedia(&m)
		return err
	})
	return m.ID, err
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
	m, err := s.receive(ctx, &u)
	if err != nil {
		return err
	}
	m.ID = mediaID
	err = s.o.DB.Write(ctx, func(tx *storage.Tx) error {
		if err := check(tx); err != nil {
			return err
		}
		if err := s.admit(tx, &m); err != nil {
			return err
		}
		return tx.UpdateMediaContent(&m)
	})
	if err == nil {
		s.announce(mediaID)
	}
	return err
}

// receive stores what is uploaded.
func (s *Server) receive(ctx context.Context, u *Upload) (storage.Media, error) {
	if s.o.UserQuota > 0 {
		used, err := storage.Get(ctx, s.o.DB, func(tx *storage.Tx) (int64, error) { return tx.SumMediaOfUser(u.User) })
		if err != nil {
			return storage.Media{}, err
		}
		if used >= s.o.UserQuota {
			return storage.Media{}, errQuota
		}
	}
	info, err := s.store(ctx, u.Body, s.o.MaxUpload)
	if err != nil {
		return storage.Media{}, err
	}
	now := s.millis()
	return storage.Media{
		Origin: s.o.Name, User: u.User, Hash: info.Hash.String(), Size: info.Size,
		Type: cleanType(u.Type), Name: cleanName(u.Name), Created: now, Used: now,
	}, nil
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

// store makes a blob of up to limit bytes; 0 is no limit.
func (s *Server) store(ctx context.Context, body io.Reader, limit int64) (blob.Info, error) {
	w, err := s.o.Store.Create(ctx)
	if err != nil {
		return blob.Info{}, err
	}
	defer w.Abort()
	if limit > 0 {
		body = io.LimitReader(body, limit+1)
	}
	from := &readError{Reader: body}
	n, err := io.Copy(w, from)
	switch {
	case from.err != nil:
		return blob.Info{}, from.err
	case err != nil:
		return blob.Info{}, err
	case limit > 0 && n > limit:
		return blob.Info{}, matrixerr.New(matrixerr.TooLarge, "The file is larger than %d bytes.", limit)
	}
	return w.Commit(ctx)
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

// wait gives a channel that is closed when a file of ours gets its content.
func (s *Server) wait(mediaID string) <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.uploaded[mediaID]
	if c == nil {
		c = make(chan struct{})
		s.uploaded[mediaID] = c
	}
	return c
}

func (s *Server) announce(mediaID string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.uploaded[mediaID]; c != nil {
		close(c)
		delete(s.uploaded, mediaID)
	}
}
