package client_test

import (
	"crypto/hmac"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pion/turn/v4"

	"parley/test/harness"
)

// TestRelay has a coturn relay what somebody sends with the credentials that the server gives, and with no others.
// spec: client-server-api/modules/voip_events.md#voice-over-ip
func TestRelay(t *testing.T) {
	const secret = "shared by the server and its relay"
	relay := startCoturn(t, secret)
	harness.EachDatabase(t, func(t *testing.T, db harness.Database) {
		srv := harness.StartConfigured(t, db, fmt.Sprintf("registration:\n  allow: anyone\nturn:\n  uris: [\"turn:%s?transport=udp\"]\n  shared_secret: %s\n  lifetime: 1h\n", relay, secret))
		alice := srv.Register(t, "alice")
		given, err := alice.TurnServer(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if len(given.URIs) != 1 || given.URIs[0] != "turn:"+relay+"?transport=udp" || given.TTL != 3600 {
			t.Errorf("the server gives %+v", given)
		}
		relays(t, relay, given.Username, given.Password)

		past := fmt.Sprintf("%d:%s", time.Now().Add(-time.Minute).Unix(), alice.UserID)
		mac := hmac.New(sha1.New, []byte(secret))
		mac.Write([]byte(past))
		for name, bad := range map[string][2]string{
			"another password":   {given.Username, "A" + given.Password},
			"another user":       {given.Username + "2", given.Password},
			"a longer life":      {"9" + given.Username, given.Password},
			"one that has ended": {past, base64.StdEncoding.EncodeToString(mac.Sum(nil))},
		} {
			if conn, err := allocate(t, relay, bad[0], bad[1]); err == nil {
				t.Errorf("the relay serves one with %s, on %s", name, conn.LocalAddr())
			}
		}
	})
}

// startCoturn starts a relay on a loopback address, and gives that.
func startCoturn(t *testing.T, secret string) string {
	t.Helper()
	program, err := exec.LookPath("turnserver")
	if err != nil {
		harness.Skip(t, "coturn", "there is no turnserver")
	}
	probe, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := probe.LocalAddr().String()
	probe.Close()
	dir := t.TempDir()
	logs, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer logs.Close()
	_, port, _ := strings.Cut(address, ":")
	cmd := exec.Command(program, "-n", "--use-auth-secret", "--static-auth-secret="+secret, "--realm=example.org",
		"--listening-ip=127.0.0.1", "--relay-ip=127.0.0.1", "--listening-port="+port, "--no-tcp", "--no-tls", "--no-dtls",
		"--allow-loopback-peers", "--no-cli", "--log-file=stdout", "--simple-log", "--pidfile="+filepath.Join(dir, "pid"), "--userdb="+filepath.Join(dir, "db"))
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, logs, logs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if text, _ := os.ReadFile(logs.Name()); t.Failed() {
			t.Logf("the relay's log:\n%s", text)
		}
	})
	client := dialRelay(t, address, "", "")
	for deadline := time.Now().Add(time.Minute); ; {
		if _, err := client.SendBindingRequest(); err == nil {
			return address
		} else if time.Now().After(deadline) {
			t.Fatalf("the relay does not answer: %v", err)
		}
	}
}

func dialRelay(t *testing.T, address, username, password string) *turn.Client {
	t.Helper()
	conn, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	client, err := turn.NewClient(&turn.ClientConfig{STUNServerAddr: address, TURNServerAddr: address, Username: username, Password: password, Conn: conn})
	if err == nil {
		err = client.Listen()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client
}

// allocate asks a relay for an address.
func allocate(t *testing.T, address, username, password string) (net.PacketConn, error) {
	t.Helper()
	conn, err := dialRelay(t, address, username, password).Allocate()
	if err == nil {
		t.Cleanup(func() { conn.Close() })
	}
	return conn, err
}

// relays fails the test where the relay does not carry a message with these credentials.
func relays(t *testing.T, address, username, password string) {
	t.Helper()
	conn, err := allocate(t, address, username, password)
	if err != nil {
		t.Fatalf("the relay refuses the credentials: %v", err)
	}
	peer, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	buf := make([]byte, 100)
	// A datagram may get lost.
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); {
		if _, err := conn.WriteTo([]byte("hello"), peer.LocalAddr()); err != nil {
			t.Fatal(err)
		}
		peer.SetReadDeadline(time.Now().Add(time.Second))
		n, from, err := peer.ReadFrom(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			continue
		}
		if err != nil || string(buf[:n]) != "hello" || from.String() != conn.LocalAddr().String() {
			t.Errorf("the peer got %q from %v, %v, and not from %v", buf[:n], from, err, conn.LocalAddr())
		}
		return
	}
	t.Error("the relay carries nothing")
}
