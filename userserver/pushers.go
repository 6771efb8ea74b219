package userserver

import (
	"context"
	"encoding/json"
	"errors"
	"net/url"

	"parley/internal/matrixerr"
	"parley/storage"

	"parley/internal/id"
)

// Pusher is where a user's notifications are pushed to.
//
// spec: client-server-api/modules/push.md#push-notifications
type Pusher struct {
	PushKey           string          `json:"pushkey"`
	Kind              string          `json:"kind"`
	AppID             string          `json:"app_id"`
	AppDisplayName    string          `json:"app_display_name"`
	DeviceDisplayName string          `json:"device_display_name"`
	ProfileTag        string          `json:"profile_tag,omitempty"`
	Lang              string          `json:"lang"`
	Data              json.RawMessage `json:"data"`
}

// ListPushers are a user's pushers, each as JSON.
func (s *Server) ListPushers(ctx context.Context, user id.UserID) ([]json.RawMessage, error) {
	rows, err := storage.Get(ctx, s.db, func(tx *storage.Tx) ([]storage.Pusher, error) { return tx.ListPushers(user) })
	out := make([]json.RawMessage, len(rows))
	for i := range rows {
		out[i] = rows[i].JSON
	}
	return out, err
}

// SetPusher makes a pusher, or changes it; it ends with the device. Unless append is set, the same app and key push for
// no other user any more.
func (s *Server) SetPusher(ctx context.Context, user id.UserID, deviceNID int64, p *Pusher, append bool) error {
	if err := s.checkPusher(ctx, user, p); err != nil {
		return err
	}
	text, err := json.Marshal(p)
	if err != nil {
		return err
	}
	row := storage.Pusher{User: user, AppID: p.AppID, PushKey: p.PushKey, DeviceNID: deviceNID, Created: s.millis(), JSON: text}
	return s.db.Write(ctx, func(tx *storage.Tx) error {
		if !append {
			if err := tx.DeleteOtherPushers(user, p.AppID, p.PushKey); err != nil {
				return err
			}
		}
		return tx.InsertPusher(&row)
	})
}

func (s *Server) checkPusher(ctx context.Context, user id.UserID, p *Pusher) error {
	for _, f := range []struct {
		name, value string
		most        int
	}{
		{"pushkey", p.PushKey, 512}, {"app_id", p.AppID, 64}, {"app_display_name", p.AppDisplayName, 1024},
		{"device_display_name", p.DeviceDisplayName, 1024}, {"lang", p.Lang, 64},
	} {
		switch {
		case f.value == "":
			return matrixerr.New(matrixerr.MissingParam, "%s is missing", f.name)
		case len(f.value) > f.most || !cleanText(f.value):
			return matrixerr.New(matrixerr.InvalidParam, "%s is longer than %d bytes or has characters that are not allowed", f.name, f.most)
		}
	}
	if p.Kind == "email" && s.mailer != nil {
		return s.checkEmailPusher(ctx, user, p)
	}
	if p.Kind != "http" {
		return matrixerr.New(matrixerr.InvalidParam, "pushers of kind %.50q are not known here", p.Kind)
	}
	var data struct {
		URL string `json:"url"`
	}
	if len(p.Data) == 0 {
		return matrixerr.New(matrixerr.MissingParam, "data is missing")
	}
	if p.Data[0] != '{' || json.Unmarshal(p.Data, &data) != nil {
		return matrixerr.New(matrixerr.BadJSON, "data is not an object with a url")
	}
	if data.URL == "" {
		return matrixerr.New(matrixerr.MissingParam, "data.url is missing")
	}
	// Plain http is for a gateway that stands beside this server.
	u, err := url.Parse(data.URL)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.Path != "/_matrix/push/v1/notify" {
		return matrixerr.New(matrixerr.InvalidParam, "data.url is not an HTTPS URL with the path /_matrix/push/v1/notify")
	}
	return nil
}

// checkEmailPusher checks a pusher that writes mails, which are for an address of the user's own.
func (s *Server) checkEmailPusher(ctx context.Context, user id.UserID, p *Pusher) error {
	if len(p.Data) == 0 {
		p.Data = json.RawMessage(`{}`)
	}
	if p.Data[0] != '{' {
		return matrixerr.New(matrixerr.BadJSON, "data is not an object")
	}
	return s.db.Read(ctx, func(tx *storage.Tx) error {
		address, err := tx.GetThreePID("email", p.PushKey)
		if errors.Is(err, storage.ErrNotFound) || err == nil && address.User != user {
			return matrixerr.New(matrixerr.ThreepidNotFound, "the pushkey is not an email address of yours")
		}
		return err
	})
}

// DeletePusher removes a pusher; it need not be there.
func (s *Server) DeletePusher(ctx context.Context, user id.UserID, appID, pushKey string) error {
	if !cleanText(appID) || !cleanText(pushKey) {
		return nil
	}
	return s.db.Write(ctx, func(tx *storage.Tx) error { return tx.DeletePusher(user, appID, pushKey) })
}
