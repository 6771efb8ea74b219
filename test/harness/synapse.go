package harness

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
)

// Synapse starts a Synapse that is part of the network, with a SQLite database of its own. Its Python is what
// PARLEY_TEST_SYNAPSE names; test/synapse.sh prepares one.
func (n *Network) Synapse(t testing.TB) *Server {
	t.Helper()
	python := os.Getenv("PARLEY_TEST_SYNAPSE")
	if python == "" {
		Skip(t, "synapse", "PARLEY_TEST_SYNAPSE is not set (test/synapse.sh prepares a Synapse)")
	}
	federation := freeAddress(t)
	link := NewLink(t, federation)
	s := &Server{
		Name: link.Address, Link: link, t: t, db: Database{Kind: "synapse"}, dir: t.TempDir(),
		listen: freeAddress(t), health: "/health",
	}
	s.URL = "http://" + s.listen
	config := n.synapseConfig(t, s, federation)
	s.program = func() *exec.Cmd {
		cmd := exec.Command(python, "-m", "synapse.app.homeserver", "--config-path", config)
		cmd.Env = append(os.Environ(), "SSL_CERT_FILE="+n.Authority)
		return cmd
	}
	s.begin()
	return s
}

// synapseConfig writes the configuration. It is JSON, and so YAML.
func (n *Network) synapseConfig(t testing.TB, s *Server, federation string) string {
	t.Helper()
	certificate, key := n.Certificate(t)
	seed := make([]byte, 32)
	rand.Read(seed)
	signingKey := filepath.Join(s.dir, "signing.key")
	if err := os.WriteFile(signingKey, []byte("ed25519 a_test "+base64.RawStdEncoding.EncodeToString(seed)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	unlimited := map[string]any{"per_second": 100000, "burst_count": 100000}
	settings := map[string]any{
		"server_name": s.Name, "report_stats": false, "pid_file": filepath.Join(s.dir, "pid"),
		"signing_key_path": signingKey, "trusted_key_servers": []any{}, "suppress_key_server_warning": true,
		"macaroon_secret_key": rand.Text(), "form_secret": rand.Text(),
		"database":         map[string]any{"name": "sqlite3", "args": map[string]any{"database": filepath.Join(s.dir, "homeserver.db")}},
		"media_store_path": filepath.Join(s.dir, "media"),
		"listeners": []any{
			map[string]any{
				"type": "http", "port": port(t, s.listen), "bind_addresses": []string{"127.0.0.1"}, "tls": false,
				"resources": []any{map[string]any{"names": []string{"client"}}},
			},
			map[string]any{
				"type": "http", "port": port(t, federation), "bind_addresses": []string{"127.0.0.1"}, "tls": true,
				"resources": []any{map[string]any{"names": []string{"federation"}}},
			},
		},
		"tls_certificate_path": certificate, "tls_private_key_path": key,
		"federation_custom_ca_list": []string{n.Authority}, "ip_range_blacklist": []any{},
		// As little waiting for a server that was away as Synapse can be told to do.
		"federation": map[string]any{
			"client_timeout": "20s", "destination_min_retry_interval": 200, "destination_retry_multiplier": 1,
			"destination_max_retry_interval": 1000, "max_short_retries": 1, "max_long_retries": 1,
			"max_short_retry_delay": "1s", "max_long_retry_delay": "1s",
		},
		"enable_registration": true, "enable_registration_without_verification": true, "bcrypt_rounds": 4,
		"allow_public_rooms_over_federation": true, "allow_public_rooms_without_auth": true,
		"rc_message": unlimited, "rc_registration": unlimited, "rc_joins_per_room": unlimited, "rc_room_creation": unlimited,
		"rc_login":   map[string]any{"address": unlimited, "account": unlimited, "failed_attempts": unlimited},
		"rc_joins":   map[string]any{"local": unlimited, "remote": unlimited},
		"rc_invites": map[string]any{"per_room": unlimited, "per_user": unlimited, "per_issuer": unlimited},
		"rc_federation": map[string]any{
			"window_size": 1000, "sleep_limit": 100000, "sleep_delay": 1, "reject_limit": 100000, "concurrent": 100,
		},
	}
	data, err := json.MarshalIndent(settings, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(s.dir, "homeserver.yaml")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func port(t testing.TB, address string) int {
	t.Helper()
	_, text, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}
