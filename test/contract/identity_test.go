package contract

import (
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	"parley/test/harness"
)

const (
	boundAddress = "bound@example.com"
	inviteToken  = "of-the-invite"
	pepper       = "pepper"
)

// identityServer is one as far as homeservers ask it. It takes any access token.
//
// spec: identity-service-api.md
type identityServer struct {
	name string

	mu    sync.Mutex
	users map[string]string // by the hash of their address
}

func newIdentityServer(t *testing.T, network *harness.Network) *identityServer {
	t.Helper()
	certificate, err := tls.LoadX509KeyPair(network.Certificate(t))
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	i := &identityServer{name: listener.Addr().String(), users: make(map[string]string)}
	server := &http.Server{Handler: i}
	served := make(chan error, 1)
	go func() {
		served <- server.Serve(tls.NewListener(listener, &tls.Config{Certificates: []tls.Certificate{certificate}}))
	}()
	t.Cleanup(func() {
		server.Close()
		<-served
	})
	return i
}

// knows notes whose an address is.
func (i *identityServer) knows(address, user string) {
	sum := sha256.Sum256([]byte(address + " email " + pepper))
	i.mu.Lock()
	defer i.mu.Unlock()
	i.users[base64.RawURLEncoding.EncodeToString(sum[:])] = user
}

// ServeHTTP answers a homeserver.
func (i *identityServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var body struct {
		SID       string   `json:"sid"`
		User      string   `json:"mxid"`
		Pepper    string   `json:"pepper"`
		Addresses []string `json:"addresses"`
		RoomID    string   `json:"room_id"`
		ThreePID  struct {
			Address string `json:"address"`
		} `json:"threepid"`
	}
	if r.Method == http.MethodPost && json.NewDecoder(r.Body).Decode(&body) != nil {
		http.Error(w, "{}", http.StatusBadRequest)
		return
	}
	signed, shown := r.Header.Get("Authorization"), r.Header.Get("Authorization") == "Bearer token"
	answer := object{"errcode": "M_UNKNOWN", "error": "this is not as it should be"}
	switch path := strings.TrimPrefix(r.URL.Path, "/_matrix/identity/v2"); {
	case path == "/hash_details" && shown:
		answer = object{"lookup_pepper": pepper, "algorithms": list{"none", "sha256"}}
	case path == "/lookup" && shown && body.Pepper == pepper:
		i.mu.Lock()
		defer i.mu.Unlock()
		found := object{}
		for _, hash := range body.Addresses {
			if user := i.users[hash]; user != "" {
				found[hash] = user
			}
		}
		answer = object{"mappings": found}
	case path == "/store-invite" && shown && body.RoomID != "":
		answer = object{"token": inviteToken, "display_name": "s...@e...", "public_keys": list{
			object{"public_key": "AAAA", "key_validity_url": "https://" + i.name + "/valid"},
			object{"public_key": "AAAB", "key_validity_url": "https://" + i.name + "/ephemeral"},
		}}
	case path == "/3pid/bind" && shown && body.SID == "of the identity server":
		answer = object{"medium": "email", "address": boundAddress, "mxid": body.User}
	case path == "/3pid/bind" && shown:
		answer = object{"errcode": "M_SESSION_NOT_VALIDATED", "error": "nobody showed that the address is theirs"}
		w.WriteHeader(http.StatusBadRequest)
	case path == "/3pid/unbind" && strings.HasPrefix(signed, "X-Matrix ") && body.ThreePID.Address == boundAddress:
		answer = object{}
	default:
		w.WriteHeader(http.StatusBadRequest)
	}
	_ = json.NewEncoder(w).Encode(answer)
}
