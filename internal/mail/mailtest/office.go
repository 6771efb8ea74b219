// Package mailtest is a post office for tests: an SMTP server in the test's process that keeps
// the mails that it is given. It neither authenticates nor encrypts.
package mailtest

import (
	"errors"
	"fmt"
	"html"
	"io"
	"mime/quotedprintable"
	"net"
	"net/http"
	"net/url"
	"regexp"
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

// Settings have a node send its mail here, with links to https://matrix.example.org, which must be its
// well_known.client_base_url.
func (o *Office) Settings() string {
	return fmt.Sprintf("email:\n  host: 127.0.0.1\n  port: %d\n  encryption: none\n  from: noreply@example.org\n", o.Port)
}

var mailedLink = regexp.MustCompile(`https://matrix\.example\.org/[^\s"<]+`)

// Confirm follows the link of the last mail to an address, as its owner does; server is where the node with the
// Settings is in truth.
func (o *Office) Confirm(t testing.TB, server, address string) {
	t.Helper()
	mails := o.Take(address)
	if len(mails) == 0 {
		t.Fatalf("no mail to %s", address)
	}
	text, err := io.ReadAll(quotedprintable.NewReader(strings.NewReader(mails[len(mails)-1])))
	if err != nil {
		t.Fatal(err)
	}
	link, err := url.Parse(html.UnescapeString(mailedLink.FindString(string(text))))
	if err != nil || link.Path == "" {
		t.Fatalf("no link in the mail to %s: %s", address, text)
	}
	resp, err := http.Post(server+link.RequestURI(), "", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("the link of a mail: %s", resp.Status)
	}
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
