package media

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/tidwall/gjson"

	"parley/internal/id"
	"parley/media/blob"
	"parley/storage"
)

const (
	// tidyEvery is how often room is made, and tidyFirst how long after the start.
	tidyEvery = time.Hour
	tidyFirst = time.Minute
	// young is how old a blob must be before it is taken for one that nobody wants: whoever
	// uploads stores it first and says so afterwards.
	young = 2 * time.Hour
	// batch is how many files are looked at at once.
	batch = 200
)

// tidy makes room from time to time.
func (s *Server) tidy(ctx context.Context) {
	defer close(s.done)
	timer := time.NewTimer(tidyFirst)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		if err := s.Tidy(ctx); err != nil && ctx.Err() == nil {
			s.o.Log.Error("media: make room", "error", err)
		}
		timer.Reset(tidyEvery)
	}
}

// Tidy makes room: it gives up copies of other servers' files that are too old or too many,
// and blobs that belong to nothing.
func (s *Server) Tidy(ctx context.Context) error {
	if s.o.CacheAge > 0 {
		if err := s.evict(ctx, s.now().Add(-s.o.CacheAge).UnixMilli(), math.MaxInt64); err != nil {
			return err
		}
	}
	if s.o.CacheBytes > 0 {
		used, err := storage.Get(ctx, s.o.DB, func(tx *storage.Tx) (int64, error) { return tx.SumRemoteMedia() })
		if err != nil {
			return err
		}
		if used > s.o.CacheBytes {
			if err := s.evict(ctx, math.MaxInt64, used-s.o.CacheBytes); err != nil {
				return err
			}
		}
	}
	err := s.o.DB.Write(ctx, func(tx *storage.Tx) error {
		return errors.Join(tx.DeleteExpiredPreviews(s.millis()), tx.DeleteOrphanThumbnails())
	})
	if err != nil {
		return err
	}
	return s.sweep(ctx)
}

// evict gives up copies that were last used before a time, until so many bytes are free.
func (s *Server) evict(ctx context.Context, before, bytes int64) error {
	for bytes > 0 {
		list, err := storage.Get(ctx, s.o.DB, func(tx *storage.Tx) ([]storage.Media, error) {
			return tx.ListRemoteMediaByUse(before, batch)
		})
		if err != nil || len(list) == 0 {
			return err
		}
		for i, m := range list {
			if bytes <= 0 {
				list = list[:i]
				break
			}
			bytes -= m.Size
		}
		if _, err := s.remove(ctx, list); err != nil {
			return err
		}
	}
	return nil
}

// sweep deletes the blobs that no file and no thumbnail has.
func (s *Server) sweep(ctx context.Context) error {
	limit := s.now().Add(-young)
	return s.o.Store.Each(ctx, func(b blob.Info) error {
		if b.Stored.After(limit) {
			return nil
		}
		return s.drop(ctx, b.Hash)
	})
}

// drop deletes a blob unless something has it, or somebody stored it just now: that may have been in
// another process, which has yet to say what for.
func (s *Server) drop(ctx context.Context, h blob.Hash) error {
	s.sweeping.Lock()
	defer s.sweeping.Unlock()
	used, err := storage.Get(ctx, s.o.DB, func(tx *storage.Tx) (bool, error) { return tx.IsContentUsed(h.String()) })
	if err != nil || used {
		return err
	}
	info, err := s.o.Store.Stat(ctx, h)
	if errors.Is(err, blob.ErrNotFound) || err == nil && s.now().Sub(info.Stored) < young {
		return nil
	}
	if err != nil {
		return err
	}
	return s.o.Store.Delete(ctx, h)
}

