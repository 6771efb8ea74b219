package media

import (
	"bytes"
	"context"
	"errors"

	"parley/internal/matrixerr"
	"parley/media/blob"
	"parley/media/thumbnail"
	"parley/storage"
)

// ThumbnailRequest is what thumbnail is wanted of a file.
type ThumbnailRequest struct {
	Width, Height int
	// Method is "crop" or "scale"; "" for the latter.
	Method   string
	Animated bool
}

// size is one of those in which thumbnails are made: so many, and not one for each number that
// somebody thinks of.
type size struct {
	width, height int
	crop          bool
}

// sizes are those that the specification names, and some for larger screens.
//
// spec: client-server-api/modules/content_repo.md#thumbnails
var sizes = []size{
	{32, 32, true}, {96, 96, true}, {320, 320, true}, {640, 640, true},
	{320, 240, false}, {640, 480, false}, {800, 600, false}, {1600, 1200, false},
}

// sizeFor is the smallest of the sizes that is no smaller than what is asked for; ok is false
// where there is none, and only the picture itself will do.
func sizeFor(r ThumbnailRequest) (s size, ok bool) {
	for _, s := range sizes {
		if s.crop == (r.Method == "crop") && s.width >= r.Width && s.height >= r.Height {
			return s, true
		}
	}
	return size{}, false
}

// errNoPicture is the answer for what no thumbnail can be made of.
var errNoPicture = matrixerr.New(matrixerr.Unknown, "No thumbnail can be made of this file.").WithStatus(400)

// Thumbnail opens a thumbnail of a file, or the file itself where it is no larger.
//
// spec: client-server-api/modules/content_repo.md#get_matrixclientv1mediathumbnailservernamemediaid
func (s *Server) Thumbnail(ctx context.Context, w Want, r ThumbnailRequest) (*File, error) {
	if r.Width < 1 || r.Height < 1 || r.Method != "" && r.Method != "crop" && r.Method != "scale" {
		return nil, matrixerr.New(matrixerr.InvalidParam, "width and height are at least 1, and method is crop or scale")
	}
	f, err := s.Get(ctx, w)
	if err != nil {
		return nil, err
	}
	small, err := s.thumbnail(ctx, f, r)
	if err != nil || small == nil {
		if err != nil {
			err = errors.Join(err, f.Close())
			if w.Origin != s.o.Name && matrixerr.Is(err, matrixerr.TooLarge) {
				err = matrixerr.New(matrixerr.TooLarge, "The picture is too large to make a thumbnail of.").WithStatus(502)
			}
			return nil, err
		}
		return f, nil
	}
	return small, f.Close()
}

// thumbnail gives a thumbnail of a file, nil where the file is its own.
func (s *Server) thumbnail(ctx context.Context, f *File, r ThumbnailRequest) (*File, error) {
	info, err := thumbnail.Look(f)
	if errors.Is(err, thumbnail.ErrUnsupported) {
		return nil, errNoPicture
	}
	if err != nil {
		return nil, err
	}
	wanted, ok := sizeFor(r)
	if _, err := f.Seek(0, 0); err != nil {
		return nil, err
	}
	animated := r.Animated && info.Format == "gif"
	still := info.Format == "jpeg" || info.Format == "png" || animated
	request := thumbnail.Request{Width: wanted.width, Height: wanted.height, Crop: wanted.crop, Animated: animated, MaxPixels: s.o.MaxPixels}
	switch {
	case !ok && still:
		return nil, nil
	case !ok: // it must not move, so one is made of its first frame, as large as it is
		wanted = size{info.Width, info.Height, false}
		request.Width, request.Height = info.Width, info.Height
	case info.Fits(request) && still:
		return nil, nil
	}
	row, err := s.made(ctx, f.Hash, wanted, animated)
	if missing, err := notFound(err); err != nil {
		return nil, err
	} else if !missing {
		small, err := s.open(ctx, row.Hash)
		if err == nil {
			small.Type, small.Name = row.Type, ""
			return small, nil
		}
		if !errors.Is(err, blob.ErrNotFound) {
			return nil, err
		}
	}
	return s.makeOnce(ctx, f.Hash, info, request, wanted)
}

func method(crop bool) string {
	if crop {
		return "crop"
	}
	return "scale"
}

func (s *Server) made(ctx context.Context, hash string, z size, animated bool) (storage.Thumbnail, error) {
	return storage.Get(ctx, s.o.DB, func(tx *storage.Tx) (storage.Thumbnail, error) {
		return tx.GetThumbnail(hash, z.width, z.height, method(z.crop), animated)
	})
}

// makeOnce makes a thumbnail, once for all who ask at the same time.
func (s *Server) makeOnce(ctx context.Context, hash string, info thumbnail.Info, r thumbnail.Request, z size) (*File, error) {
	row, err := s.makes.Do(ctx, thumbnailName{hash, z, r.Animated}, func(ctx context.Context) (storage.Thumbnail, error) {
		return s.make(ctx, hash, info, r, z)
	})
	if err != nil {
		return nil, err
	}
	f, err := s.open(ctx, row.Hash)
	if err != nil {
		return nil, err
	}
	f.Type = row.Type
	return f, nil
}

// thumbnailName names a thumbnail that is being made.
type thumbnailName struct {
	hash     string
	size     size
	animated bool
}

func (s *Server) make(ctx context.Context, hash string, info thumbnail.Info, r thumbnail.Request, z size) (storage.Thumbnail, error) {
	select {
	case s.workers <- struct{}{}:
		defer func() { <-s.workers }()
	case <-ctx.Done():
		return storage.Thumbnail{}, ctx.Err()
	}
	f, err := s.open(ctx, hash)
	if err != nil {
		return storage.Thumbnail{}, err
	}
	defer f.Close()
	t, err := thumbnail.Make(f, info, r)
	switch {
	case errors.Is(err, thumbnail.ErrTooLarge):
		return storage.Thumbnail{}, matrixerr.New(matrixerr.TooLarge, "The picture is too large to make a thumbnail of.")
	case errors.Is(err, thumbnail.ErrUnsupported):
		s.o.Log.DebugContext(ctx, "no thumbnail can be made", "hash", hash, "error", err)
		return storage.Thumbnail{}, errNoPicture
	case err != nil:
		return storage.Thumbnail{}, err
	}
	row := storage.Thumbnail{
		Source: hash, Width: z.width, Height: z.height, Method: method(z.crop), Animated: r.Animated, Type: t.Type,
	}
	return row, s.store(ctx, bytes.NewReader(t.Data), 0, func(info blob.Info) error {
		row.Hash, row.Size = info.Hash.String(), info.Size
		return s.o.DB.Write(ctx, func(tx *storage.Tx) error { return tx.InsertThumbnail(&row) })
	})
}
