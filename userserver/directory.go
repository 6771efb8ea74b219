package userserver

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/tidwall/gjson"

	"parley/internal/id"
	"parley/internal/words"
	"parley/storage"
)

// DirectoryUser is a user that a search has found.
type DirectoryUser struct {
	User        id.UserID
	DisplayName string
	AvatarURL   string
}

const (
	// maxSought is how many words a search may have; more are left out.
	maxSought = 8
	// maxCandidates bounds the users whom a search looks at for each way in which it finds some, and
	// candidateBatch is how many of them at once.
	maxCandidates, candidateBatch = 2000, 250
	// fillBatch is how many users are taken into the directory at once.
	fillBatch = 500
)

// SearchUsers are up to limit users of whom each word of term begins a word of the display name or of the user
// ID's localpart, or all of them, one after the other, do so in the user ID: those who share a room with the one who asks, or are
// in one that is open to all; and of our own all, if the node is set so. Those come first whose name or ID the whole
// term is, or begins; then those in whose name it stands. limited says that there are or may be more.
//
// All are found where no more than maxCandidates have some one of the words; else those are looked at
// whose names have the words in the order of the term, the first of those with the rarest word, and the members of the
// asker's small rooms.
//
// spec: client-server-api/index.md#user-directory
func (s *Server) SearchUsers(ctx context.Context, asker id.UserID, term string, limit int) (users []DirectoryUser, limited bool, err error) {
	sought := words.Split(term)
	sought = sought[:min(len(sought), maxSought)]
	if len(sought) == 0 {
		return nil, false, nil
	}
	err = s.db.Read(ctx, func(tx *storage.Tx) error {
		f := &finding{Server: s, tx: tx, asker: asker, words: sought, limit: limit, seen: map[id.UserID]bool{asker: true}}
		err := f.find()
		users, limited = f.found, f.more
		return err
	})
	slices.SortFunc(users, func(a, b DirectoryUser) int {
		return cmp.Or(cmp.Compare(rank(sought, &a), rank(sought, &b)), cmp.Compare(a.User, b.User))
	})
	if len(users) > limit {
		users, limited = users[:limit], true
	}
	return users, limited, err
}

// finding is one search.
type finding struct {
	*Server
	tx    *storage.Tx
	asker id.UserID
	words []string
	limit int
	// seen are those who were looked at, found who can be shown, and more says that some were not looked at.
	seen  map[id.UserID]bool
	found []DirectoryUser
	more  bool
}

func (f *finding) find() error {
	// Who has the words one after the other is who is meant most often, and few have them.
	phrase, err := f.tx.ListDirectory(words.Phrase(f.words), maxCandidates+1)
	if err != nil {
		return err
	}
	if err := f.look(phrase); err != nil || len(phrase) == 0 && len(f.words) == 1 {
		return err
	}
	rarest := phrase
	if len(f.words) > 1 {
		if rarest, err = f.rarest(); err != nil {
			return err
		}
		if err := f.look(rarest); err != nil {
			return err
		}
	}
	if len(rarest) <= maxCandidates || len(f.found) > f.limit {
		return nil
	}
	f.more = true
	neighbours, err := f.tx.ListNeighbours(f.asker, maxCandidates)
	if err != nil {
		return err
	}
	return f.look(neighbours)
}

// rarest are the users who have that one of the words which the fewest have.
func (f *finding) rarest() (out []id.UserID, err error) {
	for i, w := range f.words {
		users, err := f.tx.ListDirectory(w, maxCandidates+1)
		if err != nil || len(users) == 0 {
			return nil, err
		}
		if i == 0 || len(users) < len(out) {
			out = users
		}
	}
	return out, nil
}

