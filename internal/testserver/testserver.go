// Package testserver makes whole servers for tests: rooms and users in a database of their own, and
// the server-server API at the server's name in a small internet. So two of them share rooms as
// real servers do, over HTTPS, with signed requests and keys that are fetched.
//
// There are no clients: a test calls the hearts. What is to be sent to others is not sent by
// itself; [Server.Push] does that.
package testserver

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/tidwall/gjson"

	"parley/federation"
	"parley/federation/remote"
	"parley/federation/remote/keyring"
	"parley/internal/httpapi"
	"parley/internal/id"
	"parley/internal/matrixerr"
	"parley/internal/serverapi"
	"parley/internal/signedjson"
	"parley/internal/testserver/testnet"
	"parley/roomserver"
	"parley/storage"
	"parley/storage/storagetest"
	"parley/userserver"
)

// Server is one server, which lives as long as its test.
type Server struct {
	Name   id.ServerName
	Key    ed25519.PrivateKey // "ed25519:1"
	DB     *storage.DB
	Rooms  *roomserver.Server
	Users  *userserver.Server
	Remote *remote.Client

	web *http.Client
}

// New makes a server with a name such as "a.example", with the database at a URL of
// [storagetest.EachURL].
func New(t testing.TB, net *testnet.Net, url string, name id.ServerName) *Server {
	t.Helper()
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	s := &Server{Name: name, web: &http.Client{Transport: &http.Transport{DialContext: net.Dial, TLSClientConfig: net.TLS()}}}
	t.Cleanup(s.web.CloseIdleConnections)
	var err error
	_, s.Key, err = ed25519.GenerateKey(nil)
	ok(err)
	s.DB = storagetest.Open(t, url, nil)
	s.Remote, err = remote.New(remote.Options{
		DB: s.DB, Name: name, Keys: []keyring.SigningKey{{ID: "ed25519:1", Key: s.Key}},
		Dial: net.Dial, LookupSRV: net.LookupSRV, TLS: net.TLS(), UserAgent: "Parley/test",
	})
	ok(err)
	t.Cleanup(s.Remote.Close)
	s.Rooms, err = roomserver.New(roomserver.Options{DB: s.DB, Name: name, KeyID: "ed25519:1", Key: s.Key, DefaultVersion: "12", Remote: s.Remote})
	ok(err)
	s.Users = userserver.New(userserver.Options{DB: s.DB, ServerName: name, Rooms: s.Rooms, Remote: s.Remote})
	t.Cleanup(s.Users.Close)
	face, err := federation.New(federation.Options{
		Remote: s.Remote, Rooms: s.Rooms, Users: s.Users, Directory: true, Version: "test",
		ReceiveEDU: func(context.Context, id.ServerName, serverapi.EDU) error {
			return matrixerr.New(matrixerr.Unrecognized, "no EDUs in this test")
		},
		Heard: func(id.ServerName) {},
		Log:   slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry(),
	})
	ok(err)
	api, err := httpapi.New(httpapi.Options{VerifyServer: s.Remote.VerifyRequest}, face.Routes())
	ok(err)
	net.Serve(t, string(name)+":8448", []string{string(name)}, api)
	return s
}

// User is one of the server's, who need not have an account.
func (s *Server) User(localpart string) id.UserID { return id.NewUserID(localpart, s.Name) }

// Ask makes a signed request of another server, as it is written: for what [remote.Client] does not
// or would not ask. Path begins with /_matrix/federation.
//
// spec: server-server-api.md#request-authentication
func (s *Server) Ask(t testing.TB, to id.ServerName, method, path string, body any) (status int, answer []byte) {
	t.Helper()
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	signed := map[string]any{"method": method, "uri": path, "origin": s.Name, "destination": to}
	var content []byte
	if body != nil {
		var err error
		content, err = json.Marshal(body)
		ok(err)
		signed["content"] = json.RawMessage(content)
	}
	object, err := json.Marshal(signed)
	ok(err)
	object, err = signedjson.Sign(object, string(s.Name), "ed25519:1", s.Key)
	ok(err)
	signature := gjson.GetBytes(object, "signatures.*.*").Str
	req, err := http.NewRequestWithContext(context.Background(), method, "https://"+string(to)+":8448"+path, bytes.NewReader(content))
	ok(err)
	req.Header.Set("Authorization", fmt.Sprintf("X-Matrix origin=%q,destination=%q,key=%q,sig=%q", s.Name, to, "ed25519:1", signature))
	resp, err := s.web.Do(req)
	ok(err)
	defer resp.Body.Close()
	answer, err = io.ReadAll(resp.Body)
	ok(err)
	return resp.StatusCode, answer
}

// Push sends events of a room to another server, as a transaction.
func (s *Server) Push(t testing.TB, to id.ServerName, txn string, events ...id.EventID) {
	t.Helper()
	rows, err := storage.Get(context.Background(), s.DB, func(tx *storage.Tx) ([]storage.Event, error) { return tx.ListEvents(events) })
	if err != nil {
		t.Fatal(err)
	}
	pdus := make(map[id.EventID]json.RawMessage)
	for _, row := range rows {
		pdus[row.ID] = row.JSON
	}
	transaction := &serverapi.Transaction{Origin: s.Name}
	for _, e := range events {
		transaction.PDUs = append(transaction.PDUs, pdus[e])
	}
	result, err := s.Remote.SendTransaction(context.Background(), to, txn, transaction)
	if err != nil {
		t.Fatal(err)
	}
	for event, r := range result.PDUs {
		if r.Error != "" {
			t.Errorf("%s refuses %s: %s", to, event, r.Error)
		}
	}
}
