package federation

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"parley/internal/disposition"
	"parley/internal/httpapi"
	"parley/media"
)

// mediaRoutes are how other servers get the files of our users.
//
// spec: server-server-api.md#content-repository
func (a *API) mediaRoutes() httpapi.Table {
	if a.media == nil {
		return nil
	}
	stream := func(path string, h httpapi.Handler) httpapi.Route {
		return httpapi.Route{Method: http.MethodGet, Path: v1 + path, Auth: httpapi.Server, Rate: httpapi.RateServer, Handler: h}
	}
	return httpapi.Table{
		stream("/media/download/{mediaId}", httpapi.Stream(a.download)),
		stream("/media/thumbnail/{mediaId}", httpapi.Stream(a.thumbnail)),
	}
}

// defaultMediaTimeout is how long a file without content is waited for where nobody says.
const defaultMediaTimeout = 20_000

type downloadRequest struct {
	ID      string `path:"mediaId"`
	Timeout *int64 `query:"timeout_ms"`
}

func (a *API) want(in *downloadRequest) media.Want {
	timeout := int64(defaultMediaTimeout)
	if in.Timeout != nil {
		timeout = max(0, *in.Timeout)
	}
	return media.Want{Origin: a.remote.Name(), ID: in.ID, Timeout: time.Duration(min(timeout, time.Hour.Milliseconds())) * time.Millisecond}
}

func (a *API) download(ctx context.Context, _ *httpapi.Request, in *downloadRequest, w http.ResponseWriter) error {
	f, err := a.media.Get(ctx, a.want(in))
	if err != nil {
		return err
	}
	return sendFile(w, f)
}

type thumbnailRequest struct {
	downloadRequest
	Width    int    `query:"width,required"`
	Height   int    `query:"height,required"`
	Method   string `query:"method"`
	Animated bool   `query:"animated"`
}

func (a *API) thumbnail(ctx context.Context, _ *httpapi.Request, in *thumbnailRequest, w http.ResponseWriter) error {
	f, err := a.media.Thumbnail(ctx, a.want(&in.downloadRequest),
		media.ThumbnailRequest{Width: in.Width, Height: in.Height, Method: in.Method, Animated: in.Animated})
	if err != nil {
		return err
	}
	return sendFile(w, f)
}

// sendFile answers with two parts: what is said of the file, which is nothing so far, and the
// file. Its type comes before its name, as in the specification's example: a Synapse does not find the
// name otherwise.
func sendFile(w http.ResponseWriter, f *media.File) error {
	defer f.Close()
	kind, header := disposition.Of(f.Type, f.Name)
	boundary := rand.Text() + rand.Text()
	start := "--" + boundary + "\r\nContent-Type: application/json\r\n\r\n{}\r\n" +
		"--" + boundary + "\r\nContent-Type: " + kind + "\r\nContent-Disposition: " + header + "\r\n\r\n"
	end := "\r\n--" + boundary + "--\r\n"
	w.Header().Set("Content-Type", "multipart/mixed; boundary="+boundary)
	w.Header().Set("Content-Length", strconv.FormatInt(int64(len(start)+len(end))+f.Size(), 10))
	if _, err := io.Copy(w, io.MultiReader(strings.NewReader(start), f, strings.NewReader(end))); err != nil {
		return fmt.Errorf("send a file: %w", err)
	}
	return nil
}
