package media

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/url"
	"time"

	"parley/internal/matrixerr"
	"parley/media/blob"
	"parley/media/preview"
	"parley/media/thumbnail"
	"parley/storage"
)

const (
	// previewLife is for how long a preview is remembered, and failureLife for how long that none
	// could be made.
	previewLife = time.Hour
	failureLife = 5 * time.Minute
	// previewTime is how long the servers of a page may take in all.
	previewTime = 30 * time.Second
	// maxPreviews is how many are made at once.
	maxPreviews = 8
	// maxPicture is the largest picture of a page.
	maxPicture = 10 << 20
)

var errNoPreview = matrixerr.New(matrixerr.Unknown, "No preview can be made of that address.").WithStatus(502)

// Preview is what a page says of itself, as an object of OpenGraph properties in JSON. Its picture
// becomes a file of this server, which lives as long as a copy of another server's file.
//
// spec: client-server-api/modules/content_repo.md#get_matrixclientv1mediapreview_url
func (s *Server) Preview(ctx context.Context, address string) (json.RawMessage, error) {
	if s.o.Previews == nil {
		return nil, matrixerr.New(matrixerr.NotFound, "This server makes no previews.")
	}
	u, err := s.o.Previews.Parse(address)
	if err != nil {
		return nil, matrixerr.New(matrixerr.InvalidParam, "There can be no preview of that address: %v.", err)
	}
	sum := sha256.Sum256([]byte(u.String()))
	hash := hex.EncodeToString(sum[:])
	body, err := s.previews.Do(ctx, hash, func(ctx context.Context) (string, error) { return s.preview(ctx, u, hash) })
	if err != nil {
		return nil, err
	}
	if body == "" {
		return nil, errNoPreview
	}
	return json.RawMessage(body), nil
}

// preview remembers a preview or makes one; it is "" where none can be made.
func (s *Server) preview(ctx context.Context, u *url.URL, hash string) (string, error) {
	body, err := storage.Get(ctx, s.o.DB, func(tx *storage.Tx) (string, error) { return tx.GetPreview(hash, s.millis()) })
	if missing, err := notFound(err); err != nil || !missing {
		return body, err
	}
	select {
	case s.previewing <- struct{}{}:
		defer func() { <-s.previewing }()
	case <-ctx.Done():
		return "", ctx.Err()
	}
	life := previewLife
	limited, cancel := context.WithTimeout(ctx, previewTime)
	defer cancel()
	body, err = s.makePreview(limited, u)
	if err != nil {
		if ctx.Err() != nil {
			return "", ctx.Err()
		}
		// It is told to nobody but the operator: it may tell what only this server can reach.
		s.o.Log.InfoContext(ctx, "no preview can be made", "url", u.Redacted(), "error", err)
		body, life = "", failureLife
	}
	return body, s.o.DB.Write(ctx, func(tx *storage.Tx) error {
		return tx.InsertPreview(hash, body, s.now().Add(life).UnixMilli())
	})
}

func (s *Server) makePreview(ctx context.Context, u *url.URL) (string, error) {
	page, picture, err := s.o.Previews.Read(ctx, u)
	if err != nil {
		return "", err
	}
	if picture == nil && page.Image != nil {
		if picture, err = s.o.Previews.Get(ctx, page.Image); err != nil {
			// A page is worth showing without its picture.
			s.o.Log.DebugContext(ctx, "a page's picture can't be had", "url", page.Image.Redacted(), "error", err)
		}
	}
	out := make(map[string]any, len(page.Properties)+5)
	for key, value := range page.Properties {
		out[key] = value
	}
	if picture != nil {
		err := s.keepPicture(ctx, picture, out)
		if ctx.Err() == nil && matrixerr.CodeOf(err) == "" && err != nil {
			return "", err // it is this server's fault
		}
	}
	body, err := json.Marshal(out)
	return string(body), err
}

// keepPicture stores a page's picture, and says of it what is known. An error with a code is of
// the picture's making.
func (s *Server) keepPicture(ctx context.Context, a *preview.Answer, out map[string]any) error {
	defer a.Body.Close()
	return s.store(ctx, a.Body, maxPicture, func(info blob.Info) error { return s.insertPicture(ctx, info, a.Name(), out) })
}

func (s *Server) insertPicture(ctx context.Context, info blob.Info, name string, out map[string]any) error {
	f, err := s.open(ctx, info.Hash.String())
	if err != nil {
		return err
	}
	defer f.Close()
	// What we can't look at may be anything, whatever its server calls it.
	look, err := thumbnail.Look(f)
	if err != nil {
		return errNoPicture
	}
	now := s.millis()
	m := storage.Media{
		Origin: s.o.Name, ID: newID(), Hash: info.Hash.String(), Size: info.Size,
		Type: "image/" + look.Format, Name: cleanName(name), Created: now, Used: now,
	}
	err = s.o.DB.Write(ctx, func(tx *storage.Tx) error {
		var err error
		if m.Quarantined, err = tx.IsQuarantined(m.Hash); err != nil || m.Quarantined {
			return err
		}
		_, err = tx.InsertMedia(&m)
		return err
	})
	if err != nil || m.Quarantined {
		return err
	}
	out["og:image"] = "mxc://" + string(m.Origin) + "/" + m.ID
	out["og:image:type"], out["og:image:width"], out["og:image:height"] = m.Type, look.Width, look.Height
	out["matrix:image:size"] = m.Size
	return nil
}
