package clientapi

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"strconv"
	"time"

	"parley/internal/disposition"
	"parley/internal/httpapi"
	"parley/internal/id"
	"parley/internal/matrixerr"
	"parley/media"
)

// The paths of the content repository: those that want to know who asks, and those of old.
const (
	authedMedia = "/_matrix/client/v1/media"
	mediaV1     = "/_matrix/media/v1"
	mediaV3     = "/_matrix/media/v3"
	mediaR0     = "/_matrix/media/r0"
)

// spec: client-server-api/modules/content_repo.md#content-repository
func (a *API) mediaRoutes() httpapi.Table {
	if a.media == nil {
		return nil
	}
	old := func(path string) []string { return []string{mediaR0 + path, mediaV1 + path} }
	row := func(method, path string, also []string, auth httpapi.Auth, h httpapi.Handler) httpapi.Route {
		return httpapi.Route{Method: method, Path: path, Also: also, Auth: auth, Rate: httpapi.RateMedia, Handler: h}
	}
	const (
		file      = "/download/{serverName}/{mediaId}"
		named     = "/download/{serverName}/{mediaId}/{fileName}"
		thumbnail = "/thumbnail/{serverName}/{mediaId}"
	)
	return httpapi.Table{
		row(http.MethodPost, mediaV3+"/upload", old("/upload"), httpapi.User, httpapi.Stream(a.upload)),
		row(http.MethodPut, mediaV3+"/upload/{serverName}/{mediaId}", nil, httpapi.User, httpapi.Stream(a.uploadTo)),
		row(http.MethodPost, mediaV1+"/create", nil, httpapi.User, httpapi.Handle(a.createMedia)),
		row(http.MethodGet, authedMedia+"/config", nil, httpapi.UserOrGuest, httpapi.Handle(a.mediaConfig)),
		row(http.MethodGet, authedMedia+"/preview_url", []string{mediaV3 + "/preview_url", mediaR0 + "/preview_url", mediaV1 + "/preview_url"},
			httpapi.User, httpapi.Handle(a.previewURL)),
		row(http.MethodGet, authedMedia+file, nil, httpapi.UserOrGuest, httpapi.Stream(a.download)),
		row(http.MethodGet, authedMedia+named, nil, httpapi.UserOrGuest, httpapi.Stream(a.downloadAs)),
		row(http.MethodGet, authedMedia+thumbnail, nil, httpapi.UserOrGuest, httpapi.Stream(a.thumbnail)),
		row(http.MethodGet, mediaV3+"/config", old("/config"), httpapi.UserOrGuest, httpapi.Handle(a.mediaConfig)),
		row(http.MethodGet, mediaV3+file, old(file), httpapi.None, httpapi.Stream(a.oldDownload)),
		row(http.MethodGet, mediaV3+named, old(named), httpapi.None, httpapi.Stream(a.oldDownloadAs)),
		row(http.MethodGet, mediaV3+thumbnail, old(thumbnail), httpapi.None, httpapi.Stream(a.oldThumbnail)),
	}
}

type mediaConfigResponse struct {
	UploadSize int64 `json:"m.upload.size,omitempty"`
}

func (a *API) mediaConfig(context.Context, *httpapi.Request, *empty) (*mediaConfigResponse, error) {
	return &mediaConfigResponse{a.media.MaxUpload()}, nil
}

type previewRequest struct {
	URL string `query:"url,required"`
}

func (a *API) previewURL(ctx context.Context, _ *httpapi.Request, in *previewRequest) (httpapi.RawJSON, error) {
	preview, err := a.media.Preview(ctx, in.URL)
	return httpapi.RawJSON(preview), err
}

func mxc(server id.ServerName, mediaID string) string {
	return "mxc://" + string(server) + "/" + mediaID
}

type uploadRequest struct {
	Name string `query:"filename"`
}

type uploadResponse struct {
	URI     string `json:"content_uri"`
	Expires int64  `json:"unused_expires_at,omitempty"`
}

func (a *API) upload(ctx context.Context, r *httpapi.Request, in *uploadRequest, w http.ResponseWriter) error {
	u, err := a.uploaded(r, in.Name, w)
	if err != nil {
		return err
	}
	mediaID, err := a.media.Upload(ctx, u)
	if err != nil {
		return err
	}
	return httpapi.WriteJSON(w, uploadResponse{URI: mxc(a.serverName, mediaID)})
}

type uploadToRequest struct {
	Server id.ServerName `path:"serverName"`
	ID     string        `path:"mediaId"`
	Name   string        `query:"filename"`
}

func (a *API) uploadTo(ctx context.Context, r *httpapi.Request, in *uploadToRequest, w http.ResponseWriter) error {
	u, err := a.uploaded(r, in.Name, w)
	if err != nil {
		return err
	}
	if err := a.media.UploadTo(ctx, in.Server, in.ID, u); err != nil {
		return err
	}
	return httpapi.WriteJSON(w, empty{})
}

func (a *API) createMedia(ctx context.Context, r *httpapi.Request, _ *empty) (*uploadResponse, error) {
	mediaID, expires, err := a.media.Create(ctx, r.Caller.User)
	return &uploadResponse{URI: mxc(a.serverName, mediaID), Expires: expires.UnixMilli()}, err
}

const (
	// slowUpload is for how long an upload may bring nothing.
	slowUpload = 30 * time.Second
	// slowestUpload is how many bytes a second it must bring, on the whole.
	slowestUpload = 1 << 10
	// startUpload is the time that each has, however slow it is.
	startUpload = 2 * time.Minute
)

