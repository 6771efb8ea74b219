// Package mailtest is a post office for tests: an SMTP server in the test's process that keeps
// the mails that it is given. It neither authenticates nor encrypts.
package mailtest

import (
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/emersion/go-smtp"
)

// Office is a post office on a port of the loopback address.
type Office struct {
	Port int

	mu    sync.Mutex
	mails map[string][]string
}

// Open opens a post office until the end of the test. It takes mails to any address but those that
// begin with "refused@".
func Open(t testing.TB) *Office {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	o := &Office{Port: listener.Addr().(*net.TCPAddr).Port, mails: make(map[string][]string)}
	server := smtp.NewServer(o)
	server.Domain = "post.example"
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	t.Cleanup(func() {
		server.Close()
		if err := <-served; err != nil && !errors.Is(err, smtp.ErrServerClosed) {
			t.Error(err)
		}
	})
	return o
}

// Take gives the mails to an address as they came, the oldest first, and keeps them no longer.
func (o *Office) Take(address string) []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	mails := o.mails[address]
	delete(o.mails, address)
	return mails
}

// NewSession begins to take a mail. It is part of [smtp.Backend].
func (o *Office) NewSession(*smtp.Conn) (smtp.Session, error) { return &session{office: o}, nil }

type session struct {
	office *Office
	to     string
}

func (s *session) Mail(string, *smtp.MailOptions) error { return nil }
func (s *session) Reset()                               {}
func (s *session) Logout() error                        { return nil }

func (s *session) Rcpt(to string, _ *smtp.RcptOptions) error {
	if strings.HasPrefix(to, "refused@") {
		return &smtp.SMTPError{Code: 550, Message: "no such mailbox"}
	}
	s.to = to
	return nil
}

func (s *session) Data(r io.Reader) error {
	text, err := io.ReadAll(r)
	s.office.mu.Lock()
	defer s.office.mu.Unlock()
	s.office.mails[s.to] = append(s.office.mails[s.to], string(text))
	return err
}
