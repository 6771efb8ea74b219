package roomserver

import (
	"context"
	"strings"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"parley/internal/id"
	"parley/internal/matrixerr"
	"parley/storage"
)

const (
	// maxReason bounds the text of a report, in bytes.
	maxReason = 4096
	// maxReports bounds the reports that are kept of one user.
	maxReports = 1000
)

// Report is what a user reports, for those who may not know storage.
type Report = storage.Report

// Report keeps what a user reports, for those who run the node: a room, an event in a room
// that they are in, or a user. Whoever reports a room or a user that is not known here is told
// nothing of that.
//
// spec: client-server-api/modules/report_content.md#reporting-content
func (s *Server) Report(ctx context.Context, r Report) error {
	if len(r.Reason) > maxReason || strings.ContainsRune(r.Reason, 0) {
		return matrixerr.New(matrixerr.InvalidParam, "The reason is longer than %d bytes, or has characters that are not allowed.", maxReason)
	}
	r.TS = s.now()
	err := s.db.Write(ctx, func(tx *storage.Tx) error {
		if r.Event != "" {
			if err := s.mayReport(tx, &r); err != nil {
				return err
			}
		}
		n, err := tx.CountReports(r.Reporter)
		if err != nil {
			return err
		}
		if n >= maxReports {
			return matrixerr.New(matrixerr.LimitExceeded, "You have made %d reports.", n)
		}
		return tx.InsertReport(&r)
	})
	if err == nil {
		s.log.Warn("a user reports something", "reporter", r.Reporter, "room", r.Room, "event", r.Event, "user", r.User, "reason", r.Reason)
	}
	return err
}

// mayReport says whether the reporter is in the room and may see the event.
func (s *Server) mayReport(tx *storage.Tx, r *storage.Report) error {
	none := matrixerr.New(matrixerr.NotFound, "The event is not in a room that you are in, or you may not see it.")
	v, err := s.View(tx, r.Reporter, r.Room)
	if missing, err := notFound(err); err != nil {
		return err
	} else if missing || v.Member.Membership != spec.Join {
		return none
	}
	_, err = s.timelineEvent(tx, v, r.Event)
	return err
}

// ListReports are up to limit reports with numbers below before, the newest first.
func (s *Server) ListReports(ctx context.Context, before int64, limit int) ([]storage.Report, error) {
	return storage.Get(ctx, s.db, func(tx *storage.Tx) ([]storage.Report, error) { return tx.ListReports(before, limit) })
}

// RoomOf is the room that an event is in; M_NOT_FOUND where it is not known.
func (s *Server) RoomOf(ctx context.Context, event id.EventID) (id.RoomID, error) {
	room, err := storage.Get(ctx, s.db, func(tx *storage.Tx) (storage.Room, error) {
		e, err := tx.GetEvent(event)
		if err != nil {
			return storage.Room{}, err
		}
		return tx.GetRoomByNID(e.Room)
	})
	if missing, err := notFound(err); missing || err != nil {
		return "", errOr(err, matrixerr.New(matrixerr.NotFound, "The event is not known, or you may not see it."))
	}
	return room.ID, nil
}
