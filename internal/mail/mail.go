// Package mail sends people mail through an operator's SMTP server: links by which they show
// that an address is theirs, and what they have not read. Each mail has a plain part and an HTML part, made of templates.
//
// Whom to send what, and whether a link is good, is not its business.
package mail

import (
	"context"
	"crypto/tls"
	"embed"
	"errors"
	"fmt"
	htmltemplate "html/template"
	"strings"
	texttemplate "text/template"
	"time"

	gomail "github.com/wneessen/go-mail"
)

// Encryption is how the connection to the SMTP server is kept from others.
type Encryption string

// The ways: STARTTLS on a plain connection, TLS from the beginning, or none at all, for a
// server on the same machine.
const (
	StartTLS Encryption = "starttls"
	TLS      Encryption = "tls"
	None     Encryption = "none"
)

// Options says through which server to send. Host, Port and From must be given.
type Options struct {
	Host       string
	Port       int
	Encryption Encryption
	// Username and Password are "" where the server asks for none.
	Username, Password string
	// From is who sends: "Example <noreply@example.org>".
	From string
	// ServerName is what the mails call this node.
	ServerName string
	// TLS is for tests; nil for the system's roots.
	TLS *tls.Config
}

// Kind is what a mail is about.
type Kind string

// What mails are about.
const (
	// Register confirms the address of one who makes an account.
	Register Kind = "register"
	// Add confirms an address that is added to an account.
	Add Kind = "add"
	// Reset confirms who wants a new password.
	Reset Kind = "reset"
)

var subjects = map[Kind]string{
	Register: "Confirm your email address for %s",
	Add:      "Confirm your email address for %s",
	Reset:    "Reset your password at %s",
}

//go:embed templates
var templates embed.FS

// timeout bounds the sending of one mail.
const timeout = 30 * time.Second

// Mailer sends mail. It is safe for concurrent use.
type Mailer struct {
	o     Options
	plain *texttemplate.Template
	html  *htmltemplate.Template
}

// New makes a mailer; it does not connect yet.
func New(o Options) (*Mailer, error) {
	if o.Host == "" || o.Port == 0 || o.From == "" {
		return nil, errors.New("mail: host, port and sender must be given")
	}
	plain, err := texttemplate.ParseFS(templates, "templates/*.txt")
	if err != nil {
		return nil, fmt.Errorf("mail: %w", err)
	}
	html, err := htmltemplate.ParseFS(templates, "templates/*.html")
	if err != nil {
		return nil, fmt.Errorf("mail: %w", err)
	}
	m := &Mailer{o, plain, html}
	if err := gomail.NewMsg().From(o.From); err != nil {
		return nil, fmt.Errorf("mail: the sender %q: %w", o.From, err)
	}
	_, err = m.client()
	return m, err
}

func (m *Mailer) client() (*gomail.Client, error) {
	options := []gomail.Option{gomail.WithPort(m.o.Port), gomail.WithTimeout(timeout)}
	switch m.o.Encryption {
	case TLS:
		options = append(options, gomail.WithSSL())
	case None:
		options = append(options, gomail.WithTLSPolicy(gomail.NoTLS))
	default:
		options = append(options, gomail.WithTLSPolicy(gomail.TLSMandatory))
	}
	if m.o.TLS != nil {
		options = append(options, gomail.WithTLSConfig(m.o.TLS))
	}
	if m.o.Username != "" {
		options = append(options, gomail.WithSMTPAuth(gomail.SMTPAuthAutoDiscover),
			gomail.WithUsername(m.o.Username), gomail.WithPassword(m.o.Password))
	}
	c, err := gomail.NewClient(m.o.Host, options...)
	if err != nil {
		return nil, fmt.Errorf("mail: %w", err)
	}
	return c, nil
}

// page is what a template is made with.
type page struct {
	Server, Link string
}

// Send sends a mail with a link to an address.
func (m *Mailer) Send(ctx context.Context, to string, kind Kind, link string) error {
	return m.send(ctx, to, string(kind), fmt.Sprintf(subjects[kind], m.o.ServerName), page{m.o.ServerName, link})
}

// News is what somebody has not read.
type News struct {
	User  string
	Rooms []RoomNews
	// More is how much there is besides.
	More int
}

// RoomNews is what somebody has not read in one room.
type RoomNews struct {
	Name     string
	Messages []Message
}

// Message is what was said, or what happened, in a line or a few.
type Message struct {
	Sender, Text string
}

// Notify sends a mail with what somebody has not read.
func (m *Mailer) Notify(ctx context.Context, to string, n *News) error {
	return m.send(ctx, to, "notify", fmt.Sprintf("News for you at %s", m.o.ServerName), struct {
		Server string
		*News
	}{m.o.ServerName, n})
}

// send makes a mail of a pair of templates, and sends it.
func (m *Mailer) send(ctx context.Context, to, template, subject string, about any) error {
	var plain, html strings.Builder
	if err := m.plain.ExecuteTemplate(&plain, template+".txt", about); err != nil {
		return fmt.Errorf("mail: %w", err)
	}
	if err := m.html.ExecuteTemplate(&html, template+".html", about); err != nil {
		return fmt.Errorf("mail: %w", err)
	}
	msg := gomail.NewMsg()
	if err := errors.Join(msg.From(m.o.From), msg.To(to)); err != nil {
		return fmt.Errorf("mail: %w", err)
	}
	msg.Subject(subject)
	msg.SetBodyString(gomail.TypeTextPlain, plain.String())
	msg.AddAlternativeString(gomail.TypeTextHTML, html.String())
	msg.SetMessageID()
	msg.SetDate()
	c, err := m.client()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if err := c.DialAndSendWithContext(ctx, msg); err != nil {
		return fmt.Errorf("send mail: %w", err)
	}
	return nil
}