// look adds those of some users who fit and may be found, until there are more than were asked for.
func (f *finding) look(users []id.UserID) error {
	users = slices.DeleteFunc(slices.Clone(users), func(u id.UserID) bool {
		seen := f.seen[u]
		f.seen[u] = true
		return seen
	})
	for batch := range slices.Chunk(users, candidateBatch) {
		if len(f.found) > f.limit {
			f.more = true
			return nil
		}
		entries, err := f.tx.ListFindable(f.asker, f.findAll, batch)
		if err != nil {
			return err
		}
		for i := range entries {
			if u := shown(&entries[i]); fits(f.words, &u) {
				f.found = append(f.found, u)
			}
		}
	}
	return nil
}

// shown is what a search shows of a user.
func shown(e *storage.DirectoryEntry) DirectoryUser {
	if len(e.Content) == 0 {
		return DirectoryUser{e.User, unquote(e.Name), unquote(e.Avatar)}
	}
	content := gjson.GetManyBytes(e.Content, "content.displayname", "content.avatar_url")
	return DirectoryUser{e.User, content[0].Str, content[1].Str}
}

// fits says whether a search for words is to find a user.
func fits(sought []string, u *DirectoryUser) bool {
	phrase := words.Phrase(sought)
	if slices.ContainsFunc(words.Phrases(u.User, u.DisplayName), func(p string) bool { return strings.HasPrefix(p, phrase) }) {
		return true
	}
	own := append(words.Split(u.DisplayName), words.Split(u.User.Localpart())...)
	return !slices.ContainsFunc(sought, func(w string) bool {
		return !slices.ContainsFunc(own, func(word string) bool { return strings.HasPrefix(word, w) })
	})
}

// rank is lower the better a user fits: those last who have no profile.
func rank(sought []string, u *DirectoryUser) int {
	phrase := words.Phrase(sought)
	best := 3
	for _, text := range []string{u.DisplayName, u.User.Localpart(), string(u.User)} {
		switch whole := words.Phrase(words.Split(text)); {
		case whole == phrase:
			best = 0
		case strings.HasPrefix(whole, phrase):
			best = min(best, 1)
		case strings.Contains(" "+whole, " "+phrase):
			best = min(best, 2)
		}
	}
	best *= 2
	if u.DisplayName == "" && u.AvatarURL == "" {
		best++
	}
	return best
}

// listAs has a user of ours found by a new display name.
func listAs(tx *storage.Tx, user id.UserID, old, name string) error {
	before, after := words.Phrases(user, old), words.Phrases(user, name)
	gone := slices.DeleteFunc(before, func(p string) bool { return slices.Contains(after, p) })
	if err := tx.DeleteDirectory(user, gone); err != nil {
		return err
	}
	return tx.InsertDirectory(user, after)
}

// unlist has a user of ours not be found any more.
func unlist(tx *storage.Tx, user id.UserID) error {
	name, err := tx.GetProfileField(user, displayNameField)
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		return err
	}
	return tx.DeleteDirectory(user, words.Phrases(user, unquote(string(name))))
}

// fillDirectory takes users into the directory who were there before it was, until none is left or the server is closed.
func (s *Server) fillDirectory() {
	for {
		more, err := s.fillSome(s.running)
		switch {
		case err == nil && !more || s.running.Err() != nil:
			return
		case err != nil:
			s.log.Error("take users into the directory", "error", err)
			select {
			case <-s.running.Done():
			case <-time.After(time.Second):
			}
		}
	}
}

// fillSome takes in some of them; more says that some are left.
func (s *Server) fillSome(ctx context.Context) (more bool, err error) {
	users, err := storage.Get(ctx, s.db, func(tx *storage.Tx) ([]id.UserID, error) {
		users, _, err := tx.ListDirectoryPending(1)
		return users, err
	})
	if err != nil || len(users) == 0 {
		return false, err
	}
	return true, s.db.Write(ctx, func(tx *storage.Tx) error {
		users, names, err := tx.ListDirectoryPending(fillBatch)
		if err != nil {
			return err
		}
		for i := range names {
			u := shown(&names[i])
			if err := tx.InsertDirectory(u.User, words.Phrases(u.User, u.DisplayName)); err != nil {
				return err
			}
		}
		return tx.DeleteDirectoryPending(users)
	})
}
