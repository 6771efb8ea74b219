package storage

import (
	"parley/internal/id"
	"parley/storage/sqldb"
)

// Media is a row of media: a file of one of our users, or a copy of one of another server.
type Media struct {
	Origin id.ServerName
	ID     string
	// User is who uploaded it, "" for a copy.
	User id.UserID
	// Hash names the content; "" where it has not been uploaded yet, which it may be until Expires.
	Hash string
	Size int64
	// Type and Name are what the uploader says of it.
	Type, Name string
	// Created, Used and Expires are in milliseconds since 1970; Used is exact to the day.
	Created, Used, Expires int64
	// Quarantined media is served to nobody.
	Quarantined bool
}

const mediaColumns = `origin, media_id, user_id, hash, size, type, name, created, used, expires, quarantined`

func scanMedia(row sqldb.Scanner) (m Media, err error) {
	return m, row.Scan(&m.Origin, &m.ID, &m.User, &m.Hash, &m.Size, &m.Type, &m.Name, &m.Created, &m.Used, &m.Expires, &m.Quarantined)
}

// InsertMedia adds a file; inserted is false where there is one by that name already.
func (tx *Tx) InsertMedia(m *Media) (inserted bool, err error) {
	n, err := tx.Exec(`INSERT INTO media (`+mediaColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
		ON CONFLICT (origin, media_id) DO NOTHING`,
		m.Origin, m.ID, m.User, m.Hash, m.Size, m.Type, m.Name, m.Created, m.Used, m.Expires, m.Quarantined)
	return n > 0, err
}

// UpdateMediaContent gives a file the content that was uploaded for it.
func (tx *Tx) UpdateMediaContent(m *Media) error {
	_, err := tx.Exec(`UPDATE media SET hash = $3, size = $4, type = $5, name = $6, expires = 0, quarantined = $7
		WHERE origin = $1 AND media_id = $2`, m.Origin, m.ID, m.Hash, m.Size, m.Type, m.Name, m.Quarantined)
	return err
}

// GetMedia is one file.
func (tx *Tx) GetMedia(origin id.ServerName, mediaID string) (Media, error) {
	return one(tx, scanMedia, `SELECT `+mediaColumns+` FROM media WHERE origin = $1 AND media_id = $2`, origin, mediaID)
}

// UpdateMediaUsed notes when a file was last asked for.
func (tx *Tx) UpdateMediaUsed(origin id.ServerName, mediaID string, used int64) error {
	_, err := tx.Exec(`UPDATE media SET used = $3 WHERE origin = $1 AND media_id = $2`, origin, mediaID, used)
	return err
}

// UpdateMediaQuarantined says of all files with a content whether they are quarantined.
func (tx *Tx) UpdateMediaQuarantined(hash string, quarantined bool) (int64, error) {
	return tx.Exec(`UPDATE media SET quarantined = $2 WHERE hash = $1 AND quarantined <> $2`, hash, quarantined)
}

// IsQuarantined says whether a content is quarantined.
func (tx *Tx) IsQuarantined(hash string) (bool, error) {
	var one int
	err := tx.QueryRow(`SELECT 1 FROM media WHERE hash = $1 AND quarantined LIMIT 1`, []any{hash}, &one)
	return found(err)
}

// DeleteMedia removes a file. Its content may be that of others, too.
func (tx *Tx) DeleteMedia(origin id.ServerName, mediaID string) error {
	_, err := tx.Exec(`DELETE FROM media WHERE origin = $1 AND media_id = $2`, origin, mediaID)
	return err
}

// CountPendingMedia is how many files of a user wait for their content.
func (tx *Tx) CountPendingMedia(user id.UserID, now int64) (n int, err error) {
	err = tx.QueryRow(`SELECT COUNT(*) FROM media WHERE user_id = $1 AND hash = '' AND expires > $2`, []any{user, now}, &n)
	return n, err
}

// DeleteExpiredMedia removes the files whose content was not uploaded in time.
func (tx *Tx) DeleteExpiredMedia(user id.UserID, now int64) error {
	_, err := tx.Exec(`DELETE FROM media WHERE user_id = $1 AND hash = '' AND expires <= $2`, user, now)
	return err
}

// SumMediaOfUser is how many bytes a user's files have.
func (tx *Tx) SumMediaOfUser(user id.UserID) (bytes int64, err error) {
	err = tx.QueryRow(`SELECT COALESCE(SUM(size), 0) FROM media WHERE user_id = $1`, []any{user}, &bytes)
	return bytes, err
}

// SumRemoteMedia is how many bytes the copies of other servers' files have.
func (tx *Tx) SumRemoteMedia() (bytes int64, err error) {
	err = tx.QueryRow(`SELECT COALESCE(SUM(size), 0) FROM media WHERE user_id = ''`, nil, &bytes)
	return bytes, err
}

// ListRemoteMediaByUse are up to limit copies of other servers' files that were last used
// before a time, those longest unused first. Quarantined ones are kept, to be known again.
func (tx *Tx) ListRemoteMediaByUse(before int64, limit int) ([]Media, error) {
	return sqldb.List(tx.Tx, scanMedia, `SELECT `+mediaColumns+` FROM media
		WHERE user_id = '' AND used < $1 AND NOT quarantined ORDER BY used LIMIT $2`, before, limit)
}

// ListMediaOfUser are up to limit files of a user, the newest first.
func (tx *Tx) ListMediaOfUser(user id.UserID, limit int) ([]Media, error) {
	return sqldb.List(tx.Tx, scanMedia, `SELECT `+mediaColumns+` FROM media
		WHERE user_id = $1 ORDER BY created DESC LIMIT $2`, user, limit)
}

// ListMediaOfServer are up to limit files of a server whose IDs come after a given one, in
// the order of IDs.
func (tx *Tx) ListMediaOfServer(origin id.ServerName, after string, limit int) ([]Media, error) {
	return sqldb.List(tx.Tx, scanMedia, `SELECT `+mediaColumns+` FROM media
		WHERE origin = $1 AND media_id > $2 ORDER BY media_id LIMIT $3`, origin, after, limit)
}

// ListMedia are up to limit files of all servers that come after a given one, in order.
func (tx *Tx) ListMedia(afterOrigin id.ServerName, afterID string, limit int) ([]Media, error) {
	return sqldb.List(tx.Tx, scanMedia, `SELECT `+mediaColumns+` FROM media
		WHERE (origin, media_id) > ($1, $2) ORDER BY origin, media_id LIMIT $3`, afterOrigin, afterID, limit)
}

// IsContentUsed says whether a file or a thumbnail has a content.
func (tx *Tx) IsContentUsed(hash string) (bool, error) {
	var one int
	err := tx.QueryRow(`SELECT 1 FROM media WHERE hash = $1 AND hash <> '' UNION ALL SELECT 1 FROM thumbnails WHERE hash = $1 LIMIT 1`, []any{hash}, &one)
	return found(err)
}

// Thumbnail is a row of thumbnails.
type Thumbnail struct {
	// Source is the content of which it is.
	Source        string
	Width, Height int
	Method        string // "crop" or "scale"
	Animated      bool
	// Hash is its own content.
	Hash string
	Size int64
	Type string
}

const thumbnailColumns = `source, width, height, method, animated, hash, size, type`

func scanThumbnail(row sqldb.Scanner) (t Thumbnail, err error) {
	return t, row.Scan(&t.Source, &t.Width, &t.Height, &t.Method, &t.Animated, &t.Hash, &t.Size, &t.Type)
}

// GetThumbnail is the thumbnail of a content that was made for a request.
func (tx *Tx) GetThumbnail(source string, width, height int, method string, animated bool) (Thumbnail, error) {
	return one(tx, scanThumbnail, `SELECT `+thumbnailColumns+` FROM thumbnails
		WHERE source = $1 AND width = $2 AND height = $3 AND method = $4 AND animated = $5`, source, width, height, method, animated)
}

// InsertThumbnail adds a thumbnail, in place of one that there is.
func (tx *Tx) InsertThumbnail(t *Thumbnail) error {
	_, err := tx.Exec(`INSERT INTO thumbnails (`+thumbnailColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
		ON CONFLICT (source, width, height, method, animated) DO UPDATE SET hash = excluded.hash, size = excluded.size, type = excluded.type`,
		t.Source, t.Width, t.Height, t.Method, t.Animated, t.Hash, t.Size, t.Type)
	return err
}

// ListThumbnails are all thumbnails of a content.
func (tx *Tx) ListThumbnails(source string) ([]Thumbnail, error) {
	return sqldb.List(tx.Tx, scanThumbnail, `SELECT `+thumbnailColumns+` FROM thumbnails WHERE source = $1`, source)
}

// DeleteThumbnails removes all thumbnails of a content.
func (tx *Tx) DeleteThumbnails(source string) error {
	_, err := tx.Exec(`DELETE FROM thumbnails WHERE source = $1`, source)
	return err
}

// DeleteOrphanThumbnails removes the thumbnails of contents that no file has any more: they were
// made while the last was removed.
func (tx *Tx) DeleteOrphanThumbnails() error {
	_, err := tx.Exec(`DELETE FROM thumbnails WHERE NOT EXISTS (SELECT 1 FROM media WHERE media.hash = thumbnails.source AND media.hash <> '')`)
	return err
}

// ListEventsNamingMedia are up to limit events of a room, placed or not, that may name media,
// with numbers above after, in their order. It reads all of the room's events, and is meant
// for tools.
func (tx *Tx) ListEventsNamingMedia(room RoomNID, after EventNID, limit int) ([]Event, error) {
	return sqldb.List(tx.Tx, scanEvent, `SELECT `+eventColumns+` FROM events
		WHERE room_nid = $1 AND nid > $2 AND json LIKE '%mxc://%' ORDER BY nid LIMIT $3`, room, after, limit)
}

// GetPreview is what a page says of itself, by the hash of its address, unless that is too old.
func (tx *Tx) GetPreview(hash string, now int64) (body string, err error) {
	return one(tx, func(row sqldb.Scanner) (body string, err error) { return body, row.Scan(&body) },
		`SELECT body FROM url_previews WHERE hash = $1 AND expires > $2`, hash, now)
}

// InsertPreview keeps what a page says of itself, in place of what it said before.
func (tx *Tx) InsertPreview(hash, body string, expires int64) error {
	_, err := tx.Exec(`INSERT INTO url_previews (hash, body, expires) VALUES ($1, $2, $3)
		ON CONFLICT (hash) DO UPDATE SET body = excluded.body, expires = excluded.expires`, hash, body, expires)
	return err
}

// DeleteExpiredPreviews removes what is too old.
func (tx *Tx) DeleteExpiredPreviews(now int64) error {
	_, err := tx.Exec(`DELETE FROM url_previews WHERE expires <= $1`, now)
	return err
}
