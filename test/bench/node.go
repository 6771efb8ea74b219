package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"parley/internal/id"
	"parley/roomserver"
	"parley/storage"
	"parley/userserver"
)

// ground is a database that is being filled before the node starts: what would take hours
// through HTTP, as passwords are expensive on purpose.
type ground struct {
	dir  string
	name id.ServerName
	// certificate is the file of the certificate, and of its key, with which the node serves others at
	// its name, and which it trusts; "" on a node that has nothing to do with others.
	certificate string

	db    *storage.DB // nil while the node has it
	rooms *roomserver.Server
	users *userserver.Server
}

// ground is one of a node that has nothing to do with others.
func (b *bench) ground(dir string) (*ground, error) {
	g := &ground{dir: filepath.Join(b.scratch, dir), name: "localhost"}
	return g, g.lay()
}

// keyID and key are those with which every node here signs.
const keyID = "ed25519:bench"

var key = ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))

// lay makes an empty database.
func (g *ground) lay() error {
	if err := os.RemoveAll(g.dir); err != nil {
		return err
	}
	if err := os.MkdirAll(g.dir, 0o700); err != nil {
		return err
	}
	line := "ed25519 bench " + base64.RawStdEncoding.EncodeToString(key.Seed()) + "\n"
	if err := os.WriteFile(filepath.Join(g.dir, "signing.key"), []byte(line), 0o600); err != nil {
		return err
	}
	return g.open()
}

// open opens the database, which no node has at the time.
func (g *ground) open() (err error) {
	g.db, err = storage.Open(context.Background(), storage.Options{URL: filepath.Join(g.dir, "parley.db"), Durability: storage.Relaxed})
	if err != nil {
		return err
	}
	g.rooms, err = roomserver.New(roomserver.Options{DB: g.db, Name: g.name, KeyID: keyID, Key: key, DefaultVersion: "12"})
	if err != nil {
		return err
	}
	g.users = userserver.New(userserver.Options{DB: g.db, ServerName: g.name, Rooms: g.rooms})
	return nil
}

// user is an account with a session.
type user struct {
	id    id.UserID
	token string
}

// makeUsers makes n accounts called prefix0, prefix1, …
func (g *ground) makeUsers(prefix string, n int) ([]user, error) {
	out := make([]user, n)
	const workers = 64
	err := each(workers, func(w int) error {
		for i := w; i < n; i += workers {
			s, err := g.users.Register(context.Background(), userserver.Registration{Localpart: prefix + strconv.Itoa(i)})
			if err != nil {
				return err
			}
			out[i] = user{s.User, s.AccessToken}
		}
		return nil
	})
	return out, err
}

// makeRoom makes a public room of the given users; the first creates it.
func (g *ground) makeRoom(members []user) (id.RoomID, error) {
	ctx := context.Background()
	room, err := g.rooms.Create(ctx, roomserver.CreateRequest{Creator: members[0].id, Preset: "public_chat"})
	if err != nil {
		return "", err
	}
	const workers = 64
	return room, each(workers, func(w int) error {
		for i := 1 + w; i < len(members); i += workers {
			if err := g.rooms.Join(ctx, roomserver.MemberRequest{Room: room, Sender: members[i].id}); err != nil {
				return err
			}
		}
		return nil
	})
}