// remove forgets files, and with the last of a content its thumbnails. Their blobs go when
// they are swept, or at once if they are old enough that nobody can be uploading the same.
func (s *Server) remove(ctx context.Context, list []storage.Media) (n int, err error) {
	var free []string
	err = s.o.DB.Write(ctx, func(tx *storage.Tx) error {
		n, free = 0, nil
		for _, m := range list {
			if err := tx.DeleteMedia(m.Origin, m.ID); err != nil {
				return err
			}
			n++
			if m.Hash == "" {
				continue
			}
			used, err := tx.IsContentUsed(m.Hash)
			if err != nil {
				return err
			}
			if used {
				continue
			}
			free = append(free, m.Hash)
			thumbnails, err := tx.ListThumbnails(m.Hash)
			if err != nil {
				return err
			}
			for _, t := range thumbnails {
				free = append(free, t.Hash)
			}
			if err := tx.DeleteThumbnails(m.Hash); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	for _, hash := range free {
		h, err := blob.ParseHash(hash)
		if err != nil {
			return n, err
		}
		if err := s.drop(ctx, h); err != nil {
			return n, err
		}
	}
	return n, nil
}

// Quarantine has a file, and all others with the same content, be served to nobody, or be
// served again. The content stays, so that it is known when it comes again.
func (s *Server) Quarantine(ctx context.Context, origin id.ServerName, mediaID string, quarantined bool) (n int64, err error) {
	err = s.o.DB.Write(ctx, func(tx *storage.Tx) error {
		m, err := tx.GetMedia(origin, mediaID)
		if missing, err := notFound(err); err != nil {
			return err
		} else if missing || m.Hash == "" {
			return errNotFound
		}
		n, err = tx.UpdateMediaQuarantined(m.Hash, quarantined)
		return err
	})
	return n, err
}

// Delete removes one file.
func (s *Server) Delete(ctx context.Context, origin id.ServerName, mediaID string) error {
	m, err := s.row(ctx, Want{Origin: origin, ID: mediaID})
	if missing, err := notFound(err); err != nil {
		return err
	} else if missing {
		return errNotFound
	}
	_, err = s.remove(ctx, []storage.Media{m})
	return err
}

// DeleteOfUser removes all files of one of our users, and says how many they were.
func (s *Server) DeleteOfUser(ctx context.Context, user id.UserID) (int, error) {
	return s.removeAll(ctx, func(tx *storage.Tx, _ string) ([]storage.Media, error) { return tx.ListMediaOfUser(user, batch) })
}

// DeleteOfServer removes all copies of a server's files.
func (s *Server) DeleteOfServer(ctx context.Context, server id.ServerName) (int, error) {
	if server == s.o.Name {
		return 0, fmt.Errorf("the files of %s are our own and no copies", server)
	}
	return s.removeAll(ctx, func(tx *storage.Tx, after string) ([]storage.Media, error) {
		return tx.ListMediaOfServer(server, after, batch)
	})
}

func (s *Server) removeAll(ctx context.Context, list func(tx *storage.Tx, after string) ([]storage.Media, error)) (total int, err error) {
	after := ""
	for {
		part, err := storage.Get(ctx, s.o.DB, func(tx *storage.Tx) ([]storage.Media, error) { return list(tx, after) })
		if err != nil || len(part) == 0 {
			return total, err
		}
		n, err := s.remove(ctx, part)
		total += n
		if err != nil {
			return total, err
		}
		after = part[len(part)-1].ID
	}
}

// DeleteOfRoom removes the files that events of a room name, as far as they are here.
func (s *Server) DeleteOfRoom(ctx context.Context, room id.RoomID) (total int, err error) {
	var after storage.EventNID
	for {
		var found []storage.Media
		more := false
		err := s.o.DB.Read(ctx, func(tx *storage.Tx) error {
			found, more = nil, false
			r, err := tx.GetRoom(room)
			if err != nil {
				return err
			}
			events, err := tx.ListEventsNamingMedia(r.NID, after, batch)
			if err != nil {
				return err
			}
			for _, e := range events {
				after, more = e.NID, true
				for _, uri := range named(gjson.ParseBytes(e.JSON).Get("content"), nil) {
					m, err := tx.GetMedia(uri.server, uri.id)
					if missing, err := notFound(err); err != nil {
						return err
					} else if !missing {
						found = append(found, m)
					}
				}
			}
			return nil
		})
		if missing, err := notFound(err); err != nil || missing {
			return total, err
		}
		n, err := s.remove(ctx, found)
		total += n
		if err != nil || !more {
			return total, err
		}
	}
}

// uri is what an mxc: URI names.
type uri struct {
	server id.ServerName
	id     string
}

// named are the files that a value names, at whatever depth, added to out.
func named(v gjson.Result, out []uri) []uri {
	if v.IsObject() || v.IsArray() {
		v.ForEach(func(_, inner gjson.Result) bool {
			out = named(inner, out)
			return true
		})
		return out
	}
	if u, ok := parseURI(v.String()); ok && v.Type == gjson.String {
		out = append(out, u)
	}
	return out
}

// parseURI reads "mxc://server/id".
//
// spec: client-server-api/modules/content_repo.md#matrix-content-mxc-uris
func parseURI(s string) (u uri, ok bool) {
	const scheme = "mxc://"
	if len(s) < len(scheme) || s[:len(scheme)] != scheme {
		return u, false
	}
	rest := s[len(scheme):]
	for i := range len(rest) {
		if rest[i] == '/' {
			server, err := id.ParseServerName(rest[:i])
			return uri{server, rest[i+1:]}, err == nil && validID(rest[i+1:])
		}
	}
	return u, false
}
