package clientapi

import (
	"context"
	"crypto/rand"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"io"
	"net/http"
	"net/url"

	"parley/internal/httpapi"
	"parley/internal/id"
	"parley/internal/matrixerr"
	"parley/userserver"
)

//go:embed pages
var pageFiles embed.FS

// pageTemplates are the pages that people see in a browser. They work without scripts, but for the login, which is of
// use to a client alone that runs them.
var pageTemplates = template.Must(template.ParseFS(pageFiles, "pages/*.html"))

// pageRoutes are pages for people: stages of authentication for clients that don't know them,
// and where the links of mails lead.
func (a *API) pageRoutes() httpapi.Table {
	const fallback = v3 + "/auth/{authType}/fallback/web"
	return httpapi.Table{
		{Method: http.MethodGet, Path: fallback, Auth: httpapi.None, Handler: httpapi.Stream(a.showStage)},
		{Method: http.MethodPost, Path: fallback, Auth: httpapi.None, Rate: httpapi.RateLogin, Handler: httpapi.Stream(a.completeStage)},
		{Method: http.MethodGet, Path: "/_matrix/static/client/login/", Auth: httpapi.None, Handler: httpapi.Stream(a.showLogin)},
		{Method: http.MethodGet, Path: userserver.ConfirmPath, Auth: httpapi.None, Handler: httpapi.Stream(a.showConfirm)},
		{Method: http.MethodPost, Path: userserver.ConfirmPath, Auth: httpapi.None, Rate: httpapi.RateLogin, Handler: httpapi.Stream(a.confirmEmail)},
	}
}

// page is what a page is made with.
type page struct {
	Server   id.ServerName
	Error    string
	Policies []policy
	Nonce    string
	// SID and Secret are of a mail that was sent.
	SID, Secret string
}

type policy struct{ Name, URL string }

// showPage answers with a page that loads nothing, runs no script but its own, and is shown in
// no other page.
func (a *API) showPage(w http.ResponseWriter, status int, name string, p page) error {
	p.Server, p.Nonce = a.serverName, rand.Text()
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; script-src 'nonce-"+p.Nonce+"'; connect-src 'self'; frame-ancestors 'none'; base-uri 'none'")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	if err := pageTemplates.ExecuteTemplate(w, name, p); err != nil {
		return fmt.Errorf("show a page: %w", err)
	}
	return nil
}

// showLogin shows the page that logs people in for clients that know none of the ways to.
//
// spec: client-server-api/index.md#login-fallback
func (a *API) showLogin(_ context.Context, _ *httpapi.Request, _ *empty, w http.ResponseWriter) error {
	return a.showPage(w, http.StatusOK, "login", page{})
}

type stageRequest struct {
	Type    string `path:"authType"`
	Session string `query:"session,required"`
}

// hasPage says whether a page can complete a stage.
func (a *API) hasPage(stage string) bool {
	switch stage {
	case userserver.StagePassword, userserver.StageRegistrationToken, userserver.StageTerms, userserver.StageDummy:
		return true
	case userserver.StageEmail:
		return a.users.HasMail()
	}
	return false
}

// showStage shows the page of a stage.
//
// spec: client-server-api/index.md#fallback
func (a *API) showStage(_ context.Context, _ *httpapi.Request, in *stageRequest, w http.ResponseWriter) error {
	if !a.hasPage(in.Type) {
		return matrixerr.New(matrixerr.NotFound, "There is no page for %.50q.", in.Type)
	}
	return a.showPage(w, http.StatusOK, in.Type, page{Policies: a.policies()})
}

