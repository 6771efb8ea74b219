package mail_test

import (
	"io"
	"mime/quotedprintable"
	"net"
	"strings"
	"testing"

	"github.com/emersion/go-smtp"

	"parley/internal/mail"
)

// office is an SMTP server that takes one mail.
type office struct {
	to    string
	mails chan string
}

func (o *office) NewSession(*smtp.Conn) (smtp.Session, error) { return o, nil }
func (o *office) Mail(string, *smtp.MailOptions) error        { return nil }
func (o *office) Rcpt(to string, _ *smtp.RcptOptions) error   { o.to = to; return nil }
func (o *office) Reset()                                      {}
func (o *office) Logout() error                               { return nil }
func (o *office) Data(r io.Reader) error {
	text, err := io.ReadAll(r)
	o.mails <- string(text)
	return err
}

func TestNotify(t *testing.T) {
	o := &office{mails: make(chan string, 1)}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := smtp.NewServer(o)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	t.Cleanup(func() { server.Close(); <-served })
	mailer, err := mail.New(mail.Options{Host: "127.0.0.1", Port: listener.Addr().(*net.TCPAddr).Port, Encryption: mail.None,
		From: "x.org <noreply@x.org>", ServerName: "x.org"})
	if err != nil {
		t.Fatal(err)
	}
	news := &mail.News{User: "@bob:x.org", More: 3, Rooms: []mail.RoomNews{
		{Name: "Tea <b>", Messages: []mail.Message{{Sender: "Älice", Text: "hello\r\nBcc: eve@x.org"}, {Sender: "Carol", Text: "<script>"}}},
		{Name: "Work", Messages: []mail.Message{{Sender: "Dave", Text: "now"}}},
	}}
	if err := mailer.Notify(t.Context(), "bob@y.org", news); err != nil {
		t.Fatal(err)
	}
	text := <-o.mails
	head, _, _ := strings.Cut(text, "\r\n\r\n")
	if o.to != "bob@y.org" || strings.Contains(head, "Bcc") {
		t.Errorf("to %s:\n%s", o.to, head)
	}
	body, err := io.ReadAll(quotedprintable.NewReader(strings.NewReader(text)))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"Hello @bob:x.org", "Tea <b>", "Tea &lt;b&gt;", "Älice: hello", "&lt;script&gt;", "Work", "And 3 more."} {
		if !strings.Contains(string(body), want) {
			t.Errorf("the mail does not have %q", want)
		}
	}
}
