// Package disposition says how a browser is told to treat a file that a stranger uploaded: what
// could run as a program in a page is to be saved, and not shown.
//
// spec: client-server-api/modules/content_repo.md#serving-inline-content
package disposition

import "mime"

// inline are the types that are safe to show.
var inline = map[string]bool{
	"text/css": true, "text/plain": true, "text/csv": true, "application/json": true, "application/ld+json": true,
	"image/jpeg": true, "image/gif": true, "image/png": true, "image/apng": true, "image/webp": true, "image/avif": true,
	"video/mp4": true, "video/webm": true, "video/ogg": true, "video/quicktime": true,
	"audio/mp4": true, "audio/webm": true, "audio/aac": true, "audio/mpeg": true, "audio/ogg": true,
	"audio/wave": true, "audio/wav": true, "audio/x-wav": true, "audio/x-pn-wav": true, "audio/flac": true, "audio/x-flac": true,
}

// Of gives the headers Content-Type and Content-Disposition for a file of that type and name;
// either may be "".
func Of(contentType, name string) (kind, header string) {
	if contentType == "" {
		contentType = "application/octet-stream"
	}
	how := "attachment"
	if base, _, err := mime.ParseMediaType(contentType); err == nil && inline[base] {
		how = "inline"
	}
	if name == "" {
		return contentType, how
	}
	return contentType, mime.FormatMediaType(how, map[string]string{"filename": name})
}

// Name is the file name in a header Content-Disposition, "" where it has none.
func Name(header string) string {
	_, params, err := mime.ParseMediaType(header)
	if err != nil {
		return ""
	}
	return params["filename"]
}
