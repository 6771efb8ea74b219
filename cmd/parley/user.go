package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"parley/internal/id"
	"parley/storage"
	"parley/userserver"
)

func (m *Main) userCommand() *cobra.Command {
	c := group("user", "Make and change accounts, whether the server runs or not",
		m.userCreateCommand(), m.userListCommand(), m.userResetPasswordCommand(), m.userDeactivateCommand())
	c.Long = c.Short + `.

The configuration must be that of the server, and the command be run in the folder that the
server was started in, if paths are relative to it. A running server notices a change within
seconds.`
	c.PersistentFlags().StringVar(&m.dataDir, "data", "", "data `folder` of the server, if it was started with --data")
	return c
}

func (m *Main) userCreateCommand() *cobra.Command {
	var admin bool
	var passwordFile string
	c := &cobra.Command{
		Use:   "create NAME",
		Short: "Make an account",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return m.withUsers(c.Context(), true, func(ctx context.Context, users *userserver.Server) error {
				user, err := findUser(users, args[0])
				if err != nil {
					return err
				}
				password, err := m.password(passwordFile)
				if err != nil {
					return err
				}
				_, err = users.Register(ctx, userserver.Registration{
					Localpart: user.Localpart(), Password: password.text, Admin: admin, NoLogin: true})
				if err != nil {
					return err
				}
				role := ""
				if admin {
					role = ", an administrator"
				}
				fmt.Fprintf(m.Stdout, "Created %s%s%s.\n", user, role, password.note())
				return nil
			})
		},
	}
	c.Flags().BoolVar(&admin, "admin", false, "make an administrator of the server")
	passwordFlag(c, &passwordFile)
	return c
}

func (m *Main) userListCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List all accounts: user ID, day of creation, and what is special about it",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return m.withUsers(c.Context(), false, func(ctx context.Context, users *userserver.Server) error {
				const page = 1000
				var last id.UserID
				for {
					list, err := users.ListUsers(ctx, last, page)
					if err != nil {
						return err
					}
					for _, u := range list {
						fmt.Fprintf(m.Stdout, "%s\t%s\t%s\n", u.ID, time.UnixMilli(u.Created).UTC().Format(time.DateOnly), remarks(u))
						last = u.ID
					}
					if len(list) < page {
						return nil
					}
				}
			})
		},
	}
}

// remarks are what is special about an account.
func remarks(u storage.User) string {
	var list []string
	for _, r := range []struct {
		is   bool
		word string
	}{
		{u.Admin, "admin"}, {u.Guest, "guest"}, {u.AppService != "", "appservice " + u.AppService},
		{u.Locked, "locked"}, {u.Suspended, "suspended"}, {u.Deactivated, "deactivated"}, {u.Erased, "erased"},
	} {
		if r.is {
			list = append(list, r.word)
		}
	}
	return strings.Join(list, ", ")
}

func (m *Main) userResetPasswordCommand() *cobra.Command {
	var passwordFile string
	var keep bool
	c := &cobra.Command{
		Use:   "reset-password NAME",
		Short: "Give an account another password",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return m.withUsers(c.Context(), false, func(ctx context.Context, users *userserver.Server) error {
				user, err := findUser(users, args[0])
				if err != nil {
					return err
				}
				if _, err := users.GetUser(ctx, user); err != nil {
					return err
				}
				password, err := m.password(passwordFile)
				if err != nil {
					return err
				}
				if err := users.ChangePassword(ctx, user, password.text, !keep, 0); err != nil {
					return err
				}
				fmt.Fprintf(m.Stdout, "Changed the password of %s%s.\n", user, password.note())
				return nil
			})
		},
	}
	c.Flags().BoolVar(&keep, "keep-devices", false, "do not log the account's devices out")
	passwordFlag(c, &passwordFile)
	return c
}

func (m *Main) userDeactivateCommand() *cobra.Command {
	var erase bool
	c := &cobra.Command{
		Use:   "deactivate NAME",
		Short: "End an account for ever: nobody can log in to it, nor make another of its name",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return m.withUsers(c.Context(), false, func(ctx context.Context, users *userserver.Server) error {
				user, err := findUser(users, args[0])
				if err != nil {
					return err
				}
				if _, err := users.Deactivate(ctx, user, erase); err != nil {
					return err
				}
				fmt.Fprintf(m.Stdout, "Deactivated %s.\n", user)
				return nil
			})
		},
	}
	c.Flags().BoolVar(&erase, "erase", false, "hide what the user wrote from those who join later")
	return c
}

// withUsers runs fn on the accounts of the configured server. Only where create is set may
// the server be one that never ran.
func (m *Main) withUsers(ctx context.Context, create bool, fn func(context.Context, *userserver.Server) error) error {
	return m.withHearts(ctx, create, func(ctx context.Context, h *hearts) error { return fn(ctx, h.users) })
}

// findUser is the account that the operator means: "alice" or "@alice:example.org".
func findUser(users *userserver.Server, name string) (id.UserID, error) {
	if !strings.HasPrefix(name, "@") {
		return users.NewUserID(name)
	}
	user, err := id.ParseUserID(name)
	if err != nil {
		return "", err
	}
	if !users.Local(user) {
		return "", fmt.Errorf("%s is not an account of this server, which is called %s", user, users.ServerName())
	}
	return user, nil
}

// password is a new password.
type password struct {
	text   string
	madeUp bool
}

// note tells a password that nobody knows yet.
func (p password) note() string {
	if p.madeUp {
		return "; the password is " + p.text
	}
	return ""
}

func passwordFlag(c *cobra.Command, file *string) {
	c.Flags().StringVar(file, "password-file", "",
		"`file` with the password in its first line, or - for the standard input; without it a password is made up and printed")
}

func (m *Main) password(file string) (password, error) {
	var in io.Reader
	switch file {
	case "":
		return password{rand.Text(), true}, nil
	case "-":
		in = m.Stdin
	default:
		f, err := os.Open(file)
		if err != nil {
			return password{}, err
		}
		defer f.Close()
		in = f
	}
	line, err := bufio.NewReader(in).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return password{}, fmt.Errorf("read the password: %w", err)
	}
	line = strings.TrimRight(line, "\r\n")
	if line == "" {
		return password{}, errors.New("the password is empty")
	}
	return password{text: line}, nil
}