// uploaded is the body of a request as an upload.
func (a *API) uploaded(r *httpapi.Request, name string, w http.ResponseWriter) (media.Upload, error) {
	if most := a.media.MaxUpload(); most > 0 && r.HTTP.ContentLength > most {
		return media.Upload{}, matrixerr.New(matrixerr.TooLarge, "The file is larger than %d bytes.", most)
	}
	kind := r.HTTP.Header.Get("Content-Type")
	if kind == "" {
		kind = "application/octet-stream"
	}
	body := &patientReader{body: r.HTTP.Body, control: http.NewResponseController(w), until: time.Now().Add(startUpload)}
	return media.Upload{User: r.Caller.User, Type: kind, Name: name, Body: body}, nil
}

// patientReader gives each piece of an upload its time, and not the whole, which may be large.
type patientReader struct {
	body    io.Reader
	control *http.ResponseController
	// until is when the whole must be here; each byte moves it.
	until time.Time
}

func (p *patientReader) Read(b []byte) (int, error) {
	deadline := time.Now().Add(slowUpload)
	if p.until.Before(deadline) {
		deadline = p.until
	}
	if err := p.control.SetReadDeadline(deadline); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return 0, err
	}
	n, err := p.body.Read(b)
	p.until = p.until.Add(time.Duration(n) * (time.Second / slowestUpload))
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = matrixerr.New(matrixerr.Unknown, "The upload is too slow.").WithStatus(http.StatusRequestTimeout)
	}
	if errors.Is(err, io.EOF) {
		// What comes after it on the connection has its own time.
		if reset := p.control.SetReadDeadline(time.Time{}); reset != nil && !errors.Is(reset, http.ErrNotSupported) {
			return n, reset
		}
	}
	return n, err
}

type downloadRequest struct {
	Server  id.ServerName `path:"serverName"`
	ID      string        `path:"mediaId"`
	Timeout *int64        `query:"timeout_ms"`
	// AllowRemote is false for one who wants nothing of other servers.
	AllowRemote *bool `query:"allow_remote"`
}

type thumbnailRequest struct {
	downloadRequest
	Width    int    `query:"width,required"`
	Height   int    `query:"height,required"`
	Method   string `query:"method"`
	Animated bool   `query:"animated"`
}

func (in *downloadRequest) want() media.Want {
	w := media.Want{Origin: in.Server, ID: in.ID, Timeout: 20 * time.Second, LocalOnly: in.AllowRemote != nil && !*in.AllowRemote}
	if in.Timeout != nil {
		w.Timeout = time.Duration(min(max(*in.Timeout, 0), time.Hour.Milliseconds())) * time.Millisecond
	}
	return w
}

func (a *API) download(ctx context.Context, r *httpapi.Request, in *downloadRequest, w http.ResponseWriter) error {
	return a.sendMedia(ctx, r, in.want(), "", w)
}

func (a *API) oldDownload(ctx context.Context, r *httpapi.Request, in *downloadRequest, w http.ResponseWriter) error {
	want := in.want()
	want.Unauthenticated = true
	return a.sendMedia(ctx, r, want, "", w)
}

type downloadAsRequest struct {
	downloadRequest
	Name string `path:"fileName"`
}

func (a *API) downloadAs(ctx context.Context, r *httpapi.Request, in *downloadAsRequest, w http.ResponseWriter) error {
	return a.sendMedia(ctx, r, in.want(), in.Name, w)
}

func (a *API) oldDownloadAs(ctx context.Context, r *httpapi.Request, in *downloadAsRequest, w http.ResponseWriter) error {
	want := in.want()
	want.Unauthenticated = true
	return a.sendMedia(ctx, r, want, in.Name, w)
}

// sendMedia sends a file, under another name than its own where one is given.
func (a *API) sendMedia(ctx context.Context, r *httpapi.Request, want media.Want, name string, w http.ResponseWriter) error {
	f, err := a.media.Get(ctx, want)
	if err != nil {
		return err
	}
	if name != "" {
		f.Name = name
	}
	return serveMedia(w, r.HTTP, f)
}

func (a *API) thumbnail(ctx context.Context, r *httpapi.Request, in *thumbnailRequest, w http.ResponseWriter) error {
	return a.sendThumbnail(ctx, r, in, in.want(), w)
}

func (a *API) oldThumbnail(ctx context.Context, r *httpapi.Request, in *thumbnailRequest, w http.ResponseWriter) error {
	want := in.want()
	want.Unauthenticated = true
	return a.sendThumbnail(ctx, r, in, want, w)
}

func (a *API) sendThumbnail(ctx context.Context, r *httpapi.Request, in *thumbnailRequest, want media.Want, w http.ResponseWriter) error {
	f, err := a.media.Thumbnail(ctx, want, media.ThumbnailRequest{Width: in.Width, Height: in.Height, Method: in.Method, Animated: in.Animated})
	if err != nil {
		return err
	}
	return serveMedia(w, r.HTTP, f)
}

// serveMedia sends a file: whole, in part, or not at all where the client has it.
func serveMedia(w http.ResponseWriter, r *http.Request, f *media.File) error {
	defer f.Close()
	kind, header := disposition.Of(f.Type, f.Name)
	h := w.Header()
	h.Set("Content-Type", kind)
	h.Set("Content-Disposition", header)
	h.Set("Content-Security-Policy", "sandbox; default-src 'none'; script-src 'none'; plugin-types application/pdf; style-src 'unsafe-inline'; media-src 'self'; object-src 'self';")
	h.Set("Cross-Origin-Resource-Policy", "cross-origin")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("ETag", strconv.Quote(f.Hash))
	// A media ID has one content for ever.
	h.Set("Cache-Control", "private, max-age=86400, immutable")
	http.ServeContent(w, r, "", time.Time{}, f)
	return nil
}
