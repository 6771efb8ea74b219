package httpapi

import (
	"net/http"
	"strings"
)

// crossOrigin says whether browsers may ask for a path from any page: whatever is for clients,
// whether there is a route for it or not. Servers are no browsers.
func crossOrigin(path string) bool {
	if rest, ok := strings.CutPrefix(path, "/_matrix/"); ok {
		return strings.HasPrefix(rest, "client/") || strings.HasPrefix(rest, "media/")
	}
	return strings.HasPrefix(path, "/.well-known/matrix/") && path != "/.well-known/matrix/server" ||
		strings.HasPrefix(path, "/_parley/")
}

var (
	corsOrigin  = []string{"*"}
	corsMethods = []string{"GET, POST, PUT, DELETE, OPTIONS"}
	corsHeaders = []string{"X-Requested-With, Content-Type, Authorization"}
)

// setCORS sets the headers that let pages read our answers.
//
// spec: client-server-api/index.md#web-browser-clients
func setCORS(h http.Header) {
	h["Access-Control-Allow-Origin"] = corsOrigin
	h["Access-Control-Allow-Methods"] = corsMethods
	h["Access-Control-Allow-Headers"] = corsHeaders
}
