package federation

import (
	"bytes"
	"image"
	"image/png"
	"testing"

	"parley/test/harness"
)

// files: a picture of the host's is seen by users of the guest, as it is and small.
//
// spec: server-server-api.md#get_matrixfederationv1mediadownloadmediaid
// spec: server-server-api.md#get_matrixfederationv1mediathumbnailmediaid
func files(t *testing.T, host, guest *harness.Server) {
	alice, bob := host.Register(t, "alice"), guest.Register(t, "bob")
	var picture bytes.Buffer
	if err := png.Encode(&picture, image.NewGray(image.Rect(0, 0, 1000, 500))); err != nil {
		t.Fatal(err)
	}
	uploaded, err := alice.UploadBytesWithName(t.Context(), picture.Bytes(), "image/png", "grey.png")
	if err != nil {
		t.Fatal(err)
	}
	got, err := bob.DownloadBytes(t.Context(), uploaded.ContentURI)
	if err != nil || !bytes.Equal(got, picture.Bytes()) {
		t.Errorf("%d bytes came, %v; want %d", len(got), err, picture.Len())
	}
	small, err := bob.DownloadThumbnail(t.Context(), uploaded.ContentURI, 50, 50)
	if err != nil {
		t.Fatal(err)
	}
	defer small.Body.Close()
	if size, _, err := image.DecodeConfig(small.Body); err != nil || size.Width >= 1000 {
		t.Errorf("the thumbnail is %v, %v", size, err)
	}
	missing := uploaded.ContentURI
	missing.FileID = "nothing"
	_, err = bob.DownloadBytes(t.Context(), missing)
	harness.WantError(t, err, 404, "M_NOT_FOUND")
}