func (g *ground) say(room id.RoomID, sender user, n int) error {
	const workers = 32
	return each(workers, func(w int) error {
		for i := w; i < n; i += workers {
			_, err := g.rooms.Send(context.Background(), roomserver.SendRequest{Room: room, Sender: sender.id, Type: "m.room.message",
				Content: []byte(message(i))})
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// message is the content of a message of usual length.
func message(i int) string {
	return `{"body":"This is message number ` + strconv.Itoa(i) + `, about as long as people write.","msgtype":"m.text"}`
}

func (g *ground) close() error {
	if g.db == nil {
		return nil
	}
	g.users.Close()
	db := g.db
	g.db = nil
	return db.Close()
}

// node is a running server.
type node struct {
	address, metrics string
	cmd              *exec.Cmd
}

var pointClient = regexp.MustCompile(`listening.*package=(\w+) address=(\S+)`)

// start runs the binary on what was laid.
func (b *bench) start(g *ground, durability string) (*node, error) {
	if err := g.close(); err != nil {
		return nil, err
	}
	config := filepath.Join(g.dir, "parley.yaml")
	text := "server_name: " + string(g.name) + "\ndata_dir: " + g.dir + "\nregistration: {allow: anyone}\n" +
		"rate_limits: {enabled: false}\nlimits: {upload_size: 200 MiB}\nmetrics: {address: 127.0.0.1:0}\ndatabase: {durability: " + durability + "}\n" +
		"listeners:\n  client: {address: 127.0.0.1:0}\n"
	if g.certificate != "" {
		text += "  federation: {address: " + string(g.name) + ", tls_certificate: " + g.certificate + ", tls_key: " + g.certificate + "}\n" +
			"outgoing: {allow_networks: [127.0.0.1]}\nfederation: {notaries: []}\n"
	} else {
		text += "federation: {enabled: false}\n"
	}
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return nil, err
	}
	n := &node{cmd: exec.Command(b.binary, "serve", "--config", config)}
	logFile, err := os.Create(filepath.Join(g.dir, "log"))
	if err != nil {
		return nil, err
	}
	defer logFile.Close()
	n.cmd.Stderr = logFile
	if g.certificate != "" {
		n.cmd.Env = append(os.Environ(), "SSL_CERT_FILE="+g.certificate)
	}
	if err := n.cmd.Start(); err != nil {
		return nil, err
	}
	for range 200 {
		time.Sleep(50 * time.Millisecond)
		text, err := os.ReadFile(logFile.Name())
		if err != nil {
			return nil, err
		}
		for _, m := range pointClient.FindAllStringSubmatch(string(text), -1) {
			switch {
			case m[1] == "metrics":
				n.metrics = m[2]
			case m[2] != string(g.name): // where it serves clients
				n.address = m[2]
			}
		}
		if n.address != "" && n.metrics != "" {
			return n, nil
		}
	}
	n.stop()
	return nil, fmt.Errorf("the node did not start: see %s", logFile.Name())
}

func (n *node) stop() {
	n.cmd.Process.Signal(syscall.SIGTERM)
	n.cmd.Wait()
}

// usage is what a process has used so far.
type usage struct {
	cpu          time.Duration
	written      int64
	transactions int64
	at           time.Time
}

func (n *node) usage() (usage, error) {
	pid := n.cmd.Process.Pid
	u := usage{at: time.Now()}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return u, err
	}
	// The fields after the name, which may have spaces, from "state" on.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+2:]))
	if len(fields) < 13 {
		return u, errors.New("unreadable /proc/PID/stat")
	}
	for _, f := range fields[11:13] {
		ticks, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return u, err
		}
		u.cpu += time.Duration(ticks) * time.Second / 100
	}
	if u.written, err = procNumber(pid, "io", "write_bytes:"); err != nil {
		return u, err
	}
	u.transactions, err = n.metric("parley_storage_transactions_total")
	return u, err
}

// since is what was used from then to now.
func (n *node) since(then usage) (usage, error) {
	now, err := n.usage()
	return usage{now.cpu - then.cpu, now.written - then.written, now.transactions - then.transactions, now.at}, err
}

// settle waits until the node has done what was left to it, as to make what was laid searchable.
func (n *node) settle() error {
	for calm := 0; calm < 3; {
		before, err := n.usage()
		if err != nil {
			return err
		}
		time.Sleep(200 * time.Millisecond)
		used, err := n.since(before)
		if err != nil {
			return err
		}
		if calm++; used.cpu > 10*time.Millisecond {
			calm = 0
		}
	}
	return nil
}

// memory is the resident memory in bytes.
func (n *node) memory() (int64, error) {
	kb, err := procNumber(n.cmd.Process.Pid, "status", "VmRSS:")
	return kb << 10, err
}

func procNumber(pid int, file, name string) (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, file))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, name); ok {
			return strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
		}
	}
	return 0, fmt.Errorf("no %s in /proc/PID/%s", name, file)
}

func (n *node) metric(name string) (int64, error) {
	response, err := http.Get("http://" + n.metrics + "/metrics")
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	var text bytes.Buffer
	if _, err := text.ReadFrom(response.Body); err != nil {
		return 0, err
	}
	for line := range strings.Lines(text.String()) {
		if rest, ok := strings.CutPrefix(line, name+" "); ok {
			v, err := strconv.ParseFloat(strings.TrimSpace(rest), 64)
			return int64(v), err
		}
	}
	return 0, fmt.Errorf("no metric %s", name)
}
