package clientapi

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"strconv"
	"strings"
	"time"

	"parley/internal/httpapi"
	"parley/internal/matrixerr"
	"parley/userserver"
)

// nonceLife is how long a nonce can be used.
const nonceLife = time.Minute

type nonceResponse struct {
	Nonce string `json:"nonce"`
}

func (a *API) sharedSecretOff() error {
	if a.registration.SharedSecret == "" {
		return matrixerr.New(matrixerr.Unknown, "registration by shared secret is not enabled")
	}
	return nil
}

// newNonce makes a nonce that any process of this node can check, as it says itself when it was
// made, under a MAC. That it could be used twice within its life does no harm: a request
// is for one name, and a name is given once.
func (a *API) newNonce(made time.Time, salt string) string {
	text := strconv.FormatInt(made.Unix(), 36) + "." + salt
	mac := hmac.New(sha256.New, []byte(a.registration.SharedSecret))
	mac.Write([]byte("nonce " + text))
	return text + "." + hex.EncodeToString(mac.Sum(nil)[:16])
}

func (a *API) goodNonce(nonce string) bool {
	parts := strings.Split(nonce, ".")
	if len(parts) != 3 {
		return false
	}
	seconds, err := strconv.ParseInt(parts[0], 36, 64)
	if err != nil {
		return false
	}
	made := time.Unix(seconds, 0)
	return hmac.Equal([]byte(a.newNonce(made, parts[1])), []byte(nonce)) && a.now().Sub(made) < nonceLife
}

func (a *API) sharedSecretNonce(context.Context, *httpapi.Request, *empty) (*nonceResponse, error) {
	if err := a.sharedSecretOff(); err != nil {
		return nil, err
	}
	return &nonceResponse{a.newNonce(a.now(), rand.Text())}, nil
}

type sharedSecretRequest struct {
	Nonce       string `json:"nonce"`
	Username    string `json:"username"`
	DisplayName string `json:"displayname"`
	Password    string `json:"password"`
	Admin       bool   `json:"admin"`
	UserType    string `json:"user_type"`
	MAC         string `json:"mac"`
}

// mac is the hex HMAC-SHA1, under the shared secret, of nonce, name, password and "admin" or
// "notadmin", and the user type if there is one, with a NUL between them.
func (in *sharedSecretRequest) mac(secret string) string {
	role := "notadmin"
	if in.Admin {
		role = "admin"
	}
	fields := []string{in.Nonce, in.Username, in.Password, role}
	if in.UserType != "" {
		fields = append(fields, in.UserType)
	}
	mac := hmac.New(sha1.New, []byte(secret))
	mac.Write([]byte(strings.Join(fields, "\x00")))
	return hex.EncodeToString(mac.Sum(nil))
}

// sharedSecretRegister is the registration by a shared secret that Synapse documents for its
// admin API, and that programs for Matrix servers know.
func (a *API) sharedSecretRegister(ctx context.Context, r *httpapi.Request, in *sharedSecretRequest) (*sessionResponse, error) {
	if err := a.sharedSecretOff(); err != nil {
		return nil, err
	}
	for _, f := range []struct{ name, value string }{
		{"nonce", in.Nonce}, {"username", in.Username}, {"password", in.Password}, {"mac", in.MAC},
	} {
		if f.value == "" {
			return nil, matrixerr.New(matrixerr.MissingParam, "%s is missing", f.name)
		}
	}
	switch {
	case strings.ContainsRune(in.Username, 0) || strings.ContainsRune(in.Password, 0):
		return nil, matrixerr.New(matrixerr.InvalidParam, "username or password has a NUL")
	case !a.goodNonce(in.Nonce):
		return nil, matrixerr.New(matrixerr.Unknown, "the nonce is not one of this server, or has expired")
	case !hmac.Equal([]byte(in.mac(a.registration.SharedSecret)), []byte(strings.ToLower(in.MAC))):
		return nil, matrixerr.New(matrixerr.Forbidden, "the MAC is wrong")
	case in.UserType != "":
		return nil, matrixerr.New(matrixerr.InvalidParam, "this server has no types of users")
	}
	s, err := a.users.Register(ctx, userserver.Registration{
		Localpart: in.Username, Password: in.Password, Admin: in.Admin, Session: userserver.NewSession{IP: ipString(r.IP)},
	})
	if err != nil {
		return nil, err
	}
	if in.DisplayName != "" {
		name, err := json.Marshal(in.DisplayName)
		if err != nil {
			return nil, err
		}
		if err := a.users.SetProfileField(ctx, s.User, "displayname", name); err != nil {
			return nil, err
		}
	}
	out := newSessionResponse(&s)
	out.HomeServer = a.serverName
	return out, nil
}