// completeStage takes what was filled in.
func (a *API) completeStage(ctx context.Context, r *httpapi.Request, in *stageRequest, w http.ResponseWriter) error {
	if !a.hasPage(in.Type) {
		return matrixerr.New(matrixerr.NotFound, "There is no page for %.50q.", in.Type)
	}
	form, err := readForm(w, r.HTTP)
	if err != nil {
		return err
	}
	if email := form.Get("email"); in.Type == userserver.StageEmail && email != "" {
		return a.mailStage(ctx, r, email, w)
	}
	auth, err := json.Marshal(map[string]any{
		"type": in.Type, "token": form.Get("token"), "password": form.Get("password"),
		"identifier":     map[string]string{"type": "m.id.user", "user": form.Get("user")},
		"threepid_creds": map[string]string{"sid": form.Get("sid"), "client_secret": form.Get("client_secret")},
	})
	if err != nil {
		return fmt.Errorf("complete a stage: %w", err)
	}
	if in.Type == userserver.StagePassword {
		if err := r.Limit(httpapi.RateLogin, form.Get("user")); err != nil {
			return err
		}
	}
	err = a.users.CompleteStage(ctx, in.Session, auth)
	var failed *matrixerr.Error
	if errors.As(err, &failed) {
		p := page{Error: "That did not work: " + failed.Message + ".", Policies: a.policies(), SID: form.Get("sid"), Secret: form.Get("client_secret")}
		return a.showPage(w, http.StatusUnauthorized, in.Type, p)
	} else if err != nil {
		return err
	}
	return a.showPage(w, http.StatusOK, "done", page{})
}

// mailStage sends the mail of the stage of an address, and shows the page for when its link was followed.
func (a *API) mailStage(ctx context.Context, r *httpapi.Request, email string, w http.ResponseWriter) error {
	// Nobody is to be sent mail after mail, from wherever they are asked for.
	if err := r.Limit(httpapi.RateLogin, email); err != nil {
		return err
	}
	sid, secret, err := a.users.RequestFallbackEmail(ctx, email, a.registration.flows() != nil)
	var failed *matrixerr.Error
	if errors.As(err, &failed) {
		return a.showPage(w, http.StatusUnauthorized, userserver.StageEmail, page{Error: "That did not work: " + failed.Message + "."})
	} else if err != nil {
		return err
	}
	return a.showPage(w, http.StatusOK, userserver.StageEmail, page{SID: sid, Secret: secret})
}

// maxForm bounds what a form of ours sends.
const maxForm = 16 << 10

func readForm(w http.ResponseWriter, req *http.Request) (url.Values, error) {
	body, err := io.ReadAll(http.MaxBytesReader(w, req.Body, maxForm))
	if err != nil {
		return nil, matrixerr.New(matrixerr.TooLarge, "The form could not be read.")
	}
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return nil, matrixerr.New(matrixerr.BadJSON, "The form could not be read.")
	}
	return form, nil
}

// policies are what new users must accept, for people to read.
func (a *API) policies() []policy {
	var out []policy
	for _, t := range a.registration.Terms {
		out = append(out, policy{t.Title, t.URL})
	}
	return out
}

type confirmRequest struct {
	SID    string `query:"sid,required"`
	Secret string `query:"client_secret,required"`
	Token  string `query:"token,required"`
}

// showConfirm asks whoever followed a mail's link to confirm: programs that look at the links
// of mails follow them, too, but press no buttons.
func (a *API) showConfirm(_ context.Context, _ *httpapi.Request, _ *confirmRequest, w http.ResponseWriter) error {
	return a.showPage(w, http.StatusOK, "confirm", page{})
}

func (a *API) confirmEmail(ctx context.Context, r *httpapi.Request, in *confirmRequest, w http.ResponseWriter) error {
	next, err := a.users.ConfirmEmail(ctx, in.SID, in.Secret, in.Token)
	var failed *matrixerr.Error
	switch {
	case errors.As(err, &failed):
		return a.showPage(w, http.StatusForbidden, "failed", page{Error: "This link is not valid any more. Ask for another."})
	case err != nil:
		return err
	case next != "":
		http.Redirect(w, r.HTTP, next, http.StatusSeeOther)
		return nil
	}
	return a.showPage(w, http.StatusOK, "confirmed", page{})
}
