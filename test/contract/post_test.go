package contract

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

	"parley/test/harness"
)

// postOffice is an SMTP server that keeps the last mail to each address.
type postOffice struct {
	port int

	mu    sync.Mutex
	mails map[string]string
}

func newPostOffice(t *testing.T) *postOffice {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &postOffice{port: listener.Addr().(*net.TCPAddr).Port, mails: make(map[string]string)}
	server := smtp.NewServer(p)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	t.Cleanup(func() {
		server.Close()
		if err := <-served; err != nil && !errors.Is(err, smtp.ErrServerClosed) {
			t.Error(err)
		}
	})
	return p
}

// settings have a node send its mail here.
func (p *postOffice) settings() string {
	return fmt.Sprintf("email:\n  host: 127.0.0.1\n  port: %d\n  encryption: none\n  from: noreply@example.org\n", p.port)
}

func (p *postOffice) NewSession(*smtp.Conn) (smtp.Session, error) { return &delivery{office: p}, nil }

type delivery struct {
	office *postOffice
	to     string
}

func (d *delivery) Mail(string, *smtp.MailOptions) error { return nil }
func (d *delivery) Reset()                               {}
func (d *delivery) Logout() error                        { return nil }

func (d *delivery) Rcpt(to string, _ *smtp.RcptOptions) error {
	d.to = to
	return nil
}

func (d *delivery) Data(r io.Reader) error {
	text, err := io.ReadAll(r)
	d.office.mu.Lock()
	defer d.office.mu.Unlock()
	d.office.mails[d.to] = string(text)
	return err
}

var mailedLink = regexp.MustCompile(`https://matrix\.example\.org/[^\s"<]+`)

// confirm follows the link of the last mail to an address, as its owner does.
func (s *scene) confirm(address string) {
	s.t.Helper()
	s.post.mu.Lock()
	mail := s.post.mails[address]
	s.post.mu.Unlock()
	text, err := io.ReadAll(quotedprintable.NewReader(strings.NewReader(mail)))
	if err != nil {
		s.t.Fatal(err)
	}
	link, err := url.Parse(html.UnescapeString(mailedLink.FindString(string(text))))
	if err != nil || link.Path == "" {
		s.t.Fatalf("no link in the mail to %s: %s", address, text)
	}
	req, err := http.NewRequestWithContext(s.t.Context(), http.MethodPost, s.server.URL+link.RequestURI(), nil)
	if err != nil {
		s.t.Fatal(err)
	}
	if resp := harness.Send(req); resp.Status != http.StatusOK {
		s.t.Fatalf("the link of a mail: %d %s", resp.Status, resp.Body)
	}
}
